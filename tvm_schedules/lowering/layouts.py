"""Chooses the memory layout of every tensor that a kernel reads or writes in planes.

A tensor has a home layout, in which its producer writes it, and further ones where a consumer needs something else
(phases of a strided convolution, another halo value, rows of a linear layer). A kernel reads and writes at one
pitch, so the pitches of the layouts that kernels tie together are made equal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, prod

import numpy as np

from tvm_schedules.ir.graph import GlobalPool, Graph, Linear, Node, Pool, Windowed, channel_shape
from tvm_schedules.ir.layout import Halo, Triple, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor

__all__ = ["LOWEST", "Key", "Layouts", "home", "in_planes", "in_rows", "input_key", "view", "window_of"]

LOWEST = -3.4028234663852886e38
"""The smallest float32: what surrounds an image under a maximum."""


MANY_ZEROS = 0.75
"""Share of zeros of a layer from which panels gain by rows of whole vectors."""

SPARSE_ROWS = 16
"""Rows from which a ternary linear layer is cheaper with rows in the vector lanes than with output channels there."""


@dataclass(frozen=True)
class Key:
    """A layout of a tensor: ``rows`` reads ``[..., K]`` as K planes of rows, else ``[N, C, ...]`` as N x C planes."""

    value: str
    rows: bool = False
    phase: Triple = (1, 1, 1)
    fill: float = 0.0


@dataclass
class _Need:
    lo: list[int] = field(default_factory=lambda: [0, 0, 0])
    hi: list[int] = field(default_factory=lambda: [0, 0, 0])
    pitch: list[int] = field(default_factory=lambda: [1, 1])


def view(graph: Graph, name: str, rows: bool) -> tuple[int, int, Triple]:
    """Batch, channels and spatial size of a tensor seen as planes."""
    shape = graph.values[name].shape
    if rows:
        return 1, shape[-1], (1, 1, prod(shape[:-1]))
    return shape[0], shape[1], channel_shape(shape)


def window_of(node: Node) -> Window:
    """The window of a node that works in planes."""
    return node.window if isinstance(node, Windowed | Pool) else Window((1, 1, 1))


def home(graph: Graph, name: str, rows: bool = False) -> Key:
    """The key of a tensor's home layout."""
    quant = graph.values[name].quant
    return Key(name, rows, fill=float(quant.zero_point) if quant else 0.0)


def input_key(graph: Graph, node: Node) -> Key:
    """The layout in which a node reads its data."""
    name = node.inputs[0]
    base = home(graph, name, isinstance(node, Linear))
    window = window_of(node)
    fill = base.fill
    if isinstance(node, Pool) and node.kind == "max" and any(max(pair) > 0 for pair in window.pads):
        fill = 0.0 if graph.values[name].dtype == "uint8" else LOWEST
    return Key(name, base.rows, window.strides, fill)


def in_rows(graph: Graph, node: Node) -> bool:
    """Whether a pooling is a maximum of bytes as they are, in images of one or two dimensions, two pixels a step.

    Such a one can be read without phases. What is outside of the image must not be larger than what is in it.
    """
    if not isinstance(node, Pool) or node.kind != "max" or node.residual:
        return False
    source, target, window = graph.values[node.inputs[0]], graph.values[node.outputs[0]], node.window
    if source.quant is None or source.quant != target.quant or source.dtype != "uint8":
        return False
    low, high = (bound / source.quant.scale + source.quant.zero_point for bound in (node.clip.low, node.clip.high))
    flat = window.kernel[0] == window.strides[0] == channel_shape(source.shape)[0] == 1 and window.strides[2] == 2
    reach = _reach(window, channel_shape(source.shape))
    inside = source.quant.zero_point == 0 or not any(max(side) for side in reach)
    same = np.all(node.scale == 1) and not np.any(node.bias) and low <= 0 and high >= 255
    return bool(flat and inside and same)


def _reach(window: Window, dims: Triple) -> tuple[Triple, Triple]:
    """How many pixels before and after an image, in each dimension, a window reads."""
    lo = [before for before, _ in window.pads]
    hi = [
        max(0, (out - 1) * step + (taps - 1) * dilation - before + 1 - size)
        for out, step, taps, dilation, before, size in zip(
            window.output(dims), window.strides, window.kernel, window.dilations, lo, dims, strict=True
        )
    ]
    return (lo[0], lo[1], lo[2]), (hi[0], hi[1], hi[2])


def in_planes(graph: Graph, node: Node) -> bool:
    """Whether a node works in planes. A ternary linear layer does where there are enough rows for the vector lanes."""
    if isinstance(node, Linear):
        rows = prod(graph.values[node.inputs[0]].shape[:-1])
        return isinstance(node.weight, TernaryTensor) and rows >= SPARSE_ROWS
    return isinstance(node, Windowed | Pool | GlobalPool)


def _widened(rows: int, pitch: int, width: int, vector: int, few: bool) -> int:
    """A part of a vector as the pitch of images a little narrower, so that panels can interleave rows.

    A quarter, where that makes them no more vectors. Half of a vector or all of it too, where it is at most an eighth
    more and layers gain by it: those of ``few`` taps whose rows leave room for a byte behind every seven.

    Args:
        rows: Rows of an image with its halo.
        pitch: Bytes a row at least.
        width: Pixels of an image's row.
        vector: Bytes of a vector.
        few: Whether layers have few taps.
    """
    quarter = vector // 4
    same = -(-rows * pitch // vector) == -(-rows * quarter // vector)
    if pitch < quarter and 4 * pitch > 3 * quarter and same:
        return quarter
    for wide in (vector // 2, vector) if few else ():
        if width <= wide // 8 * 7 and pitch <= wide and 8 * wide <= 9 * pitch:
            return wide
    return pitch


class Layouts:
    """Solves the layouts of a graph; ``layouts[key]`` is a :class:`Halo`."""

    def __init__(
        self,
        graph: Graph,
        planes: list[Node],
        make: type[Halo] = Halo,
        vector: int = 0,
        rows: bool = False,
        apart: bool = False,
    ) -> None:
        """Lays out what nodes that work in planes read and write.

        Args:
            graph: The network.
            planes: The nodes that work in planes; linear layers only where they shall.
            make: Class of the layouts.
            vector: Bytes of a vector, where rows of a part of it are of use; else 0.
            rows: Whether poolings that can be read without phases are: see :func:`in_rows`.
            apart: Whether kernels may write images of two dimensions at another pitch than they read them.
        """
        self.graph, self._make, self._rows = graph, make, rows
        self._tied = Layouts(graph, planes, make, vector, rows) if apart else None
        self._parent: dict[Key, Key] = {}
        self._needs: dict[Key, _Need] = {}
        self._windows: dict[Key, bool] = {}
        """Inputs of layers that may read panels, and whether these have few taps."""
        for node in planes:
            self._add(node)
        pitches: dict[Key, list[int]] = {}
        widths: dict[Key, int] = {}
        for key, need in self._needs.items():
            grid = self._grid(key)
            root = self._root(key)
            found = pitches.setdefault(root, [1, 1])
            widths[root] = max(widths.get(root, 0), grid[2])
            for axis in (0, 1):
                span = grid[axis + 1] + max(need.lo[axis + 1], need.hi[axis + 1])
                found[axis] = max(found[axis], span, need.pitch[axis])
        for root in {self._root(key) for key in self._windows} if vector else ():
            few = all(few for key, few in self._windows.items() if self._root(key) == root)
            pitches[root][1] = _widened(pitches[root][0], pitches[root][1], widths[root], vector, few)
        self._layouts = {key: self._halo(key, pitches[self._root(key)]) for key in self._needs}

    def __getitem__(self, key: Key) -> Halo:
        return self._layouts[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._layouts

    def reads_rows(self, node: Node) -> bool:
        """Whether a node has to read its data in rows: there is no other layout for it then."""
        return self._rows and in_rows(self.graph, node)

    def _add(self, node: Node) -> None:
        if self.reads_rows(node):
            name = node.inputs[0]
            self._reads(home(self.graph, name), *_reach(window_of(node), view(self.graph, name, False)[2]))
            self._need(home(self.graph, node.outputs[0]))
            return
        key, window = input_key(self.graph, node), window_of(node)
        dims = view(self.graph, key.value, key.rows)[2]
        need = self._need(key)
        if isinstance(node, GlobalPool):
            if self._tied is not None:  # floats add up to the same numbers where they lie as on other targets
                need.pitch = list(self._tied[key].pitch)
            return
        weight = getattr(node, "weight", None)
        integers = self.graph.values[key.value].dtype == "uint8"
        if isinstance(weight, TernaryTensor) and integers and window.groups == 1 and prod(window.kernel) > 1:
            self._windows[key] = self._windows.get(key, True) and weight.sparsity() >= MANY_ZEROS
        self._reads(key, *window.halo(dims))
        size = window.output(dims)
        need.pitch = [max(a, b) for a, b in zip(need.pitch, size[1:], strict=True)]
        out = home(self.graph, node.outputs[0], key.rows)
        self._need(out)
        if self._tied is None or max(dims[0], size[0]) > 1 or view(self.graph, key.value, key.rows)[0] > 1:
            self._union(key, out)
        residual = getattr(node, "residual", None)
        if residual:
            other = home(self.graph, residual, key.rows)
            self._need(other)
            self._union(other, key)

    def _reads(self, key: Key, lo: Triple, hi: Triple) -> None:
        """Notes how far before and after the image a node reads."""
        need = self._need(key)
        need.lo = [max(a, b) for a, b in zip(need.lo, lo, strict=True)]
        need.hi = [max(a, b) for a, b in zip(need.hi, hi, strict=True)]

    def _need(self, key: Key) -> _Need:
        self._parent.setdefault(key, key)
        return self._needs.setdefault(key, _Need())

    def _root(self, key: Key) -> Key:
        while self._parent[key] != key:
            key = self._parent[key]
        return key

    def _union(self, a: Key, b: Key) -> None:
        self._parent[self._root(a)] = self._root(b)

    def _grid(self, key: Key) -> Triple:
        d, h, w = (ceil(n / s) for n, s in zip(view(self.graph, key.value, key.rows)[2], key.phase, strict=True))
        return d, h, w

    def _halo(self, key: Key, pitch: list[int]) -> Halo:
        need = self._needs[key]
        batch, channels, dims = view(self.graph, key.value, key.rows)
        lo, hi = (need.lo[0], need.lo[1], need.lo[2]), (need.hi[0], need.hi[1], need.hi[2])
        dtype = self.graph.values[key.value].dtype
        return self._make(batch, channels, dims, dtype, (pitch[0], pitch[1]), lo, hi, key.phase, key.fill)
