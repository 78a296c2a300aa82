"""Products of two computed matrices, as attention has them: exact sums of integers where both operands are bytes."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm_schedules.backends.c.site import MOST_DIMS, Operator, Site, Tensor, loops, strides

OPERATORS = ("MatMul",)

MOST_INNER = (2**31 - 1) // 255**2
"""Products of bytes that 32 bits hold the sum of."""

CODE = """
/* y[i][j] = sum over k of a[i][k] * b[k][j], for each of many pairs of matrices. */
struct tern_matmul {
    int32_t rows, inner, columns;
    int32_t rank, dims[6], a[6], b[6], pairs; /* where the pairs are */
    struct tern_number from_a, from_b, to;
};

/* A row of a times four columns of b, of which count are there. */
static void tern_matmul_bytes(const struct tern_matmul *l, const uint8_t *a, const uint8_t *b, int32_t count,
                              float *sum)
{
    const int32_t zero_a = (int32_t)l->from_a.zero, zero_b = (int32_t)l->from_b.zero, step = l->columns;
    int32_t s[4] = {0, 0, 0, 0}, all = 0, k, j;
    if (count == 4) for (k = 0; k < l->inner; k++, b += step) {
        const int32_t x = a[k] - zero_a;
        all += x;
        s[0] += x * b[0];
        s[1] += x * b[1];
        s[2] += x * b[2];
        s[3] += x * b[3];
    } else for (k = 0; k < l->inner; k++, b += step) {
        const int32_t x = a[k] - zero_a;
        all += x;
        for (j = 0; j < count; j++) s[j] += x * b[j];
    }
    for (j = 0; j < count; j++) sum[j] = (float)(s[j] - all * zero_b) * (l->from_a.scale * l->from_b.scale);
}

static void tern_matmul_row(const struct tern_matmul *l, const void *a, int32_t at_a, const void *b, int32_t at_b,
                            void *y, int32_t at)
{
    int32_t j, k, i;
    for (j = 0; j < l->columns; j += 4) {
        const int32_t count = l->columns - j < 4 ? l->columns - j : 4;
        float sum[4] = {0, 0, 0, 0};
        if (l->from_a.bytes && l->from_b.bytes) {
            tern_matmul_bytes(l, (const uint8_t *)a + at_a, (const uint8_t *)b + at_b + j, count, sum);
        } else for (k = 0; k < l->inner; k++) {
            const float x = tern_get(a, at_a + k, l->from_a);
            for (i = 0; i < count; i++) {
                sum[i] = tern_fma(x, tern_get(b, at_b + k * l->columns + j + i, l->from_b), sum[i]);
            }
        }
        for (i = 0; i < count; i++) tern_put(y, at + j + i, sum[i], l->to);
    }
}

static void tern_matmul(const struct tern_matmul *l, const void *a, const void *b, void *y)
{
    int32_t pair, i, d, at = 0;
    for (pair = 0; pair < l->pairs; pair++) {
        int32_t rest = pair, at_a = 0, at_b = 0;
        for (d = l->rank - 1; d >= 0; d--) {
            const int32_t index = rest % l->dims[d];
            rest /= l->dims[d];
            at_a += index * l->a[d];
            at_b += index * l->b[d];
        }
        for (i = 0; i < l->rows; i++, at_a += l->inner, at += l->columns) {
            tern_matmul_row(l, a, at_a, b, at_b, y, at);
        }
    }
}
"""


def lower(site: Site) -> bool:
    """Matrices by broadcast leading axes; False for vectors, and for sums too long."""
    a, b, y = site.read(0), site.read(1), site.write()
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[-1] > MOST_INNER:
        return False
    if any(t.dtype != "float32" and t.quant is None for t in (a, b, y)):
        return False
    lead = y.shape[:-2]
    nest = loops(lead, *(_steps(t, len(lead)) for t in (a, b)))
    if nest is None:
        return False
    sizes, (steps_a, steps_b) = nest
    fields: dict[str, Any] = {"rows": a.shape[-2], "inner": a.shape[-1], "columns": b.shape[-1]}
    fields |= {"rank": len(sizes), "pairs": prod(lead)}
    for name, values in (("dims", sizes), ("a", steps_a), ("b", steps_b)):
        fields[name] = [*values, *[0] * (MOST_DIMS - len(values))]
    fields |= {"from_a": a.number, "from_b": b.number, "to": y.number}
    site.add(Operator("matmul", (CODE,), fields), [a, b], [y])
    return True


def _steps(tensor: Tensor, rank: int) -> list[int]:
    """Elements from matrix to matrix in every leading axis, 0 where there is one for all."""
    own = strides(tensor.shape)[:-2]
    found = [step if size > 1 else 0 for step, size in zip(own, tensor.shape[:-2], strict=True)]
    return [0] * (rank - len(found)) + found
