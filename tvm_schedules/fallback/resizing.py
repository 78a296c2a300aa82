"""``Resize`` and ``Upsample``, axis by axis: pixels between two others are gathered, all else are products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tvm_schedules.fallback.compositions import Composition
from tvm_schedules.frontend.constant_folding import fixed_shape
from tvm_schedules.frontend.resizing import Axis, Neighbors, neighbors, resized_axes

__all__ = ["resized", "upsampled"]


def resized(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    """Writes a ``Resize`` whose sizes are known: of floats, and of any type where pixels are only repeated.

    TVM's own takes the ratio of the sizes for the scale and knows neither antialiasing nor some ways to count. It
    computes for every pixel where it comes from, which takes three times as long.

    Returns:
        False for cubic images that TVM reads as ONNX says, and for what is not known.
    """
    return _by_axes(made, constants) or _without_empty(made, constants)


def _without_empty(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    """Leaves out inputs without elements, as exporters wrote them until opset 12: TVM takes them for scales."""
    given = ["" if name in constants and not constants[name].size else name for name in made.node.input]
    if given == list(made.node.input):
        return False
    made.add("Resize", *given, output=0, **made.attributes)
    return True


def _by_axes(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    node, shape, out = made.node, made.shapes[0], fixed_shape(made.result)
    if shape is None or out is None:
        return False
    if any(name and name not in constants for name in node.input[1:]):
        return False
    roi, scales = (constants.get(node.input[i]) if len(node.input) > i else None for i in (1, 2))
    axes = resized_axes(made.attributes, shape, out, roi, scales)
    if axes is None:
        return False
    between = [neighbors(axis.matrix) for axis in axes]
    computed = any(found is None or found.share.any() for found in between)
    if computed and made.dtype() != np.float32:
        return False
    if None in between and not _misread(made, shape, out, scales):
        return False
    x = node.input[0]
    for axis, found in sorted(zip(axes, between, strict=True), key=lambda pair: -pair[0].place):
        x = _product(made, x, axis, len(shape)) if found is None else _between(made, x, axis.place, len(shape), found)
    made.add("Identity", x, output=0)
    return True


def upsampled(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    """Writes an ``Upsample``: the pixel before, or what lies between it and the next one."""
    scales = constants.get(made.node.input[1]) if len(made.node.input) > 1 else None
    mode, shape = made.attributes.get("mode", "nearest"), made.shapes[0]
    if "scales" in made.attributes:
        scales = np.array(made.attributes["scales"], np.float32)
    if scales is None or shape is None or mode not in ("nearest", "linear"):
        return False
    if mode == "linear" and made.dtype() != np.float32:
        return False
    x = made.node.input[0]
    for axis, (size, scale) in enumerate(zip(shape, scales.astype(np.float64), strict=True)):
        if scale == 1:
            continue
        place = np.arange(int(np.floor(size * scale))) / scale
        low = np.minimum(np.floor(place), size - 1).astype(np.int32)
        share = np.clip(place - low, 0, 1) * (mode == "linear")
        found = Neighbors(low, np.minimum(low + 1, size - 1), share.astype(np.float32))
        x = _between(made, x, axis, len(shape), found)
    made.add("Identity", x, output=0)
    return True


def _between(made: Composition, x: str, axis: int, rank: int, found: Neighbors) -> str:
    """An axis whose pixels lie between two; one multiply-add, so that there is one way to round."""
    low = made.add("Gather", x, found.low, axis=axis)
    if not found.share.any():
        return low
    share = found.share.reshape([-1 if i == axis else 1 for i in range(rank)])
    high = made.add("Gather", x, found.high, axis=axis)
    return made.add("Add", low, made.add("Mul", made.add("Sub", high, low), share))


def _product(made: Composition, x: str, axis: Axis, rank: int) -> str:
    """An axis as a product with its matrix."""
    perm = [*(i for i in range(rank) if i != axis.place), axis.place]
    if axis.place == rank - 1:
        return made.add("MatMul", x, axis.matrix)
    turned = made.add("MatMul", made.add("Transpose", x, perm=perm), axis.matrix)
    return made.add("Transpose", turned, perm=[perm.index(i) for i in range(rank)])


def _misread(made: Composition, shape: tuple[int, ...], out: tuple[int, ...], scales: np.ndarray | None) -> bool:
    """Whether a ``Resize`` is not what TVM makes of its sizes."""
    given, axes = made.attributes, [axis % len(shape) for axis in made.attributes.get("axes", range(len(shape)))]
    if given.get("antialias") or given.get("exclude_outside") or axes != list(range(len(shape))):
        return True
    if given.get("coordinate_transformation_mode", "half_pixel") in ("half_pixel_symmetric", "tf_crop_and_resize"):
        return True
    if scales is None or not scales.size:
        return False
    return any(abs(out[axis] - shape[axis] * scales[index]) > 1e-4 for index, axis in enumerate(axes))
