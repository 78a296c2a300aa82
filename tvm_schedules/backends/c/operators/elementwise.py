"""Functions of one number: a table where input and output have 8 bits, else computed element by element."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.site import MATH, ROOT, Operator, Site
from tvm_schedules.ir.graph import Quant
from tvm_schedules.passes.activations import KINDS
from tvm_schedules.passes.activations import OPERATORS as FUNCTIONS

PREFIX = "activation:"
"""Before the name of a function of :data:`tvm_schedules.passes.activations.KINDS`, for what a layer was followed by."""

_MORE: dict[str, Callable[..., Any]] = {
    "LeakyRelu": lambda attrs, x: np.where(x < 0, attrs.get("alpha", 0.01) * x, x),
    "Elu": lambda attrs, x: np.where(x < 0, attrs.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),
    "Abs": lambda attrs, x: np.abs(x),
    "Sqrt": lambda attrs, x: np.sqrt(x),
    "Log": lambda attrs, x: np.log(x),
    "Softplus": lambda attrs, x: np.logaddexp(x, 0),
    "Softsign": lambda attrs, x: x / (1 + np.abs(x)),
    "Identity": lambda attrs, x: x,
}
_NAMES = (
    "Sigmoid",
    "Tanh",
    "Relu",
    "Clip",
    "Neg",
    "Exp",
    "Erf",
    "Reciprocal",
    "Gelu",
    "Swish",
    "HardSwish",
    "HardSigmoid",
)

OPERATORS = (*_NAMES, *_MORE, "Pow", *(PREFIX + kind for kind in KINDS))

_C = {
    "Sigmoid": "tern_sigmoid(x)",
    "Tanh": "tern_tanh(x)",
    "Relu": "x > 0 ? x : 0",
    "Clip": "tern_clip(x, l->a, l->b)",
    "Neg": "-x",
    "Exp": "tern_exp(x)",
    "Erf": "tern_erf(x)",
    "Reciprocal": "1.0f / x",
    "Gelu": "0.5f * x * (1.0f + tern_erf(x * 0.70710678f))",
    "gelu_tanh": "x * tern_sigmoid(1.5957691f * x * tern_fma(0.044715f * x, x, 1.0f))",
    "Swish": "x * tern_sigmoid(l->a * x)",
    "HardSwish": "x * tern_clip(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f)",
    "hardsigmoid": "tern_clip(x + 3.0f, 0.0f, 6.0f) * (1.0f / 6.0f)",
    "HardSigmoid": "tern_clip(tern_fma(l->a, x, l->b), 0.0f, 1.0f)",
    "LeakyRelu": "x < 0 ? l->a * x : x",
    "Elu": "x < 0 ? l->a * (tern_exp(x) - 1.0f) : x",
    "Abs": "x < 0 ? -x : x",
    "Softsign": "x / (1.0f + (x < 0 ? -x : x))",
    "Identity": "x",
    "Sqrt": "tern_root(x)",
    "Log": "tern_log(x)",
    "Softplus": "(x > 0 ? x : 0) + tern_log(1.0f + tern_exp(x > 0 ? -x : x))",
}
_SAME = {"gelu": "Gelu", "gelu_sigmoid": "Swish", "silu": "Swish", "hardswish": "HardSwish", "sigmoid": "Sigmoid"}
_SAME |= {"tanh": "Tanh"}
_HALVES = range(-16, 17)
"""Twice the exponents that a power in C may have: whole numbers and halves, by products and a root."""
_DEFAULTS = {"Swish": (1.0, 0.0), "HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01, 0.0), "Elu": (1.0, 0.0)}

TABLE = """
/* A function of bytes. */
struct tern_table8 {
    const uint8_t *table;
    int32_t count;
};

static void tern_table8(const struct tern_table8 *l, const void *x, void *y)
{
    int32_t i;
    for (i = 0; i < l->count; i++) ((uint8_t *)y)[i] = l->table[((const uint8_t *)x)[i]];
}
"""

CODE = """
struct tern_NAME {
    float a, b;
    int32_t count;
    struct tern_number from, to;
};

static void tern_NAME(const struct tern_NAME *l, const void *from, void *to)
{
    int32_t i;
    for (i = 0; i < l->count; i++) {
        const float x = tern_get(from, i, l->from);
        tern_put(to, i, FUNCTION, l->to);
    }
}
"""


def lower(site: Site) -> bool:
    """A table of 256 bytes, or a loop; False where a bound is computed or the function has no form in C."""
    op = site.node.op
    bounds = [site.constant(index) for index in range(1, len(site.node.inputs))]
    given = [name for name in site.node.inputs[1:] if name]
    if len(given) != sum(bound is not None for bound in bounds):
        return False
    exponent = _exponent(bounds) if op == "Pow" else None
    if op == "Pow" and exponent is None:
        return False
    x, y = site.read(0), site.write()
    count = prod(x.shape)
    if x.quant and y.quant:
        table = _table(_function(site, bounds), x.quant, y.quant)
        site.add(Operator("table8", (TABLE,), {"count": count}, {"table": table}, in_place=True), [x], [y])
        return True
    kind = op.removeprefix(PREFIX)
    kind = _SAME.get(kind, kind)
    if op == "Gelu" and site.attrs.get("approximate", "none") in ("tanh", b"tanh"):
        kind = "gelu_tanh"
    form = _power(exponent) if exponent is not None else _C.get(kind)
    if form is None or "float32" not in (x.dtype, y.dtype):
        return False
    a, b = _parameters(site, kind, bounds)
    name = f"each_{kind.lower()}"
    if exponent is not None:
        name += f"_{2 * exponent:.0f}".replace("-", "minus_")
    code = CODE.replace("NAME", name).replace("FUNCTION", form)
    fields = {"a": a, "b": b, "count": count, "from": x.number, "to": y.number}
    site.add(Operator(name, (MATH, ROOT, code), fields, in_place=x.dtype == y.dtype), [x], [y])
    return True


def functions(kinds: Collection[str]) -> str:
    """C of ``tern_activate``, which is these functions of :data:`KINDS` by their number there, from 1 on."""
    forms = {"silu": "x * tern_sigmoid(x)", "gelu_sigmoid": "x * tern_sigmoid(1.702f * x)"}
    cases = [
        f"    case {1 + number}: return {forms.get(kind) or _C.get(kind) or _C[_SAME[kind]]};"
        for number, kind in enumerate(KINDS)
        if kind in kinds
    ]
    return "\n".join(
        [
            "/* The activation function of that number, of a sum. */",
            "static float tern_activate(int32_t number, float x)\n{\n    switch (number) {",
            *cases,
            "    default: return x;\n    }\n}",
        ]
    )


def _exponent(bounds: list[np.ndarray | None]) -> float | None:
    """The exponent of a power that has a form in C, and is the same for all numbers."""
    (given,) = bounds
    if given is None or given.size != 1 or 2 * float(given.ravel()[0]) not in _HALVES:
        return None
    return float(given.ravel()[0])


def _power(exponent: float) -> str:
    """C of a power of ``x``: negative numbers have no roots, which are 0 then."""
    whole, half = divmod(abs(2 * exponent), 2)
    factors = ["x"] * int(whole) + ["tern_root(x)"] * int(half)
    product = " * ".join(factors or ["1.0f"])
    return product if exponent >= 0 else f"1.0f / ({product})"


def _parameters(site: Site, kind: str, bounds: list[np.ndarray | None]) -> tuple[float, float]:
    if kind == "Clip":
        ends = [*bounds, None, None][:2]
        values = [default if end is None else end.ravel()[0] for end, default in zip(ends, (-3e38, 3e38), strict=True)]
        return float(values[0]), float(values[1])
    a, b = _DEFAULTS.get(kind, (0.0, 0.0))
    if site.node.op == f"{PREFIX}gelu_sigmoid":
        return 1.702, 0.0
    return float(site.attrs.get("alpha", a)), float(site.attrs.get("beta", b))


def _function(site: Site, bounds: list[np.ndarray | None]) -> Callable[[np.ndarray], np.ndarray]:
    op = site.node.op
    if op.startswith(PREFIX):
        return KINDS[op.removeprefix(PREFIX)]
    if op == "Clip":
        low, high = _parameters(site, "Clip", bounds)
        return lambda x: np.clip(x, low, high)
    exponent = _exponent(bounds) if op == "Pow" else None
    if exponent is not None:
        return lambda x: np.power(x, exponent)
    function = _MORE.get(op) or FUNCTIONS[op]
    return lambda x: function(site.attrs, x)


def _table(function: Callable[[np.ndarray], np.ndarray], x: Quant, y: Quant) -> np.ndarray:
    """The byte of the function's value for every byte."""
    numbers = ((np.arange(256) - x.zero_point).astype(np.float32) * np.float32(x.scale)).astype(np.float64)
    with np.errstate(all="ignore"):
        values = np.nan_to_num(function(numbers)).astype(np.float32)
    return np.clip(np.rint(values / np.float32(y.scale)) + y.zero_point, 0, 255).astype(np.uint8)
