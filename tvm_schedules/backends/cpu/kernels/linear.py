"""Linear layers over plain rows ``[M, K]`` (a few tokens, a classifier): output channels are the vector lanes.

Ternary codes with 8-bit activations add 8-bit products in 16 bits, exact for 128 inputs at a time, then in 32 bits.
Everything else (several terms, 8-bit dense weights, float activations) multiplies and adds in float32, tiles of rows
and vectors of output channels at a time; rows of bytes are converted for a tile first.

Bound by reading the weights for a few rows, and by multiply-adds for many.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import MAGIC
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.lowering.rules.linear import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

MOST_ROWS = 6
"""Rows of a tile at most."""

ONE_ROW = 8
"""Vectors of output channels of a tile of one row: as many sums do not wait for each other."""

STEP = 128
"""Inputs whose products with -1, 0, 1 fit 16 bits: 128 * 255 < 32768."""


def _tile(spec: Spec) -> tuple[int, int]:
    """Rows and vectors of a tile, whose sums are in registers with what one input needs."""
    total, wide = spec.padded // spec.lanes, spec.vector == 64
    if spec.exact:
        return 1, 1
    if spec.batch == 1:
        return 1, min(ONE_ROW, total)
    vectors = min(4 if wide else 2, total)
    tiles = -(-spec.batch // MOST_ROWS)
    return -(-spec.batch // tiles), vectors


def _convert(e: Emitter, source: Any, start: Any, target: Any, count: int, lanes: int) -> None:
    """``count`` bytes from ``start`` on as floats."""
    if count >= lanes:
        with e.loop(count // lanes) as i:
            e.store(target, i * lanes, e.cast(e.load(source, start + i * lanes, lanes), f"float32x{lanes}"), lanes)
    if count % lanes:
        with e.loop(count % lanes) as i:
            at = i + count // lanes * lanes
            e.store(target, at, e.cast(e.load(source, start + at), "float32"))


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``x, values, scale, bias, params, [residual,] out`` (scale, bias in whole vectors)."""
    lanes, K, O = spec.lanes, spec.inputs, spec.outputs  # noqa: E741
    f32, i32, i16 = f"float32x{lanes}", f"int32x{lanes}", f"int16x{lanes}"
    arguments = [
        ("x", spec.x),
        ("values", spec.weights),
        ("scale", "float32"),
        ("bias", "float32"),
        ("params", "float32"),
    ]
    if spec.residual:
        arguments.append(("residual", spec.residual))
    arguments.append(("out", spec.out))
    blocks, (rows, vectors) = spec.padded // lanes, _tile(spec)

    def body(e: Emitter, *pointers: Any) -> None:
        x, values = e.view(pointers[0], spec.batch * K, spec.x), e.view(pointers[1], K * spec.padded, spec.weights)
        scale, bias = (e.view(p, spec.padded, "float32") for p in pointers[2:4])
        params = e.view(pointers[4], 4, "float32")
        residual = e.view(pointers[5], spec.batch * O, spec.residual) if spec.residual else None
        out = e.view(pointers[-1], spec.batch * O, spec.out)

        def integers(m: Any, block: Any) -> Any:
            short, total = e.local(lanes, "int16"), e.local(lanes, "int32")
            e.store(total, 0, e.const(0, i32), lanes)

            def step(first: Any, count: int) -> None:
                e.store(short, 0, e.const(0, i16), lanes)
                with e.loop(count) as j:
                    k = first + j
                    pixel = e.splat(e.cast(e.load(x, m * K + k), "int16"), lanes)
                    weight = e.cast(e.load(values, (block * K + k) * lanes, lanes), i16)
                    e.store(short, 0, e.load(short, 0, lanes) + pixel * weight, lanes)
                e.store(total, 0, e.load(total, 0, lanes) + e.cast(e.load(short, 0, lanes), i32), lanes)

            with e.loop(K // STEP) as s:
                step(s * STEP, STEP)
            if K % STEP:
                step(K // STEP * STEP, K % STEP)
            return e.cast(e.load(total, 0, lanes), f32)

        def floats(m: Any, block: Any) -> list[Any]:
            """Sums of a tile, row by row, each of them in the vectors of one buffer."""
            source, start, pitch = x, m * K, K
            if spec.x != "float32":
                source, start = e.scratch(rows * K, "float32"), e.integer(0)
                _convert(e, x, m * K, source, rows * K, lanes)
            sums = [e.local(lanes * vectors, "float32") for _ in range(rows)]
            for acc in sums:
                for v in range(vectors):
                    e.store(acc, v * lanes, e.const(0.0, f32), lanes)
            with e.loop(K) as k:
                place = k * spec.padded + block * lanes
                weights = [e.cast(e.load(values, place + v * lanes, lanes), f32) for v in range(vectors)]
                for r, acc in enumerate(sums):
                    pixel = e.splat(e.load(source, start + r * pitch + k), lanes)
                    for v, weight in enumerate(weights):
                        old = e.load(acc, v * lanes, lanes)
                        e.store(acc, v * lanes, e.fma(pixel, weight, old) if spec.fma else old + pixel * weight, lanes)
            return sums

        def put(y: Any, place: Any, count: int) -> None:
            """Stores ``count`` results side by side."""
            kind = f"float32x{count}" if count > 1 else "float32"
            if residual is not None:
                other = e.load(residual, place, count)
                y = y + e.cast(other, kind) * e.splat(e.load(params, 0), count)
            y = e.min(e.max(y, e.splat(e.load(params, 1), count)), e.splat(e.load(params, 2), count))
            if spec.out == "uint8":
                y = e.cast(
                    e.bits(y + e.const(MAGIC, kind), kind.replace("float", "int")), kind.replace("float32", "uint8")
                )
            e.store(out, place, y, count)

        def finish(acc: Any, m: Any, block: Any) -> None:
            """What a vector of sums becomes in a row of the output, as far as there are channels."""
            factor, offset = e.load(scale, block * lanes, lanes), e.load(bias, block * lanes, lanes)
            y, first = e.bind(e.fma(acc, factor, offset) if spec.fma else acc * factor + offset), e.bind(block * lanes)
            place = m * O + first
            if O % lanes == 0:
                put(y, place, lanes)
                return
            with e.when(first + lanes <= O):
                put(y, place, lanes)
            with e.when(first + lanes > O):
                row = e.local(lanes, "float32")
                e.store(row, 0, y, lanes)
                with e.loop(O % lanes) as i:
                    put(e.load(row, i), place + i, 1)

        across = -(-blocks // vectors)
        with e.jobs(-(-spec.batch // rows) * across, spec.parallel) as job:
            # The last tiles begin earlier: what is computed twice is the same.
            m = e.bind(e.min(job // across * rows, e.integer(spec.batch - rows)))
            block = e.bind(e.min(job % across * vectors, e.integer(blocks - vectors)))
            if spec.exact:
                finish(integers(m, block), m, block)
                return
            for r, acc in enumerate(floats(m, block)):
                for v in range(vectors):
                    finish(e.load(acc, v * lanes, lanes), m + r, block + v)

    return kernel_function(arguments, body)
