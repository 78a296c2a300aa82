"""Axes of images in another size: what every pixel of the result is made of, as onnxruntime says.

ONNX resizes axis by axis, so an axis is a matrix: what becomes of the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_schedules.frontend.constant_folding import run_node

__all__ = ["Axis", "Neighbors", "neighbors", "resized_axes"]

_OPSET = 19
"""Of ONNX: its Resize has everything that those from 13 to 26 have."""

_LARGEST = 1 << 26
"""Elements of a matrix at most."""


@dataclass(frozen=True)
class Axis:
    """An axis that is resized.

    Attributes:
        place: Which one.
        matrix: float32 ``[size, size of the result]``.
    """

    place: int
    matrix: np.ndarray


@dataclass(frozen=True)
class Neighbors:
    """Two pixels for every one of the result, which is ``low + (high - low) * share``.

    Attributes:
        low: Indices of the first ones, int32 ``[size of the result]``.
        high: Of those behind them, or the same.
        share: Of the second ones, float32 from 0 to 1.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray


def resized_axes(
    attributes: Mapping[str, Any],
    shape: tuple[int, ...],
    out: tuple[int, ...],
    roi: np.ndarray | None,
    scales: np.ndarray | None,
) -> list[Axis] | None:
    """The axes that a ``Resize`` changes.

    Args:
        attributes: Of the node.
        shape: Of its input.
        out: Of its result.
        roi: Its second input, where it is there.
        scales: Its third input, where it is there.

    Returns:
        None where no matrices say what it does: what lies outside of the region has a value of its own, sizes follow
        each other, or are too large to try.
    """
    axes = [axis % len(shape) for axis in attributes.get("axes", range(len(shape)))]
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    scales = None if scales is None or not scales.size else scales
    roi = None if roi is None or not roi.size else roi
    cropped = attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if cropped and attributes.get("extrapolation_value", 0):
        return None
    if shape == out:  # which onnxruntime copies, whatever the scales are
        return []
    found = []
    for index, axis in enumerate(axes):
        scale = None if scales is None else float(scales[index])
        if shape[axis] == out[axis] and scale in (None, 1.0) and roi is None:
            continue
        region = (0.0, 1.0) if roi is None else (float(roi[index]), float(roi[len(axes) + index]))
        matrix = _matrix(attributes, shape[axis], out[axis], scale, region)
        if matrix is None:
            return None
        found.append(Axis(axis, matrix))
    return found


def _matrix(
    attributes: Mapping[str, Any], size: int, out: int, scale: float | None, region: tuple[float, float]
) -> np.ndarray | None:
    """``[size, out]``: what becomes of every unit vector along an axis; None where onnxruntime does not say."""
    from onnx import helper

    if size * max(size, out) > _LARGEST:
        return None
    given = {name: value for name, value in attributes.items() if name not in ("axes", "keep_aspect_ratio_policy")}
    # Rows are repeated: of what keeps its shape onnxruntime makes a copy.
    inputs = {"x": np.eye(size, dtype=np.float32).reshape(1, size, 1, size)}
    inputs["roi"] = np.array([0, 0, 0, region[0], 1, 1, 1, region[1]], np.float32)
    if scale is not None:
        inputs["to"], names = np.array([1, 1, 2, scale], np.float32), ["x", "roi", "to"]
    else:
        inputs["to"], names = np.array([1, size, 2, out], np.int64), ["x", "roi", "", "to"]
    try:
        (made,) = run_node(helper.make_node("Resize", names, ["y"], **given), inputs, {"": _OPSET})
    except Exception:  # whoever reads the node says what is wrong with it
        return None
    matrix = np.ascontiguousarray(made[0, :, 0])
    return matrix if matrix.shape == (size, out) else None


def neighbors(matrix: np.ndarray) -> Neighbors | None:
    """An axis whose pixels are each between two neighbors, or are one pixel; None for every other one.

    Args:
        matrix: Of an axis.
    """
    used = matrix != 0
    low = used.argmax(axis=0)
    high = len(matrix) - 1 - used[::-1].argmax(axis=0)
    if not used.any(axis=0).all() or (high - low > 1).any() or (np.abs(matrix.sum(axis=0) - 1) > 1e-5).any():
        return None
    share = np.where(high > low, matrix[high, np.arange(matrix.shape[1])], 0).astype(np.float32)
    return Neighbors(low.astype(np.int32), high.astype(np.int32), share) if (share >= 0).all() else None
