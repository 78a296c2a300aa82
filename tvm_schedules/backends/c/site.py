"""What the files of operators have in common: tensors of a node in plain form, as bytes or floats, and the call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.kernels.common.translation import Translation
from tvm_schedules.backends.c.program import Call
from tvm_schedules.ir.graph import Node, Quant, Weight
from tvm_schedules.lowering.base import Lowering
from tvm_schedules.lowering.steps import Buffer, Step

__all__ = ["MATH", "MOST_DIMS", "ROOT", "Operator", "Site", "Tensor", "loops", "strides"]

MOST_DIMS = 6
"""Dimensions of loops in C."""

TABLE = "operand"
"""What an operand is stored as that is known."""

NUMBERS = """
/* Elements of a tensor: floats, or bytes q that stand for (q - zero) * scale. */
struct tern_number {
    float scale, zero;
    uint8_t bytes;
};

static inline float tern_get(const void *x, int32_t i, struct tern_number n)
{
    return n.bytes ? ((float)((const uint8_t *)x)[i] - n.zero) * n.scale : ((const float *)x)[i];
}

static inline void tern_put(void *y, int32_t i, float value, struct tern_number n)
{
    if (n.bytes) ((uint8_t *)y)[i] = tern_quantize(value, n.scale, n.zero, 0, 255);
    else ((float *)y)[i] = value;
}
"""

MATH = """
static inline float tern_power_of_two(int32_t n)
{
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float y;
    tern_copy_bytes(&y, &bits, sizeof y);
    return y;
}

/* e to the power of x, relative error below 2e-7: x = n ln 2 + r, a polynomial of r (Cephes' expf, Moshier 1989). */
static inline float tern_exp(float x)
{
    int32_t n;
    float r, p;
    if (x < -87.3f) return 0.0f;
    x = x < 88.7f ? x : 88.7f;
    n = tern_round(x * 1.44269504f);
    r = tern_fma((float)n, -0.693359375f, x);
    r = tern_fma((float)n, 2.12194440e-4f, r);
    p = tern_fma(1.9875691500e-4f, r, 1.3981999507e-3f);
    p = tern_fma(p, r, 8.3334519073e-3f);
    p = tern_fma(p, r, 4.1665795894e-2f);
    p = tern_fma(p, r, 1.6666665459e-1f);
    p = tern_fma(p, r, 5.0000001201e-1f);
    p = tern_fma(p * r, r, r) + 1.0f;
    return p * tern_power_of_two(n / 2) * tern_power_of_two(n - n / 2);
}

static inline float tern_sigmoid(float x)
{
    return 1.0f / (1.0f + tern_exp(-x));
}

static inline float tern_tanh(float x)
{
    const float square = x * x;
    if (square < 0.01f) return tern_fma(x * square, tern_fma(square, 0.13333334f, -0.33333334f), x);
    return 1.0f - 2.0f / (1.0f + tern_exp(2.0f * x));
}

/* absolute error below 2e-7 (Abramowitz and Stegun, 1964, 7.1.26) */
static inline float tern_erf(float x)
{
    const float size = x < 0 ? -x : x, t = 1.0f / tern_fma(0.3275911f, size, 1.0f);
    float p = tern_fma(1.061405429f, t, -1.453152027f), y;
    p = tern_fma(p, t, 1.421413741f);
    p = tern_fma(p, t, -0.284496736f);
    p = tern_fma(p, t, 0.254829592f);
    y = 1.0f - p * t * tern_exp(-size * size);
    return x < 0 ? -y : y;
}

/* natural logarithm of x > 0, relative error below 2e-7 (Cephes' logf, Moshier 1989); else the lowest number */
static inline float tern_log(float x)
{
    uint32_t bits;
    float r, p, n;
    if (!(x > 0)) return -3.402823e38f;
    tern_copy_bytes(&bits, &x, sizeof bits);
    n = (float)((int32_t)(bits >> 23) - 126);
    bits = (bits & 0x7fffffu) | 0x3f000000u;
    tern_copy_bytes(&x, &bits, sizeof x); /* from 1/2 to 1 */
    r = x < 0.70710678f ? x + x - 1.0f : x - 1.0f;
    n = x < 0.70710678f ? n - 1.0f : n;
    p = tern_fma(7.0376836292e-2f, r, -1.1514610310e-1f);
    p = tern_fma(p, r, 1.1676998740e-1f);
    p = tern_fma(p, r, -1.2420140846e-1f);
    p = tern_fma(p, r, 1.4249322787e-1f);
    p = tern_fma(p, r, -1.6668057665e-1f);
    p = tern_fma(p, r, 2.0000714765e-1f);
    p = tern_fma(p, r, -2.4999993993e-1f);
    p = tern_fma(p, r, 3.3333331174e-1f);
    p = tern_fma(n, -2.12194440e-4f, p * r * r * r);
    p = tern_fma(-0.5f * r, r, p) + r;
    return tern_fma(n, 0.693359375f, p);
}
"""

ROOT = """
/* 1 / sqrt(x) for x > 0, by Newton's steps: no library, the same on every CPU */
static inline float tern_inverse_root(float x)
{
    uint32_t bits;
    float y;
    int i;
    tern_copy_bytes(&bits, &x, sizeof bits);
    bits = 0x5f3759dfu - (bits >> 1);
    tern_copy_bytes(&y, &bits, sizeof y);
    for (i = 0; i < 4; i++) y *= tern_fma(-0.5f * x * y, y, 1.5f);
    return y;
}

static inline float tern_root(float x)
{
    return x > 0 ? x * tern_inverse_root(x) : 0.0f;
}
"""
"""C of square roots."""
"""C of exponential functions, for operators that ask for it; written with one rounding for each multiply-add, so that
all compilers make the same numbers."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a node in plain form.

    Attributes:
        name: In the graph.
        shape: Its shape.
        dtype: Of the elements in memory.
        buffer: Where it is.
        quant: What bytes stand for; None for other types.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: Buffer
    quant: Quant | None

    @property
    def number(self) -> dict[str, Any]:
        """Fields of a ``struct tern_number``."""
        quant = self.quant or Quant(1.0, 0)
        return {"scale": float(quant.scale), "zero": float(quant.zero_point), "bytes": self.quant is not None}


@dataclass(frozen=True)
class Operator:
    """A call of C over plain tensors.

    Attributes:
        kind: The struct and the function are ``tern_<kind>``.
        code: C that it needs, each text once in a file.
        fields: Of the struct.
        tables: Constant arrays, by the field that points to them.
        scratch: Floats of memory for this call, which come as the last operand.
        function: Of C, where it is not called as the struct.
        in_place: Whether it may write its first result over its first operand, of the same size.
    """

    kind: str
    code: tuple[str, ...]
    fields: Mapping[str, Any]
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)
    scratch: int = 0
    function: str | None = None
    in_place: bool = False


def emit(t: Translation, index: int, step: Step) -> None:
    """An operator's description, its C, and its call."""
    op: Operator = step.spec
    t.program.need("quantize.c")
    for text in (NUMBERS, *op.code):
        t.program.operators[text] = None
    tables = {name: t.program.array(f"{name}_{index}", np.ascontiguousarray(a)) for name, a in op.tables.items()}
    name = t.program.struct(f"tern_{op.kind}", f"layer_{index}", {**op.fields, **tables}, step.name)
    args: list[Buffer | None] = list(step.args)
    for number, arg in enumerate(step.args):
        if arg.place is not None and arg.place.kind == "constant":
            t.program.operands[id(arg)] = t.program.array(f"operand_{index}_{number}", t.stored(arg)[0][TABLE]).text
    if op.scratch:
        args.append(t.scratch(step, op.scratch, 4))
    t.program.calls.append(Call(f"tern_{op.function or op.kind}", name, args, step.name))


class Site:
    """A node that is being lowered.

    Attributes:
        node: The node.
        attrs: Its attributes.
    """

    def __init__(
        self, ctx: Lowering, node: Node, readers: Mapping[str, Sequence[Node]], makers: Mapping[str, Node]
    ) -> None:
        self._ctx, self.node, self.attrs = ctx, node, node.attrs
        self._readers, self._makers = readers, makers
        self.graph = ctx.graph

    def constant(self, index: int) -> np.ndarray | None:
        """The value of an input that is known now; None for other inputs and for those that are not there."""
        name = self.name(index)
        found = self.graph.constants.get(name)
        if found is None and name in self.graph.weights:
            found = self.graph.weights[name].dequantize()
        return found

    def name(self, index: int) -> str:
        """The name of an input, ``""`` where it is not there."""
        return self.node.inputs[index] if index < len(self.node.inputs) else ""

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an input, constant or not."""
        found = self.constant(index)
        return tuple(found.shape) if found is not None else self.graph.values[self.name(index)].shape

    def read(self, index: int) -> Tensor:
        """An input: its bytes where it is the dequantized form of some, or a table of floats where it is known."""
        name, known = self.name(index), self.constant(index)
        if known is not None:
            table = np.ascontiguousarray(known)
            buffer = self._ctx.constants.add(f"{self.node.name}/{name}", "raw", {TABLE: table})[TABLE]
            return Tensor(name, table.shape, table.dtype.name, buffer, None)
        source = self._bytes_of(name)
        value = self.graph.values[source or name]
        return Tensor(
            value.name, value.shape, value.dtype, self._ctx.plain(value.name), value.quant if source else None
        )

    def _bytes_of(self, name: str) -> str | None:
        """The 8-bit tensor that a tensor is the dequantized form of."""
        node = self._makers.get(name)
        if node is None or node.op != "DequantizeLinear":
            return None
        value = self.graph.values.get(node.inputs[0])
        return value.name if value is not None and value.quant is not None else None

    def _rounded(self, name: str) -> str | None:
        """The 8-bit tensor that is all that is made of a tensor."""
        after = self._readers.get(name, [])
        if name in self.graph.outputs or len(after) != 1 or after[0].op != "QuantizeLinear":
            return None
        value = self.graph.values[after[0].outputs[0]]
        return value.name if value.quant is not None else None

    def write(self, index: int = 0) -> Tensor:
        """An output; the bytes that it is rounded to where nobody reads it as it is."""
        name = self.node.outputs[index]
        target = self._rounded(name)
        value = self.graph.values[target or name]
        return Tensor(
            value.name, value.shape, value.dtype, self._ctx.new_plain(value.name), value.quant if target else None
        )

    def floats(self, name: str, new: bool = False) -> Tensor:
        """A tensor by its name, as floats; ``new`` where the node writes it."""
        value = self.graph.values[name]
        buffer = self._ctx.new_plain(name) if new else self._ctx.plain(name)
        return Tensor(name, value.shape, value.dtype, buffer, None)

    def report(self, node: Node, weight: Weight, kernel: str, stored: int) -> None:
        """Notes a weight for reports, and the bytes that it takes."""
        self._ctx.report(node, weight, kernel, f"{kernel} over plain tensors", stored)

    def add(self, op: Operator, reads: Sequence[Tensor], writes: Sequence[Tensor]) -> None:
        """Appends a call; operands come in that order."""
        args = [tensor.buffer for tensor in (*reads, *writes)]
        info = {"op": self.node.op, "reason": f"{op.kind} over plain tensors"}
        self._ctx.steps.append(Step(self.node.name, op.kind, op, lambda: emit, args, info))


def strides(shape: Sequence[int]) -> list[int]:
    """Elements from one index to the next, for a tensor in plain form."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def loops(shape: Sequence[int], *steps: Sequence[int]) -> tuple[list[int], list[list[int]]] | None:
    """Sizes and steps of as few nested loops as will do; None if they are more than :data:`MOST_DIMS`.

    Args:
        shape: Of what is visited.
        steps: For each operand, the elements from one index to the next in every dimension.

    Example:
        >>> loops((1, 8, 4, 4), (128, 16, 4, 1), (8, 1, 0, 0))
        ([8, 16], [[16, 1], [1, 0]])
    """
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in steps]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(done[-1] == step[axis] * size for done, step in zip(kept, steps, strict=True)):
            sizes[-1] *= size
            for done, step in zip(kept, steps, strict=True):
                done[-1] = step[axis]
        else:
            sizes.append(size)
            for done, step in zip(kept, steps, strict=True):
                done.append(step[axis])
    if not sizes:
        sizes, kept = [1], [[1] for _ in steps]
    return (sizes, kept) if len(sizes) <= MOST_DIMS else None
