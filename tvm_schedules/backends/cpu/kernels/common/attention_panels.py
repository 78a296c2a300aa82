"""What attention is made of: matrices in panels of some vectors, and products of rows with these panels, in tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.attention_spec import Matrices, Spec
from tvm_schedules.backends.cpu.kernels.common.short_pairs import ShortPairs
from tvm_schedules.backends.cpu.kernels.common.tiles import transposed
from tvm_schedules.compat import Emitter

__all__ = ["Copy", "Panels"]


@dataclass(frozen=True)
class Copy:
    """Part of a matrix on its way into scratch: element ``[i, j]`` from ``base + i * row + j * column``."""

    source: Any
    base: Any
    rows: int
    columns: int
    row: int
    column: int


class Panels:
    """Arranges matrices and multiplies them, for one job."""

    def __init__(self, e: Emitter, spec: Spec) -> None:
        self.e, self.spec, self.lanes = e, spec, spec.lanes
        self.type = f"float32x{self.lanes}"

    def arrange(self, source: Any, base: Any, matrix: Matrices, target: Any, panel: int, keys: bool) -> None:
        """Panels of columns: ``[panels, depth, panel]`` of keys turned, ``[panels, keys, panel]`` of values."""
        e, spec = self.e, self.spec
        depth, columns = (spec.depth, spec.keys) if keys else (spec.keys, spec.width)
        row, column = (matrix.column, matrix.row) if keys else (matrix.row, matrix.column)
        whole, rest = divmod(columns, panel)
        if whole:
            with e.loop(whole) as p:
                part = Copy(source, base + p * (panel * column), depth, panel, row, column)
                self.copy(part, target, p * (depth * panel), panel)
        if rest:
            at = whole * depth * panel
            zero = e.const(0.0, self.type)
            with e.loop(depth * panel // self.lanes) as i:
                e.store(target, i * self.lanes + at, zero, self.lanes)
            part = Copy(source, base + whole * panel * column, depth, rest, row, column)
            self.copy(part, target, at, panel)

    def copy(self, part: Copy, target: Any, at: Any, pitch: int, factor: float = 1.0) -> None:
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

    def product(
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

    def across(self, line: Any, combine: Callable[[Any, Any], Any]) -> Any:
        """One number of all lanes of a register, by halves."""
        e, width = self.e, self.lanes
        value = e.bind(e.load(line, e.integer(0), width))
        while width > 1:
            width //= 2
            halves = [e.shuffle([value], list(range(start, start + width))) for start in (0, width)]
            value = e.bind(combine(*halves))
        return value
