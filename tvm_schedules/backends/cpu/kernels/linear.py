"""Linear layers over plain rows ``[M, K]`` (a few tokens, a classifier): output channels are the vector lanes.

Ternary codes with 8-bit activations add 8-bit products in 16 bits, exact for 128 inputs at a time, then in 32 bits.
Everything else (several terms, 8-bit dense weights, float activations) multiplies and adds in float32.

Bound by reading the weights: there is one multiply-add for each of them and each row.
"""

from __future__ import annotations

from typing import Any

from tvm_schedules.backends.cpu.kernels.common.epilogue import MAGIC
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.lowering.rules.linear import NAME, Spec, lower

__all__ = ["NAME", "Spec", "emit", "lower"]

STEP = 128
"""Inputs whose products with -1, 0, 1 fit 16 bits: 128 * 255 < 32768."""


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
    blocks = spec.padded // lanes

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
                    weight = e.cast(e.load(values, k * spec.padded + block * lanes, lanes), i16)
                    e.store(short, 0, e.load(short, 0, lanes) + pixel * weight, lanes)
                e.store(total, 0, e.load(total, 0, lanes) + e.cast(e.load(short, 0, lanes), i32), lanes)

            with e.loop(K // STEP) as s:
                step(s * STEP, STEP)
            if K % STEP:
                step(K // STEP * STEP, K % STEP)
            return e.cast(e.load(total, 0, lanes), f32)

        def floats(m: Any, block: Any) -> Any:
            acc = e.local(lanes, "float32")
            e.store(acc, 0, e.const(0.0, f32), lanes)
            with e.loop(K) as k:
                pixel = e.splat(e.cast(e.load(x, m * K + k), "float32"), lanes)
                weight = e.cast(e.load(values, k * spec.padded + block * lanes, lanes), f32)
                old = e.load(acc, 0, lanes)
                e.store(acc, 0, e.fma(pixel, weight, old) if spec.fma else old + pixel * weight, lanes)
            return e.load(acc, 0, lanes)

        def result(y: Any) -> Any:
            return e.cast(e.bits(y + e.const(MAGIC, "float32"), "int32"), "uint8") if spec.out == "uint8" else y

        with e.jobs(spec.batch * blocks, spec.parallel) as job:
            m, block = job // blocks, job % blocks
            row = e.local(lanes, "float32")
            acc = integers(m, block) if spec.exact else floats(m, block)
            factor, offset = e.load(scale, block * lanes, lanes), e.load(bias, block * lanes, lanes)
            e.store(row, 0, e.fma(acc, factor, offset) if spec.fma else acc * factor + offset, lanes)
            with e.loop(lanes) as i:
                o = block * lanes + i
                with e.when(o < O):
                    y = e.load(row, i)
                    if residual is not None:
                        y = y + e.cast(e.load(residual, m * O + o), "float32") * e.load(params, 0)
                    y = e.min(e.max(y, e.load(params, 1)), e.load(params, 2))
                    e.store(out, m * O + o, result(y))

    return kernel_function(arguments, body)
