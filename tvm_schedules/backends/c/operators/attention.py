"""Attention: one row of scores at a time, from the products with the keys to the weighted sum of the values.

The scores of all rows are never there together. Products of bytes are exact sums of integers, exponentials are powers
of two, and the sum of a row's weights has 16 parts, as in the kernel for x86 CPUs, whose results are the same.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.operators.broadcast import LIMITS
from tvm_schedules.backends.c.site import MOST_DIMS, Operator, Site, Tensor, loops
from tvm_schedules.ir.graph import Attention
from tvm_schedules.ir.view import View

OPERATORS = ("Attention",)

MOST_MASKS = 3
MOST_INNER = (2**31 - 1) // 255**2
"""Products of bytes that 32 bits hold the sum of."""
LOG2E = 1.4426950408889634

CODE = """
/* Where matrices lie: the first element of the first one, elements from row to row and from column to column, and from
   matrix to matrix along every axis of the pairs. */
struct tern_matrices {
    int32_t at, row, column, lead[6];
};

struct tern_mask {
    struct tern_matrices place;
    uint8_t limit; /* it is the most that scores may be, and not added */
};

/* y = softmax(factor * q k' + masks) v for each of many pairs of matrices. */
struct tern_attention {
    const float *known_0, *known_1, *known_2; /* masks; NULL: computed */
    int32_t rank, dims[6], pairs, rows, keys, depth, width;
    struct tern_matrices q, k, v, y;
    struct tern_mask mask[3];
    uint8_t masks; /* how many there are */
    uint8_t empty; /* rows without a key have zeros as results */
    float factor, power; /* of products; of what is the exponent of two that is the weight of a key */
    struct tern_number from_q, from_k, from_v, to;
};

/* 2 to the power of x for -126 and more, relative error 8e-8. */
static inline float tern_exp2(float x)
{
    int32_t n;
    float r, p;
    uint32_t bits;
    x = x < -126.0f ? -126.0f : x;
    n = tern_round(x);
    r = x - (float)n;
    p = tern_fma(1.32669704e-3f, r, 9.67545975e-3f);
    p = tern_fma(p, r, 5.55074262e-2f);
    p = tern_fma(p, r, 2.40221218e-1f);
    p = tern_fma(p, r, 6.93146949e-1f);
    p = tern_fma(p, r, 1.00000007f);
    tern_copy_bytes(&bits, &p, sizeof bits);
    bits += (uint32_t)n << 23;
    tern_copy_bytes(&p, &bits, sizeof p);
    return p;
}

static int32_t tern_matrix_at(const struct tern_attention *l, const struct tern_matrices *m, int32_t pair)
{
    int32_t d, at = m->at;
    for (d = l->rank - 1; d >= 0; d--) {
        at += pair % l->dims[d] * m->lead[d];
        pair /= l->dims[d];
    }
    return at;
}

static float tern_score(const struct tern_attention *l, const void *q, int32_t at_q, const void *k, int32_t at_k)
{
    const int32_t step_q = l->q.column, step_k = l->k.column;
    int32_t i;
    if (l->from_q.bytes && l->from_k.bytes) {
        const uint8_t *a = (const uint8_t *)q + at_q, *b = (const uint8_t *)k + at_k;
        const int32_t zero_a = (int32_t)l->from_q.zero, zero_b = (int32_t)l->from_k.zero;
        int32_t sum = 0;
        for (i = 0; i < l->depth; i++) sum += (a[i * step_q] - zero_a) * (b[i * step_k] - zero_b);
        return (float)sum * l->factor;
    } else {
        float sum = 0;
        for (i = 0; i < l->depth; i++) {
            sum = tern_fma(tern_get(q, at_q + i * step_q, l->from_q), tern_get(k, at_k + i * step_k, l->from_k), sum);
        }
        return sum * l->factor;
    }
}

/* A row: scores of all keys, their softmax, the sum of the values; score has memory for as many floats as both are. */
static void tern_attention_row(const struct tern_attention *l, const void *q, int32_t at_q, const void *k, int32_t at_k,
                               const void *v, int32_t at_v, const float *const *mask, void *y, int32_t at, float *score)
{
    float *const sum = score + l->keys;
    float most = 0, part[16] = {0}, share;
    int32_t t, i;
    for (t = 0; t < l->keys; t++) {
        score[t] = tern_score(l, q, at_q, k, at_k + t * l->k.row);
        for (i = 0; i < l->masks; i++) {
            const float other = mask[i][t * l->mask[i].place.column];
            score[t] = !l->mask[i].limit ? score[t] + other : other < score[t] ? other : score[t];
        }
        most = t == 0 || score[t] > most ? score[t] : most;
    }
    for (i = 0; i < l->width; i++) sum[i] = 0;
    if (l->empty && most < -3.402823466e38f) { /* minus infinity */
        for (i = 0; i < l->width; i++) tern_put(y, at + i * l->y.column, 0, l->to);
        return;
    }
    for (t = 0; t < l->keys; t++, at_v += l->v.row) {
        const float weight = tern_exp2((score[t] - most) * l->power);
        const int32_t step = l->v.column;
        part[t & 15] += weight;
        for (i = 0; i < l->width; i++) sum[i] = tern_fma(weight, tern_get(v, at_v + i * step, l->from_v), sum[i]);
    }
    for (t = 8; t > 0; t /= 2) for (i = 0; i < t; i++) part[i] += part[i + t];
    share = 1.0f / part[0];
    for (i = 0; i < l->width; i++) tern_put(y, at + i * l->y.column, sum[i] * share, l->to);
}

static void tern_attention(const struct tern_attention *l, const void *q, const void *k, const void *v,
                           const void *mask_0, const void *mask_1, const void *mask_2, void *y, void *scratch)
{
    const float *const given[3] = {l->known_0 ? l->known_0 : (const float *)mask_0,
                                   l->known_1 ? l->known_1 : (const float *)mask_1,
                                   l->known_2 ? l->known_2 : (const float *)mask_2};
    int32_t pair, row, i;
    for (pair = 0; pair < l->pairs; pair++) {
        const int32_t at_q = tern_matrix_at(l, &l->q, pair), at_k = tern_matrix_at(l, &l->k, pair);
        const int32_t at_v = tern_matrix_at(l, &l->v, pair), at = tern_matrix_at(l, &l->y, pair);
        for (row = 0; row < l->rows; row++) {
            const float *rows[3] = {NULL, NULL, NULL};
            for (i = 0; i < l->masks; i++) {
                const struct tern_mask *m = &l->mask[i];
                rows[i] = given[i] + tern_matrix_at(l, &m->place, pair) + row * m->place.row;
            }
            tern_attention_row(l, q, at_q + row * l->q.row, k, at_k, v, at_v, rows, y, at + row * l->y.row, scratch);
        }
    }
}
"""


def lower(site: Site) -> bool:
    """Of any views; False for more than :data:`MOST_MASKS` masks, and where scores of bytes would be too long."""
    node = site.node
    if not isinstance(node, Attention) or len(node.masks) > MOST_MASKS:
        return False
    known = [site.constant(3 + index) for index in range(len(node.masks))]
    if any(mask is None and site.graph.values[site.name(3 + i)].dtype != "float32" for i, mask in enumerate(known)):
        return False
    q, k, v = (site.read(index) for index in range(3))
    masks = [site.floats(site.name(3 + i)) if mask is None else q for i, mask in enumerate(known)]
    y = site.write()
    if any(t.dtype != "float32" and t.quant is None for t in (q, k, v, y)) or node.q.shape[-1] > MOST_INNER:
        return False
    views = (node.q, node.k, node.v, node.out, *node.masks)
    lead = node.q.shape[:-2]
    nest = loops(lead, *(view.strides[:-2] for view in views))
    if nest is None:
        return False
    sizes, steps = nest
    fields: dict[str, Any] = {"rank": len(sizes), "dims": _padded(sizes), "pairs": prod(lead)}
    fields |= {"rows": node.q.shape[-2], "keys": node.k.shape[-2], "depth": node.q.shape[-1], "width": node.v.shape[-1]}
    places = [_matrices(view, apart) for view, apart in zip(views, steps, strict=True)]
    fields |= dict(zip("qkvy", places[:4], strict=True))
    own = [{"place": at, "limit": limit} for at, limit in zip(places[4:], node.limits, strict=True)]
    fields |= {"mask": own} if own else {}
    tables = {
        f"known_{i}": np.clip(a.ravel(), *LIMITS).astype(np.float32) for i, a in enumerate(known) if a is not None
    }
    unit = node.factor if masks else node.factor * LOG2E
    if q.quant and k.quant:
        unit *= q.quant.scale * k.quant.scale
    fields |= {"masks": len(masks), "empty": node.empty, "factor": unit, "power": LOG2E if masks else 1.0}
    fields |= {"from_q": q.number, "from_k": k.number, "from_v": v.number, "to": y.number}
    scratch = node.k.shape[-2] + node.v.shape[-1]
    reads: list[Tensor] = [q, k, v, *masks, *[q] * (MOST_MASKS - len(masks))]
    site.add(Operator("attention", (CODE,), fields, tables, scratch), reads, [y])
    return True


def _matrices(view: View, lead: list[int]) -> dict[str, Any]:
    """Fields of a ``struct tern_matrices``."""
    row, column = view.strides[-2:]
    return {"at": view.offset, "row": row, "column": column, "lead": _padded(lead)}


def _padded(values: list[int]) -> list[int]:
    return [*values, *[0] * (MOST_DIMS - len(values))]
