"""Graph passes, in the order in which :func:`prepare` runs them."""

from __future__ import annotations

from tvm_schedules.common.reading import reading_model
from tvm_schedules.ir.graph import Graph

__all__ = ["prepare"]


@reading_model()
def prepare(graph: Graph) -> Graph:
    """Recognizes weights, then fuses; returns the same graph, changed.

    Raises:
        ModelError: Something in the graph does not fit together.
    """
    from tvm_schedules.passes import fuse, quantized, recurrent, row_scales, single_pixels, subsample, weights

    weights.run(graph)
    row_scales.run(graph)
    single_pixels.run(graph)
    quantized.run(graph)
    subsample.run(graph)
    recurrent.run(graph)
    fuse.run(graph)
    graph.prune()
    return graph
