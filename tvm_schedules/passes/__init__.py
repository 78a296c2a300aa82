"""Graph passes, in the order in which :func:`prepare` runs them."""

from __future__ import annotations

from ..graph import Graph

__all__ = ["prepare"]


def prepare(graph: Graph) -> Graph:
    """Recognises weights, then fuses; returns the same graph, changed."""
    from . import fuse, quantized, subsample, weights

    weights.run(graph)
    quantized.run(graph)
    subsample.run(graph)
    fuse.run(graph)
    graph.prune()
    return graph
