"""Attention: products of queries and keys, softmax, and products with values, some rows of queries at a time.

The scores of a block of queries stay in the nearest caches and are never a tensor in memory (as in FlashAttention,
2022, but for all keys at once). Keys and values are arranged in panels of some vectors once for a pair of matrices, out
of wherever they lie: rows of tokens, or planes that a layer of many rows wrote.

Where the results are rounded to 8 bits, x86 multiplies queries and keys as integers of 16 bits
(:mod:`.common.attention_pairs`), exactly where queries and keys are bytes. The weights of values stay float32, for many
small ones can weigh as much as a large one. Then results are those of the C form, bit for bit, on every x86 CPU with a
fused multiply-add: that asks for one order of sums, which are made in :data:`PARTS` parts.

Bound by the multiply-adds, and by the exponential function, about a tenth of them at 64 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.attention_pairs import PairScores
from tvm_schedules.backends.cpu.kernels.common.attention_panels import Copy, Panels
from tvm_schedules.backends.cpu.kernels.common.attention_spec import LOG2E, MOST_INNER, Matrices, Spec
from tvm_schedules.backends.cpu.kernels.common.exponentials import exp2
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Attention, Fused, Graph
from tvm_schedules.ir.layout import Halo
from tvm_schedules.ir.view import View
from tvm_schedules.lowering.layouts import home
from tvm_schedules.lowering.steps import Buffer

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "attention"
"""What artifacts and tuning databases call this kernel."""

PARTS = 16
"""Partial sums of the weights of a row; a vector register has no more of them on any CPU."""

_LOWEST = -126.0
"""Two to the power of less is taken for that of this, 1e-38."""
_SMALLEST = -3.4028234663852886e38
"""The smallest float32 that is a number."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``q, k, v, [masks,] out``."""
    ends = [spec.q, spec.k, spec.v, *spec.masks, spec.out]
    names = ["q", "k", "v", *(f"mask{i}" for i in range(len(spec.masks))), "out"]

    def body(e: Emitter, *pointers: Any) -> None:
        views = [e.view(p, end.elements, "float32") for p, end in zip(pointers, ends, strict=True)]
        lead = spec.q.view.shape[:-2]
        with e.jobs(prod(lead), spec.parallel) as job:
            _Code(e, spec, views, [e.bind(_start(e, end.view, job, lead)) for end in ends]).run()

    return kernel_function([(name, "float32") for name in names], body)


def _start(e: Emitter, view: View, job: Any, lead: Sequence[int]) -> Any:
    """Where the matrix of a job begins."""
    place, number = e.integer(view.offset), job
    for axis in reversed(range(len(lead))):
        if view.strides[axis]:
            place = place + number % lead[axis] * view.strides[axis]
        number = number // lead[axis]
    return place


class _Code:
    """The code of one job: a pair of matrices."""

    def __init__(self, e: Emitter, spec: Spec, views: Sequence[Any], starts: Sequence[Any]) -> None:
        self.e, self.spec, self.lanes, self.panels = e, spec, spec.lanes, Panels(e, spec)
        self.q, self.k, self.v, *self.masks, self.out = views
        self.at_q, self.at_k, self.at_v, *self.at_masks, self.at_out = starts
        self.type = self.panels.type
        self.key_vectors, self.value_vectors = spec.vectors(spec.keys, spec.short), spec.vectors(spec.width)
        self.key_panel, self.value_panel = self.key_vectors * self.lanes, self.value_vectors * self.lanes
        self.value_panels = -(-spec.width // self.value_panel)
        self.keys = e.scratch(spec.padded * spec.depth, "float32")
        self.values = e.scratch(self.value_panels * spec.keys * self.value_panel, "float32")
        self.queries = e.scratch(spec.block * spec.depth, "float32")
        self.scores = e.scratch(spec.block * spec.padded, "float32")
        self.shares = e.scratch(spec.block, "float32")
        self.pairs = PairScores(self.panels, self.queries, self.keys) if spec.short else None

    def run(self) -> None:
        """Arranges keys and values, then computes block after block of queries."""
        e, spec = self.e, self.spec
        self.panels.arrange(self.k, self.at_k, spec.k, self.keys, self.key_panel, keys=True)
        self.panels.arrange(self.v, self.at_v, spec.v, self.values, self.value_panel, keys=False)
        largest = self.pairs.arrange_keys() if self.pairs else None
        with e.loop(-(-spec.queries // spec.block)) as block:
            # The last blocks overlap: rows that are computed twice get the same results.
            first = e.bind(e.min(block * spec.block, e.integer(spec.queries - spec.block)))
            base = self.at_q + first * spec.q.row
            rows = Copy(self.q, base, spec.block, spec.depth, spec.q.row, spec.q.column)
            self.panels.copy(rows, self.queries, 0, spec.depth, 1.0 if spec.steps else spec.unit)
            if self.pairs:
                self.pairs.multiply(largest, self._store_scores)
            else:
                self.panels.product(
                    self.queries, spec.depth, self.keys, self.key_vectors, spec.padded, self._store_scores
                )
            with e.loop(spec.block) as row:
                self._softmax(row, first + row)
            store = self._results(first)
            padded = self.value_panels * self.value_panel
            self.panels.product(self.scores, spec.keys, self.values, self.value_vectors, padded, store, spec.padded)

    def _store_scores(self, row: Any, column: Any, sums: list[Any], unit: Any = None) -> None:
        e, n = self.e, self.lanes
        for r, line in enumerate(sums):
            for v in range(self.key_vectors):
                at = (row + r) * self.spec.padded + column + v * n
                value = e.load(line, e.integer(v * n), n)
                if unit is not None:
                    value = e.cast(value, self.type) * e.splat(unit, n)
                e.store(self.scores, at, value, n)

    def _results(self, first: Any) -> Callable[[Any, Any, list[Any]], None]:
        """What stores sums of values, divided by the sum of the row's weights, as far as there are columns."""
        e, spec, n = self.e, self.spec, self.lanes

        def store(row: Any, column: Any, sums: list[Any]) -> None:
            for r, line in enumerate(sums):
                share = e.bind(e.load(self.shares, row + r))
                to = self.at_out + (first + row + r) * spec.out.row
                for v in range(self.value_vectors):
                    value = e.load(line, e.integer(v * n), n) * e.splat(share, n)
                    start = column + v * n
                    if spec.out.column == 1 and spec.width % self.value_panel == 0:
                        e.store(self.out, to + start, value, n)
                        continue
                    e.store(line, e.integer(v * n), value, n)
                    if spec.out.column == 1:
                        with e.when(start + n <= spec.width):
                            e.store(self.out, to + start, e.load(line, e.integer(v * n), n), n)
                        if spec.width % n:
                            edge = e.t.all(start + n > spec.width, start < spec.width)
                            with e.when(edge), e.loop(spec.width % n) as i:
                                e.store(self.out, to + start + i, e.load(line, i + v * n))
                        continue
                    with e.loop(n) as i, e.when(start + i < spec.width):
                        e.store(self.out, to + (start + i) * spec.out.column, e.load(line, i + v * n))

        return store

    def _softmax(self, row: Any, query: Any) -> None:
        """The exponentials of a row of scores less the largest, and one over their sum."""
        e, spec, n = self.e, self.spec, self.lanes
        base = e.bind(row * spec.padded)
        top, sums = e.local(n, "float32"), e.local(PARTS, "float32")
        lowest = e.const(float("-inf"), self.type)
        whole = spec.keys // n * n
        self._mask(base, query, whole)
        if spec.padded > whole:
            with e.loop(spec.padded - spec.keys) as i:
                e.store(self.scores, base + spec.keys + i, e.const(float("-inf"), "float32"))
        e.store(top, e.integer(0), lowest, n)
        used = -(-spec.keys // n)
        with e.loop(used) as i:
            score = e.load(self.scores, base + i * n, n)
            e.store(top, e.integer(0), e.max(score, e.load(top, e.integer(0), n)), n)
        most = self.panels.across(top, e.max)
        # Minus infinity less this is minus infinity, and not NaN.
        shift = e.max(most, e.const(_SMALLEST, "float32")) if spec.empty else most
        largest = e.bind(e.splat(shift, n))
        total = self._weights(base, largest, sums, used)
        share = e.const(1.0, "float32") / total
        if spec.empty:
            share = e.select(most < e.const(_SMALLEST, "float32"), e.const(0.0, "float32"), share)
        e.store(self.shares, row, share)

    def _weights(self, base: Any, largest: Any, sums: Any, used: int) -> Any:
        """Puts weights in the place of a row's scores; their sum, of :data:`PARTS` parts, added by halves."""
        e, n = self.e, self.lanes
        parts = PARTS // n

        def weigh(vector: Any, part: int) -> None:
            weight = e.bind(self._exp(e.load(self.scores, base + vector * n, n) - largest))
            e.store(self.scores, base + vector * n, weight, n)
            e.store(sums, e.integer(part * n), e.load(sums, e.integer(part * n), n) + weight, n)

        for part in range(parts):
            e.store(sums, e.integer(part * n), e.const(0.0, self.type), n)
        if used >= parts:
            with e.loop(used // parts) as i:
                for part in range(parts):
                    weigh(i * parts + part, part)
        for part in range(used % parts):
            weigh(used // parts * parts + part, part)
        while parts > 1:
            parts //= 2
            for part in range(parts):
                one, other = (e.load(sums, e.integer(at * n), n) for at in (part, part + parts))
                e.store(sums, e.integer(part * n), one + other, n)
        return self.panels.across(sums, lambda a, b: a + b)

    def _mask(self, base: Any, query: Any, whole: int) -> None:
        """Adds what masks have for a row of scores, or limits these."""
        e, spec, n = self.e, self.spec, self.lanes

        def change(lanes: int, i: Any) -> None:
            value = e.load(self.scores, base + i, lanes)
            for mask, at, view, limit in zip(self.masks, self.at_masks, spec.masks, spec.limits, strict=True):
                place = at + query * view.row
                each = e.load(mask, place + i, lanes) if view.column else e.splat(e.load(mask, place), lanes)
                value = e.min(value, each) if limit else value + each
            e.store(self.scores, base + i, value, lanes)

        if not self.masks:
            return
        if whole:
            with e.loop(whole // n) as i:
                change(n, i * n)
        if spec.keys > whole:
            with e.loop(spec.keys - whole) as i:
                change(1, i + whole)

    def _exp(self, x: Any) -> Any:
        """The exponential function of a vector of scores that are not positive; NaN stays."""
        e = self.e
        power = x * e.const(LOG2E, self.type) if self.spec.masks else x
        power = e.bind(e.max(e.const(_LOWEST, self.type), power))
        return exp2(e, power, self.lanes, self.spec.fma, not self.spec.short or self.spec.steps is not None)


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes attention, out of planes where a layer wrote them and nothing else needs its output in rows."""
    if not isinstance(node, Attention):
        return False
    graph = ctx.graph
    count = len(node.masks)
    found = [
        _planes(ctx, n, v) or _rows(ctx, n, v) for n, v in zip(node.inputs, (node.q, node.k, node.v), strict=False)
    ]
    buffers = [buffer for buffer, _ in found]
    q, k, v = (matrices for _, matrices in found)
    masks = []
    for index, (name, view) in enumerate(zip(node.inputs[3:], node.masks, strict=True)):
        if name in graph.constants:
            array = graph.constants[name]
            buffers.append(ctx.constants.add(f"{node.name}.mask{index}", "raw", {"mask": array})["mask"])
            masks.append(Matrices(array.size, view))
        else:
            buffer, matrices = _rows(ctx, name, view)
            buffers.append(buffer)
            masks.append(matrices)
    pairs, macs = prod(node.q.shape[:-2]), prod(node.q.shape) * node.k.shape[-2]
    macs += prod(node.out.shape) * node.k.shape[-2]
    out = Matrices(prod(graph.values[node.outputs[0]].shape), node.out)
    registers = 32 if ctx.target.vector_bytes == 64 or ctx.target.arm64 else 16
    parallel = pairs > 1 and macs > ctx.serial * 8
    short = ctx.target.architecture == "x86_64" and _rounded(graph, node.outputs[0])
    steps = _steps(graph, node) if short else None
    numbers = ctx.target.vector_bytes, registers, parallel, ctx.fma, short, steps
    spec = Spec(q, k, v, tuple(masks), node.limits, node.empty, out, node.factor, *numbers)
    rows = f"{pairs} x {spec.queries} queries, {spec.keys} keys"
    reason = f"{rows}, {'a mask' if count == 1 else f'{count} masks'}" if count else rows
    reason += ", scores of bytes" if steps else ", scores in 16 bits" if short else ""
    info = {"macs": macs, "nonzero_macs": macs, "reason": reason, "operand": "float32"}
    ctx.add_step(node, NAME, spec, [*buffers, ctx.new_plain(node.outputs[0])], info)
    return True


def _rounded(graph: Graph, name: str) -> bool:
    """Whether all that reads a tensor rounds it to 8 bits."""
    readers = [node for node in graph.nodes if name in node.inputs]
    return name not in graph.outputs and all(
        node.op == "QuantizeLinear" and graph.values[node.outputs[0]].quant is not None for node in readers
    )


def _steps(graph: Graph, node: Attention) -> tuple[float, float] | None:
    """The steps of queries and keys where both are dequantized bytes."""
    made = [next((one for one in graph.nodes if name in one.outputs), None) for name in node.inputs[:2]]
    quants = [graph.values[n.inputs[0]].quant if n and n.op == "DequantizeLinear" else None for n in made]
    q, k = quants
    return (q.scale, k.scale) if q and k and node.q.shape[-1] <= MOST_INNER else None


def _rows(ctx: Lowering, name: str, view: View) -> tuple[Buffer, Matrices]:
    """Where matrices lie in a plain tensor."""
    return ctx.plain(name), Matrices(prod(ctx.graph.values[name].shape), view)


def _planes(ctx: Lowering, name: str, view: View) -> tuple[Buffer, Matrices] | None:
    """Where matrices lie in the planes of rows that a layer wrote; None where it did not, or no strides reach them."""
    if ctx.graph.values[name].quant or not ctx.has_planes(name):
        return None
    key = home(ctx.graph, name, rows=True)
    layout: Halo = ctx.layouts[key]
    width = ctx.graph.values[name].shape[-1]
    reach = view.offset % width
    for size, stride in zip(view.shape, view.strides, strict=True):
        if stride % width:
            reach += (size - 1) * stride
    if reach >= width:
        return None
    strides = tuple(s // width if s % width == 0 else s * layout.plane for s in view.strides)
    offset = layout.origin + view.offset // width + view.offset % width * layout.plane
    return ctx.packed(key), Matrices(layout.elements, View(view.shape, strides, offset))
