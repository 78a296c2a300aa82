"""Matrix products: a register tile of rows by vectors of columns, the right operand in panels of that width.

Panels of a constant operand are made at compile time, others in a scratch buffer first (Anatomy of High-Performance
Matrix Multiplication, 2008, section 4). Tiles at the edge start earlier instead of being smaller: they write the same
values twice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.writer import accumulators, evenly, lanes_of, registers_of, template
from tvm_schedules.fallback.conv_geometry import panel_width
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply", "tile_rows"]

PARALLEL_PRODUCTS = 65536
_CHAIN = 8  # independent accumulators that hide the latency of a multiply-add
_UNROLL = 4


def tile_rows(target: TargetSpec, vectors: int) -> int:
    """Rows of a register tile: accumulators, one vector of each column group and one broadcast fit the registers."""
    return max(1, (registers_of(target) - vectors - 1) // vectors)


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged matrix product; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] not in ("matmul", "matmul_packed"):
        return None
    if tag["kind"] == "matmul_packed":
        product = _Product(target, tag["rows"], tag["columns"], tag["depth"], tag["width"])
        return template(function, lambda e, a, b, out: product.write(e, 1, a, [0], b, [0], out))
    a, b, out = tag["a"], tag["b"], tag["out"]
    rows, depth, columns = a[-2], a[-1], b[-1]
    starts_a, starts_b = _batch_offsets(a, out), _batch_offsets(b, out)
    if math.prod(b[:-2]) == 1:  # one right operand for all: the batch is more rows
        rows, starts_a, starts_b = math.prod(a[:-1]), [0], [0]
    lanes = min(lanes_of(target), 1 << max(0, columns.bit_length() - 1))
    product = _Product(target, rows, columns, depth, panel_width(columns, lanes), lanes)
    return template(function, lambda e, x, y, z: product.write_unpacked(e, x, starts_a, y, starts_b, z))


def _batch_offsets(shape: list[int], out: list[int]) -> list[int]:
    """For every batch of the output, which matrix of an operand it takes (operands broadcast)."""
    lead = [1] * (len(out) - len(shape)) + list(shape[:-2])
    strides, step = [], 1
    for dim in reversed(lead):
        strides.append(0 if dim == 1 else step)
        step *= dim
    strides.reverse()
    offsets = [0]
    for extent, stride in zip(out[:-2], strides, strict=True):
        offsets = [o + i * stride for o in offsets for i in range(extent)]
    return offsets


def _affine(e: Any, table: list[int], batch: Any) -> Any:
    """``table[batch]`` as arithmetic: equal steps, a period, or repeats; other tables as a chain of choices."""
    n = len(table)
    if n == 1 or len(set(table)) == 1:
        return e.integer(table[0])
    for period in (d for d in range(1, n + 1) if n % d == 0):
        inner = table[1] - table[0] if period > 1 else 0
        outer = table[period] - table[0] if period < n else 0
        if all(table[i] == table[0] + i // period * outer + i % period * inner for i in range(n)):
            return batch // period * outer + batch % period * inner + table[0]
    value = e.integer(table[-1])
    for i in range(n - 2, -1, -1):
        value = e.select(batch == i, e.integer(table[i]), value)
    return value


class _Product:
    """One shape of product: [rows, depth] x panels [P, depth, width] -> [rows, columns]."""

    def __init__(
        self, target: TargetSpec, rows: int, columns: int, depth: int, width: int, lanes: int | None = None
    ) -> None:
        self.rows, self.columns, self.depth, self.width = rows, columns, depth, width
        self.lanes = lanes or lanes_of(target)
        self.vectors = width // self.lanes
        self.panels = -(-columns // width)
        self.tiles, self.tile = evenly(rows, tile_rows(target, self.vectors))
        # Few rows: several steps of the depth at once, each with accumulators of its own.
        self.split = 1
        while self.split * self.tile * self.vectors < _CHAIN and depth % (self.split * 2) == 0:
            self.split *= 2
        self.unroll = next(u for u in (_UNROLL, 2, 1) if depth % (u * self.split) == 0) if self.split == 1 else 1

    def write_unpacked(self, e: Any, a: Any, starts_a: list[int], b: Any, starts_b: list[int], out: Any) -> None:
        """Packs the right operand into scratch, then multiplies; a few rows read it where it is."""
        matrices = len(set(starts_b))
        whole = self.columns % self.width == 0
        if whole and (self.rows <= 4 or self.panels == 1):
            self.write(e, len(starts_a), a, starts_a, b, starts_b, out, stride=self.columns)
            return
        size = self.panels * self.depth * self.width
        scratch = e.b.alloc_buffer((matrices * size,), "float32")
        parallel = matrices * size >= PARALLEL_PRODUCTS
        with e.loop(matrices * self.panels, parallel=parallel and matrices * self.panels > 1) as task:
            source = task // self.panels * (self.depth * self.columns) + task % self.panels * self.width
            last = self.columns - (self.panels - 1) * self.width
            with e.loop(self.depth) as k, e.loop(self.width) as j:
                value = e.load(b, source + k * self.columns + j)
                if last != self.width:
                    missing = e.t.all(task % self.panels == self.panels - 1, j >= last)
                    value = e.t.if_then_else(missing, e.const(0.0, "float32"), value)
                e.store(scratch, (task * self.depth + k) * self.width + j, value)
        self.write(e, len(starts_a), a, starts_a, scratch, starts_b, out)

    def write(
        self, e: Any, batches: int, a: Any, starts_a: list[int], b: Any, starts_b: list[int], out: Any, stride: int = 0
    ) -> None:
        """The product; ``stride`` is the distance of rows in ``b`` when it is not packed."""
        tasks = batches * self.panels * self.tiles
        work = batches * self.rows * self.columns * self.depth
        with e.loop(tasks, parallel=work >= PARALLEL_PRODUCTS and tasks > 1) as task:
            batch = task // (self.panels * self.tiles)
            panel = task // self.tiles % self.panels
            row = e.min(task % self.tiles * self.tile, e.integer(self.rows - self.tile))
            base_a = (_affine(e, starts_a, batch) * self.rows + row) * self.depth
            if stride:
                base_b = _affine(e, starts_b, batch) * (self.depth * stride) + panel * self.width
            else:
                base_b = (_affine(e, starts_b, batch) * self.panels + panel) * (self.depth * self.width)
            rows = self._accumulate(e, a, base_a, b, base_b, stride or self.width)
            self._store(e, rows, out, (batch * self.rows + row) * self.columns + panel * self.width, panel)

    def _accumulate(self, e: Any, a: Any, base_a: Any, b: Any, base_b: Any, step: int) -> list[Any]:
        lanes, vectors = self.lanes, self.vectors
        acc = accumulators(e, self.tile * self.split, vectors, lanes)
        together = self.split * self.unroll
        with e.loop(self.depth // together) as outer:
            for u in range(together):
                k = outer * together + u
                right = [e.load(b, base_b + k * step + v * lanes, lanes) for v in range(vectors)]
                for r in range(self.tile):
                    row = acc[r * self.split + u % self.split]
                    left = e.splat(e.load(a, base_a + r * self.depth + k), lanes)
                    for v in range(vectors):
                        at = e.integer(v * lanes)
                        e.store(row, at, e.fma(left, right[v], e.load(row, at, lanes)), lanes)
        for r in range(self.tile):
            first = acc[r * self.split]
            for other in acc[r * self.split + 1 : (r + 1) * self.split]:
                for v in range(vectors):
                    at = e.integer(v * lanes)
                    e.store(first, at, e.load(first, at, lanes) + e.load(other, at, lanes), lanes)
        return acc[:: self.split]

    def _store(self, e: Any, rows: list[Any], out: Any, base: Any, panel: Any) -> None:
        last = self.columns - (self.panels - 1) * self.width

        def whole() -> None:
            for r, row in enumerate(rows):
                for v in range(self.vectors):
                    e.store(
                        out,
                        base + r * self.columns + v * self.lanes,
                        e.load(row, e.integer(v * self.lanes), self.lanes),
                        self.lanes,
                    )

        def part() -> None:
            for r, row in enumerate(rows):
                for j in range(last):
                    e.store(out, base + r * self.columns + j, row[e.integer(j)])

        if last == self.width:
            whole()
        elif self.panels == 1:
            part()
        else:
            with e.b.If(panel < self.panels - 1):
                with e.b.Then():
                    whole()
                with e.b.Else():
                    part()
