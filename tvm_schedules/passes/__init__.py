"""Graph passes, in the order in which :func:`prepare` runs them."""

from __future__ import annotations

from ..graph import Graph
from ..reading import reading_model

__all__ = ["prepare"]


@reading_model()
def prepare(graph: Graph) -> Graph:
    """Recognises weights, then fuses; returns the same graph, changed.

    Raises:
        ModelError: Something in the graph does not fit together.
    """
    from . import fuse, quantized, subsample, weights

    weights.run(graph)
    quantized.run(graph)
    subsample.run(graph)
    fuse.run(graph)
    graph.prune()
    return graph
