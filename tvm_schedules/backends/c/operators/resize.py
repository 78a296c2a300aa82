"""Images in another size: bilinear, or the nearest pixel; rows and columns have tables of neighbors and weights."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.site import Operator, Site

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
    """Images ``[N, C, H, W]``; False for cubic ones, for cuts, and for antialiasing."""
    x, y = site.read(0), site.write()
    given = {name: _text(site.attrs.get(name, usual)) for name, usual in _USUAL.items()}
    if len(x.shape) != 4 or x.shape[:2] != y.shape[:2] or given["mode"] not in ("nearest", "linear"):
        return False
    if site.attrs.get("antialias", 0) or given["coordinate_transformation_mode"] == "tf_crop_and_resize":
        return False
    scales = site.constant(2)
    low, high, share = [], [], []
    for axis in (2, 3):
        size, count = x.shape[axis], y.shape[axis]
        scale = float(scales[axis]) if scales is not None and scales.size == 4 else count / size
        places = _places(given["coordinate_transformation_mode"], count, size, scale)
        if places is None:
            return False
        if given["mode"] == "nearest":
            near = np.clip(_nearest(given["nearest_mode"], places), 0, size - 1).astype(np.int32)
            low.append(near)
            high.append(near)
            share.append(np.zeros(count, np.float32))
        else:
            places = np.clip(places, 0, size - 1)
            low.append(np.floor(places).astype(np.int32))
            high.append(np.minimum(low[-1] + 1, size - 1).astype(np.int32))
            share.append((places - low[-1]).astype(np.float32))
    fields = {"images": prod(x.shape[:2]), "height": x.shape[2], "width": x.shape[3]}
    fields |= {"to_height": y.shape[2], "to_width": y.shape[3]}
    tables = {"low": np.concatenate(low), "high": np.concatenate(high), "share": np.concatenate(share)}
    site.add(Operator("resize", (CODE,), {**fields, "from": x.number, "to": y.number}, tables), [x], [y])
    return True


_USUAL = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _places(mode: str, count: int, size: int, scale: float) -> np.ndarray | None:
    """Where the pixels of the result lie in the source, as ONNX' Resize says; None for another mode."""
    at = np.arange(count, dtype=np.float64)
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * (size - 1) / max(count - 1, 1)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and count > 1):
        return (at + 0.5) / scale - 0.5
    return np.zeros(1) if mode == "pytorch_half_pixel" else None


def _nearest(mode: str, places: np.ndarray) -> np.ndarray:
    rounds: dict[str, Any] = {"floor": np.floor, "ceil": np.ceil, "round_prefer_ceil": lambda p: np.floor(p + 0.5)}
    return np.asarray(rounds.get(mode, lambda p: np.ceil(p - 0.5))(places))
