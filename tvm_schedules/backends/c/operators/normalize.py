"""Normalization: by the statistics of rows, of groups of channels, or by known ones that no layer could take."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.site import ROOT, Operator, Site

OPERATORS = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization")

CODE = """
struct tern_normalize {
    const float *scale, *bias;        /* NULL: one, zero */
    int32_t rows, count;              /* each row is normalized by its own statistics, if by any */
    int32_t inner, channels;          /* neighbors that share a scale, scales */
    uint8_t known;                    /* no statistics: scale and bias are all */
    float epsilon;
    struct tern_number from, to;
};

static void tern_normalize(const struct tern_normalize *l, const void *x, void *y)
{
    int32_t row, i, at;
    for (row = 0; row < l->rows; row++) {
        const int32_t first = row * l->count;
        float mean = 0, square = 0, factor = 1;
        if (!l->known) {
            for (i = 0; i < l->count; i++) mean += tern_get(x, first + i, l->from);
            mean /= (float)l->count;
            for (i = 0; i < l->count; i++) {
                const float apart = tern_get(x, first + i, l->from) - mean;
                square = tern_fma(apart, apart, square);
            }
            factor = tern_inverse_root(square / (float)l->count + l->epsilon);
        }
        for (i = 0, at = first; i < l->count; i++, at++) {
            const int32_t channel = at / l->inner % l->channels;
            const float value = (tern_get(x, at, l->from) - mean) * factor;
            const float scale = l->scale ? l->scale[channel] : 1.0f, bias = l->bias ? l->bias[channel] : 0.0f;
            tern_put(y, at, tern_fma(value, scale, bias), l->to);
        }
    }
}
"""


def lower(site: Site) -> bool:
    """False where scales are computed, or the statistics are results too."""
    op, numbers = site.node.op, [site.constant(index) for index in range(1, len(site.node.inputs))]
    if any(number is None and site.name(index) for index, number in enumerate(numbers, 1)):
        return False
    if len([name for name in site.node.outputs if name]) > 1:
        return False
    x = site.read(0)
    shape, epsilon = x.shape, float(site.attrs.get("epsilon", 1e-5))
    scale, bias = [*numbers, None, None][:2]
    fields: dict[str, Any] = {"known": 0, "epsilon": epsilon, "inner": prod(shape[2:]), "channels": shape[1]}
    if op == "LayerNormalization":
        count = prod(shape[int(site.attrs.get("axis", -1)) % len(shape) :])
        fields |= {"rows": prod(shape) // count, "count": count, "inner": 1, "channels": count}
    elif op == "BatchNormalization":
        assert scale is not None
        assert bias is not None
        mean, variance = (np.asarray(number, np.float64) for number in numbers[2:4])
        factor = scale / np.sqrt(variance + epsilon)
        scale, bias = factor, bias - mean * factor
        fields |= {"rows": 1, "count": prod(shape), "known": 1}
    else:
        groups = int(site.attrs.get("num_groups", shape[1]))
        fields |= {"rows": shape[0] * groups, "count": prod(shape[1:]) // groups}
        if scale is not None and scale.size != shape[1]:
            return False
    y = site.write()
    tables = {
        name: table.astype(np.float32).ravel()
        for name, table in (("scale", scale), ("bias", bias))
        if table is not None
    }
    fields |= {name: 0 for name in ("scale", "bias") if name not in tables} | {"from": x.number, "to": y.number}
    site.add(Operator("normalize", (ROOT, CODE), fields, tables), [x], [y])
    return True
