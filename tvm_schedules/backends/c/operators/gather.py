"""Slices that computed indices choose, such as the rows of a table of embeddings.

A table of few different numbers, as ternary and 8-bit ones are, is stored as a byte for each and those numbers.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.operators.move import gather
from tvm_schedules.backends.c.site import Operator, Site

OPERATORS = ("Gather",)

MOST_NUMBERS = 256
"""Different numbers that a byte tells apart."""

CODE = """
struct tern_gather {
    const float *floats, *numbers; /* a known table; or numbers, of which bytes say which one */
    const uint8_t *bytes;
    int32_t outer, size, count, inner; /* the table is [outer][size][inner], the result [outer][count][inner] */
    uint8_t wide;                      /* bytes of an index: 8, else 4 */
    struct tern_number from, to;
};

/* Negative indices count from the end; what lies outside reads the first or the last slice. */
static int32_t tern_index(const struct tern_gather *l, const void *indices, int32_t i)
{
    int64_t index = l->wide == 8 ? ((const int64_t *)indices)[i] : ((const int32_t *)indices)[i];
    index += index < 0 ? l->size : 0;
    return (int32_t)(index < 0 ? 0 : index < l->size ? index : l->size - 1);
}

static void tern_gather(const struct tern_gather *l, const void *x, const void *indices, void *y)
{
    int32_t o, i, k, at = 0;
    for (o = 0; o < l->outer; o++) {
        for (i = 0; i < l->count; i++) {
            const int32_t first = (o * l->size + tern_index(l, indices, i)) * l->inner;
            for (k = 0; k < l->inner; k++) {
                const float value = l->bytes ? l->numbers[l->bytes[first + k]]
                    : tern_get(l->floats ? (const void *)l->floats : x, first + k, l->from);
                tern_put(y, at++, value, l->to);
            }
        }
    }
}
"""


def lower(site: Site) -> bool:
    """Of a table that is known or computed, along any axis; False for other numbers than floats and bytes."""
    if site.constant(1) is not None:
        return gather(site)
    table, indices = site.constant(0), site.read(1)
    if table is not None and table.dtype != np.float32:
        return False
    x = site.read(0) if table is None else None
    y = site.write()
    if any(t.dtype != "float32" and t.quant is None for t in (x, y) if t is not None):
        return False
    shape = site.shape(0)
    axis = int(site.attrs.get("axis", 0)) % len(shape)
    fields: dict[str, Any] = {"floats": 0, "numbers": 0, "bytes": 0}
    fields |= {"outer": prod(shape[:axis]), "size": shape[axis], "inner": prod(shape[axis + 1 :])}
    fields |= {"count": prod(indices.shape), "wide": np.dtype(indices.dtype).itemsize, "to": y.number}
    fields["from"] = {"scale": 1.0, "zero": 0.0, "bytes": 0} if x is None else x.number
    site.add(Operator("gather", (CODE,), fields, _stored(table)), [x or indices, indices], [y])
    return True


def _stored(table: np.ndarray | None) -> dict[str, np.ndarray]:
    if table is None:
        return {}
    numbers, places = np.unique(table, return_inverse=True)
    if len(numbers) > MOST_NUMBERS:
        return {"floats": table}
    return {"numbers": numbers, "bytes": places.ravel().astype(np.uint8)}
