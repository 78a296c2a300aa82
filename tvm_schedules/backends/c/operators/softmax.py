"""Softmax and its logarithm: exponentials of what is below the largest, over their sum."""

from __future__ import annotations

from math import prod

from tvm_schedules.backends.c.site import MATH, Operator, Site

OPERATORS = ("Softmax", "LogSoftmax")

CODE = """
struct tern_softmax {
    int32_t outer, count, inner;
    uint8_t logarithm;
    struct tern_number from, to;
};

static void tern_softmax(const struct tern_softmax *l, const void *x, void *y)
{
    int32_t o, i, k;
    for (o = 0; o < l->outer; o++) {
        for (i = 0; i < l->inner; i++) {
            const int32_t first = o * l->count * l->inner + i;
            float most = tern_get(x, first, l->from), sum = 0;
            for (k = 1; k < l->count; k++) {
                const float value = tern_get(x, first + k * l->inner, l->from);
                most = value > most ? value : most;
            }
            for (k = 0; k < l->count; k++) sum += tern_exp(tern_get(x, first + k * l->inner, l->from) - most);
            if (l->logarithm) most += tern_log(sum);
            for (k = 0; k < l->count; k++) {
                const int32_t at = first + k * l->inner;
                const float below = tern_get(x, at, l->from) - most;
                tern_put(y, at, l->logarithm ? below : tern_exp(below) / sum, l->to);
            }
        }
    }
}
"""


def lower(site: Site) -> bool:
    """Along one axis; exponentials are computed twice instead of stored."""
    x, y = site.read(0), site.write()
    axis = int(site.attrs.get("axis", -1)) % len(x.shape)
    sizes = {"outer": prod(x.shape[:axis]), "count": x.shape[axis], "inner": prod(x.shape[axis + 1 :])}
    ends = {"logarithm": site.node.op == "LogSoftmax", "from": x.number, "to": y.number}
    site.add(Operator("softmax", (MATH, CODE), {**sizes, **ends}), [x], [y])
    return True
