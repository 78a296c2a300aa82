"""Maximum, minimum, sum, average and place of the largest along axes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.site import Operator, Site, loops, strides

OPERATORS = ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "GlobalMaxPool", "ArgMax", "ArgMin")

CODE = """
struct tern_reduce {
    int32_t rank, dims[6], steps[6];    /* of the result */
    int32_t inner, sizes[6], places[6]; /* of what is reduced */
    int32_t rows, count;
    uint8_t kind;                       /* 0: sum, 1: maximum, 2: minimum */
    uint8_t index;                      /* whether the result is the place */
    float share;
    struct tern_number from, to;
};

static int32_t tern_place(int32_t at, int32_t rank, const int32_t *dims, const int32_t *steps)
{
    int32_t d, place = 0;
    for (d = rank - 1; d >= 0; d--) {
        place += at % dims[d] * steps[d];
        at /= dims[d];
    }
    return place;
}

static void tern_reduce(const struct tern_reduce *l, const void *x, void *y)
{
    int32_t row, i;
    for (row = 0; row < l->rows; row++) {
        const int32_t first = tern_place(row, l->rank, l->dims, l->steps);
        float all = tern_get(x, first, l->from);
        int32_t found = 0;
        for (i = 1; i < l->count; i++) {
            const float value = tern_get(x, first + tern_place(i, l->inner, l->sizes, l->places), l->from);
            if (l->kind == 0) all += value;
            else if (l->kind == 1 ? value > all : value < all) {
                all = value;
                found = i;
            }
        }
        if (l->index) ((int64_t *)y)[row] = found;
        else tern_put(y, row, all * l->share, l->to);
    }
}
"""


def lower(site: Site) -> bool:
    """Along any axes; False where these are computed."""
    op, x = site.node.op, site.read(0)
    rank = len(x.shape)
    axes = site.attrs.get("axes")
    if site.constant(1) is not None:
        axes = site.constant(1).ravel().tolist()  # type: ignore[union-attr]
    if op in ("ArgMax", "ArgMin"):
        axes = [site.attrs.get("axis", 0)]
        if site.attrs.get("select_last_index", 0):
            return False
    elif op == "GlobalMaxPool":
        axes = range(2, rank)
    elif site.name(1) and axes is None:
        return False
    if not axes:
        axes = [] if site.attrs.get("noop_with_empty_axes", 0) else range(rank)
    gone = {int(axis) % rank for axis in axes}
    steps = strides(x.shape)
    kept = [axis for axis in range(rank) if axis not in gone]
    outer = loops([x.shape[a] for a in kept], [steps[a] for a in kept])
    inner = loops([x.shape[a] for a in sorted(gone)], [steps[a] for a in sorted(gone)])
    if outer is None or inner is None:
        return False
    y, count = site.write(), prod(x.shape[a] for a in gone)
    fields: dict[str, Any] = {
        "rank": len(outer[0]),
        "dims": _padded(outer[0]),
        "steps": _padded(outer[1][0]),
        "inner": len(inner[0]),
        "sizes": _padded(inner[0]),
        "places": _padded(inner[1][0]),
        "rows": prod(x.shape[a] for a in kept),
        "count": count,
        "kind": 1 if "Max" in op else 2 if "Min" in op else 0,
        "index": op.startswith("Arg"),
        "share": float(np.float32(1 / count)) if op == "ReduceMean" else 1.0,
        "from": x.number,
        "to": y.number,
    }
    site.add(Operator("reduce", (CODE,), fields), [x], [y])
    return True


def _padded(values: list[int]) -> list[int]:
    return [*values, *[0] * (6 - len(values))]
