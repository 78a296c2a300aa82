"""Linear layers over plain rows ``[M, K]`` (a few tokens, a classifier): output channels are the vector lanes.

Ternary codes with 8-bit activations add 8-bit products in 16 bits, exact for 128 inputs at a time, then in 32 bits.
Everything else (several terms, 8-bit dense weights, float activations) multiplies and adds in float32, tiles of rows
and vectors of output channels at a time; rows of bytes are converted for a tile first.

Bound by reading the weights for a few rows, and by multiply-adds for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import MAGIC
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.lowering.rules.linear import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

STEP = 128
"""Inputs whose products with -1, 0, 1 fit 16 bits: 128 * 255 < 32768."""


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, scale, bias, params, [residual,] out`` (scale, bias for whole tiles)."""
    numbers = [(name, "float32") for name in ("scale", "bias", "params")]
    residual = [("residual", spec.residual)] if spec.residual else []
    arguments = [("x", spec.x), ("values", spec.weights), *numbers, *residual, ("out", spec.out)]

    def body(e: Emitter, *pointers: Any) -> None:
        _Code(e, spec, pointers).jobs()

    return kernel_function(arguments, body)


class _Code:
    """The code of one function."""

    def __init__(self, e: Emitter, spec: Spec, pointers: Sequence[Any]) -> None:
        self.e, self.spec = e, spec
        self.x = e.view(pointers[0], spec.batch * spec.inputs, spec.x)
        self.values = e.view(pointers[1], spec.inputs * spec.padded, spec.weights)
        self.scale, self.bias = (e.view(p, spec.padded, "float32") for p in pointers[2:4])
        self.params = e.view(pointers[4], 4, "float32")
        self.residual = e.view(pointers[5], spec.batch * spec.outputs, spec.residual) if spec.residual else None
        self.out = e.view(pointers[-1], spec.batch * spec.outputs, spec.out)

    def jobs(self) -> None:
        """All tiles."""
        e, spec, (rows, vectors) = self.e, self.spec, self.spec.tiling
        across = spec.padded // spec.width
        with e.jobs(-(-spec.batch // rows) * across, spec.parallel) as job:
            # The last rows begin earlier: what is computed twice is the same.
            m = e.bind(e.min(job // across * rows, e.integer(spec.batch - rows)))
            tile = e.bind(job % across)
            if spec.exact:
                self._finish(self._integers(m, tile), m, tile)
                return
            for r, acc in enumerate(self._floats(m, tile)):
                for v in range(vectors):
                    self._finish(e.load(acc, v * spec.lanes, spec.lanes), m + r, tile * vectors + v)

    def _integers(self, m: Any, tile: Any) -> Any:
        """The sums of a row in a tile of one vector, as floats."""
        e, lanes, inputs = self.e, self.spec.lanes, self.spec.inputs
        i32, i16 = f"int32x{lanes}", f"int16x{lanes}"
        short, total = e.local(lanes, "int16"), e.local(lanes, "int32")
        e.store(total, 0, e.const(0, i32), lanes)

        def step(first: Any, count: int) -> None:
            e.store(short, 0, e.const(0, i16), lanes)
            with e.loop(count) as j:
                k = first + j
                pixel = e.splat(e.cast(e.load(self.x, m * inputs + k), "int16"), lanes)
                weight = e.cast(e.load(self.values, (tile * inputs + k) * lanes, lanes), i16)
                e.store(short, 0, e.load(short, 0, lanes) + pixel * weight, lanes)
            e.store(total, 0, e.load(total, 0, lanes) + e.cast(e.load(short, 0, lanes), i32), lanes)

        with e.loop(inputs // STEP) as s:
            step(s * STEP, STEP)
        if inputs % STEP:
            step(inputs // STEP * STEP, inputs % STEP)
        return e.cast(e.load(total, 0, lanes), f"float32x{lanes}")

    def _floats(self, m: Any, tile: Any) -> list[Any]:
        """Sums of a tile, row by row, each of them in the vectors of one buffer."""
        e, spec, (rows, vectors) = self.e, self.spec, self.spec.tiling
        lanes, kind = spec.lanes, f"float32x{spec.lanes}"
        source, start = self.x, m * spec.inputs
        if spec.x != "float32":
            source, start = e.scratch(rows * spec.inputs, "float32"), e.integer(0)
            self._convert(m * spec.inputs, source, rows * spec.inputs)
        sums = [e.local(spec.width, "float32") for _ in range(rows)]
        for acc in sums:
            for v in range(vectors):
                e.store(acc, v * lanes, e.const(0.0, kind), lanes)
        with e.loop(spec.inputs) as k:
            place = (tile * spec.inputs + k) * spec.width
            weights = [e.cast(e.load(self.values, place + v * lanes, lanes), kind) for v in range(vectors)]
            for r, acc in enumerate(sums):
                pixel = e.splat(e.load(source, start + r * spec.inputs + k), lanes)
                for v, weight in enumerate(weights):
                    old = e.load(acc, v * lanes, lanes)
                    e.store(acc, v * lanes, e.fma(pixel, weight, old) if spec.fma else old + pixel * weight, lanes)
        return sums

    def _convert(self, start: Any, target: Any, count: int) -> None:
        """``count`` bytes of the input from ``start`` on as floats."""
        e, lanes = self.e, self.spec.lanes
        if count >= lanes:
            with e.loop(count // lanes) as i:
                e.store(target, i * lanes, e.cast(e.load(self.x, start + i * lanes, lanes), f"float32x{lanes}"), lanes)
        if count % lanes:
            with e.loop(count % lanes) as i:
                at = i + count // lanes * lanes
                e.store(target, at, e.cast(e.load(self.x, start + at), "float32"))

    def _finish(self, acc: Any, m: Any, vector: Any) -> None:
        """What a vector of sums becomes in a row of the output, as far as there are channels."""
        e, spec, lanes = self.e, self.spec, self.spec.lanes
        factor, offset = e.load(self.scale, vector * lanes, lanes), e.load(self.bias, vector * lanes, lanes)
        y = e.bind(e.fma(acc, factor, offset) if spec.fma else acc * factor + offset)
        place = m * spec.outputs + vector * lanes
        whole, rest = divmod(spec.outputs, lanes)
        if whole * lanes == spec.padded:
            self._put(y, place, lanes)
            return
        with e.when(vector < whole):
            self._put(y, place, lanes)
        if rest:
            with e.when(vector == whole):
                row = e.local(lanes, "float32")
                e.store(row, 0, y, lanes)
                with e.loop(rest) as i:
                    self._put(e.load(row, i), place + i, 1)

    def _put(self, y: Any, place: Any, count: int) -> None:
        """Stores ``count`` results side by side."""
        e, spec = self.e, self.spec
        kind = f"float32x{count}" if count > 1 else "float32"
        if self.residual is not None:
            other = e.load(self.residual, place, count)
            y = y + e.cast(other, kind) * e.splat(e.load(self.params, 0), count)
        y = e.min(e.max(y, e.splat(e.load(self.params, 1), count)), e.splat(e.load(self.params, 2), count))
        if spec.out == "uint8":
            whole = e.bits(y + e.const(MAGIC, kind), kind.replace("float", "int"))
            y = e.cast(whole, kind.replace("float32", "uint8"))
        e.store(self.out, place, y, count)
