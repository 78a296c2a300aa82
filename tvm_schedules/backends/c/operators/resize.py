"""Images in another size: bilinear, or the nearest pixel; rows and columns have tables of neighbors and weights."""

from __future__ import annotations

from math import prod

import numpy as np

from tvm_schedules.backends.c.site import Operator, Site
from tvm_schedules.frontend.resizing import Neighbors, neighbors, resized_axes

OPERATORS = ("Resize",)

CODE = """
struct tern_resize {
    const int32_t *low, *high; /* for each row, then for each column of the result: neighbors in the source */
    const float *share;        /* of the higher neighbor */
    int32_t images, height, width, to_height, to_width;
    struct tern_number from, to;
};

static void tern_resize(const struct tern_resize *l, const void *x, void *y)
{
    int32_t image, h, w, at = 0;
    for (image = 0; image < l->images; image++) {
        const int32_t first = image * l->height * l->width;
        for (h = 0; h < l->to_height; h++) {
            const int32_t up = first + l->low[h] * l->width, down = first + l->high[h] * l->width;
            for (w = 0; w < l->to_width; w++) {
                const int32_t left = l->low[l->to_height + w], right = l->high[l->to_height + w];
                const float across = l->share[l->to_height + w], along = l->share[h];
                const float a = tern_get(x, up + left, l->from), b = tern_get(x, up + right, l->from);
                const float c = tern_get(x, down + left, l->from), d = tern_get(x, down + right, l->from);
                const float above = tern_fma(b - a, across, a), below = tern_fma(d - c, across, c);
                tern_put(y, at++, tern_fma(below - above, along, above), l->to);
            }
        }
    }
}
"""


def lower(site: Site) -> bool:
    """Images ``[N, C, H, W]``; False where a pixel is made of more than two of a row, as in cubic ones."""
    x, y = site.read(0), site.write()
    if len(x.shape) != 4 or x.shape[:2] != y.shape[:2]:
        return False
    if any(site.name(index) and site.constant(index) is None for index in (1, 2, 3)):
        return False
    axes = resized_axes(site.attrs, x.shape, y.shape, site.constant(1), site.constant(2))
    if axes is None or any(axis.place < 2 for axis in axes):
        return False
    made = {axis.place: neighbors(axis.matrix) for axis in axes}
    rows, columns = (made.get(axis, _same(x.shape[axis])) for axis in (2, 3))
    if rows is None or columns is None:
        return False
    fields = {"images": prod(x.shape[:2]), "height": x.shape[2], "width": x.shape[3]}
    fields |= {"to_height": y.shape[2], "to_width": y.shape[3]}
    names = ("low", "high", "share")
    tables = {name: np.concatenate([getattr(rows, name), getattr(columns, name)]) for name in names}
    site.add(Operator("resize", (CODE,), {**fields, "from": x.number, "to": y.number}, tables), [x], [y])
    return True


def _same(size: int) -> Neighbors:
    place = np.arange(size, dtype=np.int32)
    return Neighbors(place, place, np.zeros(size, np.float32))
