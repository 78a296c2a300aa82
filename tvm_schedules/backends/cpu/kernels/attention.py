"""Attention: products of queries and keys, softmax, and products with values, some rows of queries at a time.

The scores of a block of queries stay in the nearest caches and are never a tensor in memory (as in FlashAttention,
2022, but for all keys at once). Keys and values are arranged in panels of some vectors once for a pair of matrices, out
of wherever they lie: rows of tokens, or planes that a layer of many rows wrote.

Where the results are rounded to 8 bits, x86 multiplies queries and keys as integers of 16 bits: see
:mod:`.common.short_pairs`. The weights of values stay float32, for many small ones can weigh as much as a large one.

Bound by the multiply-adds, and by the exponential function, about a tenth of them at 64 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.kernels.common.exponentials import exp2
from tvm_schedules.backends.cpu.kernels.common.short_pairs import ShortPairs
from tvm_schedules.backends.cpu.kernels.common.tiles import transposed
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

MOST_ROWS = 96
"""Queries of a block at most."""

BLOCK_BYTES = 96 << 10
"""Scores of a block at most, where that is a tile of rows at least."""

_LOG2E = 1.4426950408889634
_LOWEST = -126.0
"""Two to the power of less is taken for that of this, 1e-38."""
_SMALLEST = -3.4028234663852886e38
"""The smallest float32 that is a number."""


@dataclass(frozen=True)
class Matrices:
    """Where some matrices lie in a buffer, in elements.

    Args:
        elements: Of the buffer.
        view: Shape and strides, the leading axes first, then rows and columns.
    """

    elements: int
    view: View

    @property
    def row(self) -> int:
        """Elements from a row to the next."""
        return self.view.strides[-2]

    @property
    def column(self) -> int:
        """Elements from a column to the next."""
        return self.view.strides[-1]


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        q: Queries ``[..., S, D]``.
        k: Keys ``[..., T, D]``.
        v: Values ``[..., T, Dv]``.
        masks: What is added to the scores, ``[..., S, T]`` each.
        limits: Which of them are the most that scores may be, and not added.
        empty: Whether rows whose scores are all minus infinity have zeros as results.
        out: Results ``[..., S, Dv]``.
        factor: What products are multiplied by.
        vector: Bytes a vector register.
        registers: Vector registers.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
        short: Whether queries and keys are multiplied as integers of 16 bits.
    """

    q: Matrices
    k: Matrices
    v: Matrices
    masks: tuple[Matrices, ...]
    limits: tuple[bool, ...]
    empty: bool
    out: Matrices
    factor: float
    vector: int
    registers: int
    parallel: bool
    fma: bool
    short: bool

    @property
    def lanes(self) -> int:
        """float32 lanes of a vector."""
        return self.vector // 4

    @property
    def queries(self) -> int:
        """S."""
        return self.q.view.shape[-2]

    @property
    def keys(self) -> int:
        """T."""
        return self.k.view.shape[-2]

    @property
    def depth(self) -> int:
        """D."""
        return self.q.view.shape[-1]

    @property
    def width(self) -> int:
        """Dv."""
        return self.v.view.shape[-1]

    def tile(self, vectors: int, short: bool = False) -> int:
        """Rows of a register tile: its sums, one vector of every column group and a broadcast fit the registers.

        Integers need one more, for products that are not yet added.
        """
        return max(1, min(self.queries, (self.registers - vectors - 1 - short) // vectors))

    def vectors(self, columns: int, short: bool = False) -> int:
        """Vectors of a panel: those with the least work, counting the columns past the end and the loads of a step."""
        # A step of a tile of r rows and v vectors has r * v multiply-adds and r + v loads.
        costs = {}
        for count in range(1, 5):
            rows, padded = self.tile(count, short), -(-columns // (count * self.lanes)) * count
            costs[count] = padded * (1 + max(0.0, (rows + count) / (rows * count) - 0.7))
        return min(costs, key=lambda count: costs[count])

    @property
    def padded(self) -> int:
        """Keys rounded up to whole panels of the first product."""
        panel = self.vectors(self.keys, self.short) * self.lanes
        return -(-self.keys // panel) * panel

    @property
    def block(self) -> int:
        """Queries of a block: as many as leave their scores near, and no more rows twice than needed."""
        tile = self.tile(self.vectors(self.keys, self.short), self.short)
        most = max(tile, min(MOST_ROWS, BLOCK_BYTES // (4 * self.padded)))
        sizes = {*range(tile, min(most, self.queries) + 1, tile), min(most, self.queries)}
        return min(sorted(sizes, reverse=True), key=lambda rows: -(-self.queries // rows) * -(-rows // tile))


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


@dataclass(frozen=True)
class _Copy:
    """Part of a matrix on its way into scratch: element ``[i, j]`` from ``base + i * row + j * column``."""

    source: Any
    base: Any
    rows: int
    columns: int
    row: int
    column: int


class _Code:
    """The code of one job: a pair of matrices."""

    def __init__(self, e: Emitter, spec: Spec, views: Sequence[Any], starts: Sequence[Any]) -> None:
        self.e, self.spec, self.lanes = e, spec, spec.lanes
        self.q, self.k, self.v, *self.masks, self.out = views
        self.at_q, self.at_k, self.at_v, *self.at_masks, self.at_out = starts
        self.type = f"float32x{self.lanes}"
        self.key_vectors, self.value_vectors = spec.vectors(spec.keys, spec.short), spec.vectors(spec.width)
        self.key_panel, self.value_panel = self.key_vectors * self.lanes, self.value_vectors * self.lanes
        self.value_panels = -(-spec.width // self.value_panel)
        self.keys = e.scratch(spec.padded * spec.depth, "float32")
        self.values = e.scratch(self.value_panels * spec.keys * self.value_panel, "float32")
        self.queries = e.scratch(spec.block * spec.depth, "float32")
        self.scores = e.scratch(spec.block * spec.padded, "float32")
        self.shares = e.scratch(spec.block, "float32")
        self.short = ShortPairs(e, self.lanes, spec.depth) if spec.short else None
        if self.short:
            self.key_pairs = e.scratch(spec.padded * self.short.count, "int32")
            self.query_pairs = e.scratch(spec.block * self.short.count, "int32")
        # Scores are in units of which each is a factor of two, where nothing is added to them.
        self.factor = spec.factor if spec.masks else spec.factor * _LOG2E

    def run(self) -> None:
        """Arranges keys and values, then computes block after block of queries."""
        e, spec = self.e, self.spec
        self._panels(self.k, self.at_k, spec.k, self.keys, self.key_panel, keys=True)
        self._panels(self.v, self.at_v, spec.v, self.values, self.value_panel, keys=False)
        largest = self._short_keys(self.short) if self.short else None
        with e.loop(-(-spec.queries // spec.block)) as block:
            # The last blocks overlap: rows that are computed twice get the same results.
            first = e.bind(e.min(block * spec.block, e.integer(spec.queries - spec.block)))
            base = self.at_q + first * spec.q.row
            rows = _Copy(self.q, base, spec.block, spec.depth, spec.q.row, spec.q.column)
            self._copy(rows, self.queries, 0, spec.depth, self.factor)
            if self.short:
                self._short_scores(self.short, largest)
            else:
                self._product(self.queries, spec.depth, self.keys, self.key_vectors, spec.padded, self._store_scores)
            with e.loop(spec.block) as row:
                self._softmax(row, first + row)
            store = self._results(first)
            padded = self.value_panels * self.value_panel
            self._product(self.scores, spec.keys, self.values, self.value_vectors, padded, store, spec.padded)

    # -- arranging -----------------------------------------------------------------------------------------------------
    def _panels(self, source: Any, base: Any, matrix: Matrices, target: Any, panel: int, keys: bool) -> None:
        """Panels of columns: ``[panels, depth, panel]`` of keys turned, ``[panels, keys, panel]`` of values."""
        e, spec = self.e, self.spec
        depth, columns = (spec.depth, spec.keys) if keys else (spec.keys, spec.width)
        row, column = (matrix.column, matrix.row) if keys else (matrix.row, matrix.column)
        whole, rest = divmod(columns, panel)
        if whole:
            with e.loop(whole) as p:
                part = _Copy(source, base + p * (panel * column), depth, panel, row, column)
                self._copy(part, target, p * (depth * panel), panel)
        if rest:
            at = whole * depth * panel
            zero = e.const(0.0, self.type)
            with e.loop(depth * panel // self.lanes) as i:
                e.store(target, i * self.lanes + at, zero, self.lanes)
            part = _Copy(source, base + whole * panel * column, depth, rest, row, column)
            self._copy(part, target, at, panel)

    def _copy(self, part: _Copy, target: Any, at: Any, pitch: int, factor: float = 1.0) -> None:
        """``target[at + i * pitch + j] = factor * part[i, j]``, in vectors or squares of them as far as these go."""
        e, n = self.e, self.lanes

        def put(i: Any, j: Any, value: Any, lanes: int) -> None:
            scaled = value if factor == 1.0 else value * e.splat(e.const(factor, "float32"), lanes)
            e.store(target, e.expr(at) + i * pitch + j, scaled, lanes)

        def single(rows: range, columns: range) -> None:
            if len(rows) and len(columns):
                with e.loop(len(rows)) as i, e.loop(len(columns)) as j:
                    y, x = i + rows.start, j + columns.start
                    put(y, x, e.load(part.source, part.base + y * part.row + x * part.column), 1)

        wide, high = part.columns // n * n, part.rows // n * n
        if part.column == 1:
            if wide:
                with e.loop(part.rows) as i, e.loop(wide // n) as j:
                    put(i, j * n, e.load(part.source, part.base + i * part.row + j * n, n), n)
            single(range(part.rows), range(wide, part.columns))
        elif part.row == 1:
            if wide and high:
                with e.loop(high // n) as i, e.loop(wide // n) as j:
                    first = part.base + i * n + j * (n * part.column)
                    lines = transposed(e, [e.load(part.source, first + k * part.column, n) for k in range(n)])
                    for k, line in enumerate(lines):
                        put(i * n + k, j * n, line, n)
            single(range(high if wide else 0, part.rows), range(wide))
            single(range(part.rows), range(wide, part.columns))
        else:
            single(range(part.rows), range(part.columns))

    # -- computing -----------------------------------------------------------------------------------------------------
    def _product(
        self,
        left: Any,
        depth: int,
        panels: Any,
        vectors: int,
        columns: int,
        store: Callable[[Any, Any, list[Any]], None],
        pitch: int | None = None,
        short: ShortPairs | None = None,
    ) -> None:
        """``left [block, depth] x panels``: every tile goes to ``store(row, column, sums of every row)``.

        With ``short`` both have pairs of integers.
        """
        e, spec, n = self.e, self.spec, self.lanes
        width, tile, pitch = vectors * n, min(spec.tile(vectors, bool(short)), spec.block), pitch or depth
        kind = "int32" if short else "float32"
        with e.loop(columns // width) as panel, e.loop(-(-spec.block // tile)) as number:
            row = e.bind(e.min(number * tile, e.integer(spec.block - tile)))
            sums = [e.local(vectors * n, kind) for _ in range(tile)]
            for line in sums:
                for v in range(vectors):
                    e.store(line, e.integer(v * n), e.const(0, f"{kind}x{n}"), n)

            def step(k: Any, row: Any = row, panel: Any = panel, sums: Any = sums) -> None:
                right = [e.load(panels, (panel * depth + k) * width + v * n, n) for v in range(vectors)]
                for r, line in enumerate(sums):
                    value = e.splat(e.load(left, (row + r) * pitch + k), n)
                    for v in range(vectors):
                        at = e.integer(v * n)
                        total = e.load(line, at, n)
                        more = short.add(total, value, right[v]) if short else self._fma(value, right[v], total)
                        e.store(line, at, more, n)

            together = 4
            if depth >= together:
                with e.loop(depth // together) as outer:
                    for u in range(together):
                        step(outer * together + u)
            for k in range(depth // together * together, depth):
                step(e.integer(k))
            store(row, panel * width, sums)

    def _fma(self, a: Any, b: Any, c: Any) -> Any:
        return self.e.fma(a, b, c) if self.spec.fma else a * b + c

    def _store_scores(self, row: Any, column: Any, sums: list[Any], unit: Any = None) -> None:
        e, n = self.e, self.lanes
        for r, line in enumerate(sums):
            for v in range(self.key_vectors):
                at = (row + r) * self.spec.padded + column + v * n
                value = e.load(line, e.integer(v * n), n)
                if unit is not None:
                    value = e.cast(value, self.type) * e.splat(unit, n)
                e.store(self.scores, at, value, n)

    def _short_keys(self, short: ShortPairs) -> Any:
        """Makes pairs of the panels of keys; the largest key."""
        e, spec, n, panel = self.e, self.spec, self.lanes, self.key_panel

        def load(index: Any, lanes: int) -> Any:
            return e.load(self.keys, index, lanes)

        largest = e.bind(short.largest(spec.padded * spec.depth, load, self._across))
        factor = e.bind(short.factor(largest))
        with e.loop(spec.padded // panel) as p, e.loop(panel // n) as v:

            def join(i: Any, both: bool, p: Any = p, v: Any = v) -> None:
                at = (p * spec.depth + i * 2) * panel + v * n
                second = load(at + panel, n) if both else None
                value = short.joined(load(at, n), second, factor, n)
                e.store(self.key_pairs, (p * short.count + i) * panel + v * n, value, n)

            if spec.depth > 1:
                with e.loop(spec.depth // 2) as i:
                    join(i, True)
            if spec.depth % 2:
                join(e.integer(spec.depth // 2), False)
        return largest

    def _short_scores(self, short: ShortPairs, largest: Any) -> None:
        """Scores of a block of queries as sums of products of integers."""
        e, spec = self.e, self.spec

        def load(index: Any, lanes: int) -> Any:
            return e.load(self.queries, index, lanes)

        most = e.bind(short.largest(spec.block * spec.depth, load, self._across))
        factor, unit = e.bind(short.factor(most)), e.bind(short.unit(most, largest))
        with e.loop(spec.block) as row:

            def join(i: Any, lanes: int, both: bool, row: Any = row) -> None:
                at = row * spec.depth + i * 2
                first, second = (e.load(self.queries, at + k, lanes, 2) if k < 1 + both else None for k in (0, 1))
                e.store(self.query_pairs, row * short.count + i, short.joined(first, second, factor, lanes), lanes)

            whole = spec.depth // 2 // self.lanes * self.lanes
            if whole:
                with e.loop(whole // self.lanes) as i:
                    join(i * self.lanes, self.lanes, True)
            if spec.depth // 2 > whole:
                with e.loop(spec.depth // 2 - whole) as i:
                    join(i + whole, 1, True)
            if spec.depth % 2:
                join(e.integer(spec.depth // 2), 1, False)

        def store(row: Any, column: Any, sums: list[Any]) -> None:
            self._store_scores(row, column, sums, unit)

        self._product(self.query_pairs, short.count, self.key_pairs, self.key_vectors, spec.padded, store, short=short)

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
        top, sums = e.local(n, "float32"), e.local(n, "float32")
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
        most = self._across(top, e.max)
        # Minus infinity less this is minus infinity, and not NaN.
        shift = e.max(most, e.const(_SMALLEST, "float32")) if spec.empty else most
        largest = e.bind(e.splat(shift, n))
        e.store(sums, e.integer(0), e.const(0.0, self.type), n)
        with e.loop(used) as i:
            weight = e.bind(self._exp(e.load(self.scores, base + i * n, n) - largest))
            e.store(self.scores, base + i * n, weight, n)
            e.store(sums, e.integer(0), e.load(sums, e.integer(0), n) + weight, n)
        total = self._across(sums, lambda a, b: a + b)
        share = e.const(1.0, "float32") / total
        if spec.empty:
            share = e.select(most < e.const(_SMALLEST, "float32"), e.const(0.0, "float32"), share)
        e.store(self.shares, row, share)

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

    def _across(self, line: Any, combine: Callable[[Any, Any], Any]) -> Any:
        """One number of all lanes of a register, by halves."""
        e, width = self.e, self.lanes
        value = e.bind(e.load(line, e.integer(0), width))
        while width > 1:
            width //= 2
            halves = [e.shuffle([value], list(range(start, start + width))) for start in (0, width)]
            value = e.bind(combine(*halves))
        return value

    def _exp(self, x: Any) -> Any:
        """The exponential function of a vector of scores that are not positive; NaN stays."""
        e = self.e
        power = x * e.const(_LOG2E, self.type) if self.spec.masks else x
        power = e.bind(e.max(e.const(_LOWEST, self.type), power))
        return exp2(e, power, self.lanes, self.spec.fma, not self.spec.short)


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
    numbers = ctx.target.vector_bytes, registers, parallel, ctx.fma, short
    spec = Spec(q, k, v, tuple(masks), node.limits, node.empty, out, node.factor, *numbers)
    rows = f"{pairs} x {spec.queries} queries, {spec.keys} keys"
    reason = f"{rows}, {'a mask' if count == 1 else f'{count} masks'}" if count else rows
    reason += ", scores in 16 bits" if short else ""
    info = {"macs": macs, "nonzero_macs": macs, "reason": reason, "operand": "float32"}
    ctx.add_step(node, NAME, spec, [*buffers, ctx.new_plain(node.outputs[0])], info)
    return True


def _rounded(graph: Graph, name: str) -> bool:
    """Whether all that reads a tensor rounds it to 8 bits."""
    readers = [node for node in graph.nodes if name in node.inputs]
    return name not in graph.outputs and all(
        node.op == "QuantizeLinear" and graph.values[node.outputs[0]].quant is not None for node in readers
    )


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
