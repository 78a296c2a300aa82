"""Functions of two tensors, one of which may be repeated along axes of the other: gates, sums, slopes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_schedules.backends.c.site import MOST_DIMS, Operator, Site, Tensor, loops, strides

_C = {
    "Add": "a + b",
    "Sub": "a - b",
    "Mul": "a * b",
    "Div": "a / b",
    "Max": "a > b ? a : b",
    "Min": "a < b ? a : b",
    "PRelu": "a < 0 ? a * b : a",
}

OPERATORS = tuple(_C)

CODE = """
struct tern_NAME {
    const float *constant; /* in the place of the operand that is known, or NULL */
    int32_t rank, dims[6], a[6], b[6], rows;
    uint8_t first; /* whether the constant is the first operand */
    struct tern_number from_a, from_b, to;
};

static void tern_NAME(const struct tern_NAME *l, const void *x, const void *other, void *to)
{
    const int32_t last = l->rank - 1, count = l->dims[last], step_a = l->a[last], step_b = l->b[last];
    const void *left = l->constant && l->first ? (const void *)l->constant : x;
    const void *right = !l->constant ? other : l->first ? x : (const void *)l->constant;
    int32_t row, d, i, at = 0;
    for (row = 0; row < l->rows; row++) {
        int32_t rest = row, from_a = 0, from_b = 0;
        for (d = last - 1; d >= 0; d--) {
            const int32_t index = rest % l->dims[d];
            rest /= l->dims[d];
            from_a += index * l->a[d];
            from_b += index * l->b[d];
        }
        for (i = 0; i < count; i++) {
            const float a = tern_get(left, from_a, l->from_a), b = tern_get(right, from_b, l->from_b);
            tern_put(to, at++, FUNCTION, l->to);
            from_a += step_a;
            from_b += step_b;
        }
    }
}
"""
LIMITS = (float(np.finfo(np.float32).min), float(np.finfo(np.float32).max))
"""What infinities of a mask become: C has no constants for them without a library."""

_FLOATS = {"scale": 1.0, "zero": 0.0, "bytes": 0}


def lower(site: Site) -> bool:
    """One loop nest; False for more operands than two, and for other numbers than floats and bytes."""
    if len(site.node.inputs) != 2:
        return False
    return apply(site, site.node.op, site.node.outputs[0])


def apply(site: Site, op: str, output: str) -> bool:
    """As :func:`lower`, for the operator of that name."""
    constants = [site.constant(0), site.constant(1)]
    if all(constant is not None for constant in constants):
        return False
    reads = [site.read(index) for index in (0, 1) if constants[index] is None]
    y = site.write()
    known = next((constant for constant in constants if constant is not None), None)
    if any(t.dtype != "float32" and t.quant is None for t in (*reads, y)) or (
        known is not None and known.dtype.kind != "f"
    ):
        return False
    shapes = [site.shape(0), site.shape(1)]
    nest = loops(y.shape, *(_steps(shape, y.shape) for shape in shapes))
    if nest is None:
        return False
    sizes, steps = nest
    numbers = [_FLOATS if constants[i] is not None else next(t.number for t in _of(site, i, reads)) for i in (0, 1)]
    fields = {
        "constant": 0,
        "rank": len(sizes),
        "dims": _padded(sizes),
        "a": _padded(steps[0]),
        "b": _padded(steps[1]),
        "rows": int(np.prod(sizes[:-1])),
        "first": constants[0] is not None,
        "from_a": numbers[0],
        "from_b": numbers[1],
        "to": y.number,
    }
    tables = {} if known is None else {"constant": np.clip(known.ravel(), *LIMITS).astype(np.float32)}
    name = f"pair_{op.lower()}"
    code = CODE.replace("NAME", name).replace("FUNCTION", _C[op])
    site.add(Operator(name, (code,), fields, tables), reads if len(reads) == 2 else [*reads, *reads], [y])
    return True


def _of(site: Site, index: int, reads: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensor of an operand: the only one that is read, or that in its place."""
    return reads if len(reads) == 1 else reads[index : index + 1]


def _steps(shape: Sequence[int], whole: Sequence[int]) -> list[int]:
    own = [1] * (len(whole) - len(shape)) + list(shape)
    return [step if size > 1 else 0 for step, size in zip(strides(own), own, strict=True)]


def _padded(values: Sequence[int]) -> list[int]:
    return [*values, *[0] * (MOST_DIMS - len(values))]
