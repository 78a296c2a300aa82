"""Elements in another order or place: Transpose, Slice, Split, Concat, Expand, Pad, pixel shuffle, known indices.

Each is a table of source offsets for every axis of the result, -1 for what is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tvm_schedules.backends.c.site import MOST_DIMS, Operator, Site, Tensor, strides

CODE = """
struct tern_move {
    const int32_t *from;   /* for each axis, source offsets of its indices; -1: fill */
    int32_t rank, dims[6], to[6], origin, rows; /* to: elements between neighbors of the result */
    uint8_t size;          /* bytes of an element that is copied as it is; 0: it is converted */
    float fill;
    struct tern_number source, target;
};

static void tern_move(const struct tern_move *l, const void *x, void *y)
{
    const int32_t last = l->rank - 1;
    int32_t row, d, i;
    for (row = 0; row < l->rows; row++) {
        const int32_t *table = l->from;
        int32_t rest = row, from = 0, to = l->origin, outside = 0, block = l->rows;
        for (d = 0; d < last; d++) {
            block /= l->dims[d];
            i = rest / block;
            rest -= i * block;
            outside |= table[i] < 0;
            from += table[i];
            to += i * l->to[d];
            table += l->dims[d];
        }
        for (i = 0; i < l->dims[last]; i++, to += l->to[last]) {
            const int32_t at = from + table[i];
            if (outside || table[i] < 0) tern_put(y, to, l->fill, l->target);
            else if (l->size == 1) ((uint8_t *)y)[to] = ((const uint8_t *)x)[at];
            else if (l->size == 4) ((uint32_t *)y)[to] = ((const uint32_t *)x)[at];
            else tern_put(y, to, tern_get(x, at, l->source), l->target);
        }
    }
}
"""

KNOWN = """
struct tern_known {
    const void *values;    /* rows of count elements, in the type of the result */
    int32_t rows, count, step, origin;
    uint8_t size;          /* bytes of an element */
};

static void tern_known(const struct tern_known *l, void *y)
{
    int32_t row, i;
    for (row = 0; row < l->rows; row++) {
        const int32_t from = row * l->count, to = l->origin + row * l->step;
        for (i = 0; i < l->count; i++) {
            if (l->size == 1) ((uint8_t *)y)[to + i] = ((const uint8_t *)l->values)[from + i];
            else ((float *)y)[to + i] = ((const float *)l->values)[from + i];
        }
    }
}
"""


@dataclass(frozen=True)
class _Axis:
    """An axis of a result: offsets in the source, and the elements to its next index in the result."""

    offsets: np.ndarray
    step: int


def lower(site: Site) -> bool:
    """One or more calls; False where a size, an index or a mode is computed or not known."""
    made: bool = _FORMS[site.node.op](site)
    return made


def _call(site: Site, x: Tensor, y: Tensor, axes: Sequence[_Axis], origin: int = 0, fill: float = 0.0) -> bool:
    """A call that writes ``y`` from ``origin`` on."""
    kept = [axis for axis in axes if len(axis.offsets) > 1 or axis.offsets[0] != 0] or [_Axis(np.zeros(1, int), 1)]
    floats = x.dtype == y.dtype == "float32"
    if len(kept) > MOST_DIMS or not (floats or x.quant or y.quant):
        return False
    size = 0 if x.quant != y.quant or x.dtype != y.dtype else np.dtype(x.dtype).itemsize
    dims = [len(axis.offsets) for axis in kept]
    fields: dict[str, Any] = {
        "rank": len(kept),
        "dims": [*dims, *[0] * (MOST_DIMS - len(kept))],
        "to": [*(axis.step for axis in kept), *[0] * (MOST_DIMS - len(kept))],
        "origin": origin,
        "rows": prod(dims[:-1]),
        "size": size,
        "fill": fill,
        "source": x.number,
        "target": y.number,
    }
    table = np.concatenate([axis.offsets for axis in kept]).astype(np.int32)
    site.add(Operator("move", (CODE,), fields, {"from": table}), [x], [y])
    return True


def _plain(shape: Sequence[int], indices: Sequence[np.ndarray], out: Sequence[int]) -> list[_Axis]:
    """Axes that take these indices of a source of that shape, into a result of shape ``out``."""
    source, target = strides(shape), strides(out)
    return [
        _Axis(np.where(index < 0, -1, index * step), to)
        for index, step, to in zip(indices, source, target, strict=True)
    ]


def _everything(shape: Sequence[int]) -> list[np.ndarray]:
    return [np.arange(size) for size in shape]


def _transpose(site: Site) -> bool:
    x, y = site.read(0), site.write()
    perm = list(site.attrs.get("perm", range(len(x.shape) - 1, -1, -1)))
    source, target = strides(x.shape), strides(y.shape)
    axes = [_Axis(np.arange(x.shape[p]) * source[p], to) for p, to in zip(perm, target, strict=True)]
    return _call(site, x, y, axes)


def _slice(site: Site) -> bool:
    known = [site.constant(index) for index in range(1, 5)]
    if known[0] is None or known[1] is None or any(c is None and site.name(i) for i, c in enumerate(known, 1)):
        return False
    x, y = site.read(0), site.write()
    indices = _everything(x.shape)
    axes = known[2].tolist() if known[2] is not None else range(len(known[0]))
    steps = known[3].tolist() if known[3] is not None else [1] * len(known[0])
    for first, last, axis, step in zip(known[0].tolist(), known[1].tolist(), axes, steps, strict=True):
        size = x.shape[axis]
        bounds = slice(first, None if step < 0 and last < -size else last, step)
        indices[axis] = indices[axis][bounds]
    return _call(site, x, y, _plain(x.shape, indices, y.shape))


def gather(site: Site) -> bool:
    """A Gather of indices that are known."""
    known = site.constant(1)
    if known is None or site.constant(0) is not None:
        return False
    x, y = site.read(0), site.write()
    axis, indices = int(site.attrs.get("axis", 0)) % len(x.shape), _everything(x.shape)
    indices[axis] = known.ravel().astype(int) % x.shape[axis]
    return _call(site, x, y, _plain(x.shape, indices, [len(index) for index in indices]))


def _split(site: Site) -> bool:
    x, axis, first = site.read(0), int(site.attrs.get("axis", 0)), 0
    for number, name in enumerate(site.node.outputs):
        size = site.graph.values[name].shape[axis]
        y, indices = site.write(number), _everything(x.shape)
        indices[axis] = np.arange(first, first + size)
        first += size
        if not _call(site, x, y, _plain(x.shape, indices, y.shape)):
            return False
    return True


def _concat(site: Site) -> bool:
    known = [site.constant(index) for index in range(len(site.node.inputs))]
    if any(value is not None and value.dtype != np.float32 for value in known):
        return False
    reads = [site.read(index) if value is None else None for index, value in enumerate(known)]
    y = site.write()
    axis, target, first = int(site.attrs["axis"]) % len(y.shape), strides(y.shape), 0
    for x, value in zip(reads, known, strict=True):
        origin = first * target[axis]
        if x is not None:
            made, shape = _call(site, x, y, _plain(x.shape, _everything(x.shape), y.shape), origin), x.shape
        elif value is not None:
            made, shape = _write(site, value, y, axis, origin), value.shape
        if not made:
            return False
        first += shape[axis]
    return True


def _write(site: Site, value: np.ndarray, y: Tensor, axis: int, origin: int) -> bool:
    """A call that writes a constant, such as a class token, into ``y`` from ``origin`` on."""
    if y.dtype not in ("float32", "uint8") or (y.dtype == "uint8") != (y.quant is not None):
        return False
    if y.quant is not None:
        value = np.clip(np.rint(value / np.float32(y.quant.scale)) + y.quant.zero_point, 0, 255).astype(np.uint8)
    fields = {
        "rows": prod(value.shape[:axis]),
        "count": prod(value.shape[axis:]),
        "step": prod(y.shape[axis:]),
        "origin": origin,
        "size": value.itemsize,
    }
    site.add(Operator("known", (KNOWN,), fields, {"values": value.ravel()}), [], [y])
    return True


def _expand(site: Site) -> bool:
    x, y = site.read(0), site.write()
    shape = [1] * (len(y.shape) - len(x.shape)) + list(x.shape)
    indices = [np.arange(size) % own for size, own in zip(y.shape, shape, strict=True)]
    return _call(site, x, y, _plain(shape, indices, y.shape))


def _pad(site: Site) -> bool:
    pads, value, given = site.constant(1), site.constant(2), site.constant(3)
    if pads is None or (given is None and site.name(3)) or (value is None and site.name(2)):
        return False
    x, y = site.read(0), site.write()
    mode = site.attrs.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    kind: Any = mode
    numbers, rank = pads.tolist(), len(x.shape)
    axes = [axis % rank for axis in given.tolist()] if given is not None else list(range(rank))
    indices = _everything(x.shape)
    for place, axis in enumerate(axes):
        low, high = numbers[place], numbers[place + len(axes)]
        if min(low, high) < 0:
            return False
        if mode == "constant":
            indices[axis] = np.pad(indices[axis], (low, high), constant_values=-1)
        else:
            indices[axis] = np.pad(indices[axis], (low, high), mode=kind)
    return _call(site, x, y, _plain(x.shape, indices, y.shape), fill=0.0 if value is None else float(value.ravel()[0]))


def _shuffle(site: Site) -> bool:
    x, y = site.read(0), site.write()
    block, (batch, channels, height, width) = int(site.attrs["blocksize"]), x.shape
    mode = site.attrs.get("mode", "DCR")
    deep = channels // block**2
    if mode in ("DCR", b"DCR"):
        view, perm = (batch, block, block, deep, height, width), (0, 3, 4, 1, 5, 2)
    else:
        view, perm = (batch, deep, block, block, height, width), (0, 1, 4, 2, 5, 3)
    source, target = strides(view), strides([view[p] for p in perm])
    axes = [_Axis(np.arange(view[p]) * source[p], to) for p, to in zip(perm, target, strict=True)]
    return _call(site, x, y, axes)


_FORMS = {
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Expand": _expand,
    "Pad": _pad,
    "DepthToSpace": _shuffle,
}

OPERATORS = tuple(_FORMS)
