"""Linear layers over plain rows ``[M, K]`` (a few tokens, a classifier): output channels are the vector lanes.

Ternary codes with 8-bit activations add 8-bit products in 16 bits, exact for 128 inputs at a time, then in 32 bits.
Everything else (several terms, 8-bit dense weights, float activations) multiplies and adds in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.backends.cpu.kernels.epilogue import MAGIC
from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused, Linear
from tvm_schedules.ir.ternary_tensor import TernaryTensor

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["Spec", "emit", "lower"]

NAME = "linear"
"""What artifacts and tuning databases call this kernel."""

STEP = 128
"""Inputs whose products with -1, 0, 1 fit 16 bits: 128 * 255 < 32768."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        batch: Rows M.
        inputs: Inputs K.
        outputs: Output channels O.
        x: ``"uint8"`` or ``"float32"``.
        weights: ``"int8"`` or ``"float32"``.
        exact: Sum in integers (8-bit activations and ternary codes).
        out: ``"uint8"`` or ``"float32"``.
        residual: Type of a residual ``[M, O]``, or None.
        vector: Bytes a vector register.
        parallel: Whether threads share the jobs.
        fma: Whether the target has a fused multiply-add.
    """

    batch: int
    inputs: int
    outputs: int
    x: str
    weights: str
    exact: bool
    out: str
    residual: str | None
    vector: int
    parallel: bool
    fma: bool

    @property
    def lanes(self) -> int:
        """Output channels a vector."""
        return self.vector // (2 if self.exact else 4)

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole vectors."""
        return -(-self.outputs // self.lanes) * self.lanes


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


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes linear layers (those that :mod:`.sparse_conv` leaves)."""
    if not isinstance(node, Linear) or node.weight is None:
        return False
    weight, x = node.weight, ctx.graph.values[node.inputs[0]]
    source, quant = ctx.plain(node.inputs[0]), ctx.input_quant(node)
    batch, inputs, exact = prod(x.shape[:-1]), x.shape[-1], False
    arrays: dict[str, np.ndarray]
    params: dict[str, Any] = {}
    if isinstance(weight, TernaryTensor):
        full, outputs = weight.per_channel, weight.channels
        simple = weight.terms == 1 and weight.is_symmetric
        exact, dtype = simple and x.dtype == "uint8", "int8" if simple else "float32"
        level = full.positive[0].astype(np.float64) if simple else np.ones(outputs)
        values = weight.codes[0] if simple else weight.dequantize()
        arrays = weight.stored
        params = {"shape": list(weight.codes.shape)}
        nonzero, stored = round(batch * weight.codes[0].size * (1 - weight.sparsity())), weight.nbytes()
    else:
        values, outputs = weight.values, weight.values.shape[0]
        level, dtype = weight.scale.astype(np.float64), values.dtype.name
        arrays, nonzero, stored = {"values": values}, batch * values.size, values.nbytes
    macs = batch * inputs * outputs
    unit = level * quant.scale * node.scale
    numbers = ctx.numbers(node, unit, node.bias - quant.zero_point * unit * values.astype(np.float64).sum(1))
    residual = ctx.graph.values[node.residual].dtype if node.residual else None
    out_dtype, vector = ctx.graph.values[node.outputs[0]].dtype, ctx.target.vector_bytes
    parallel = macs > ctx.serial * 8
    spec = Spec(batch, inputs, outputs, x.dtype, dtype, exact, out_dtype, residual, vector, parallel, ctx.fma)
    for name in ("scale", "bias"):
        numbers[name] = np.pad(numbers[name], (0, spec.padded - outputs))
    made = ctx.constants.add(node.name, "linear", arrays, {**params, "dtype": dtype, "padded": spec.padded})
    numeric = ctx.constants.add(node.name, "raw", numbers)
    beside = [ctx.plain(node.residual)] if node.residual else []
    args = [source, made["values"], numeric["scale"], numeric["bias"], numeric["params"], *beside]
    reason = f"{batch} row{'s' * (batch > 1)}, output channels in the lanes, weights as {dtype}"
    ctx.report(node, weight, "linear", reason)
    info = {"macs": macs, "nonzero_macs": nonzero, "bytes_weights": stored, "reason": reason}
    ctx.add_step(node, NAME, spec, [*args, ctx.new_plain(node.outputs[0])], info)
    return True
