"""The numpy twin of ``tern_lightning.TernaryTensor``: same fields, same meaning, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.ir import ternary_codec as huffman

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class TernaryTensor:
    """A weight that is a sum of ternary terms, ``W = sum_t (p_t * [T_t = +1] - n_t * [T_t = -1])``.

    Attributes:
        codes: int8 ``[terms, *weight.shape]`` with values -1, 0, +1.
        positive: float32 ``[terms, C]``, the value that a +1 code stands for. ``C`` is 1 (one level for the layer) or
            the size of the weight along ``channel_axis`` (one level per output channel).
        negative: float32 ``[terms, C]``; a -1 code stands for ``-negative``. Both levels are usually positive.
        channel_axis: Axis of the output channels in the weight: 0, or 1 for a transposed convolution without groups.

    Raises:
        TypeError: ``codes`` is not int8 or a level is not float32.
        ValueError: The shapes do not fit together, or a code is not -1, 0 or +1.

    Example:
        >>> weight = TernaryTensor.from_values(np.float32([[0.5, 0.0, -0.5, 0.5]]))
        >>> weight.codes.tolist(), weight.positive.tolist(), weight.sparsity()
        ([[[1, 0, -1, 1]]], [[0.5]], 0.25)
    """

    codes: Array
    positive: Array
    negative: Array
    channel_axis: int = 0

    def __post_init__(self) -> None:
        if self.codes.dtype != np.int8:
            raise TypeError(f"codes must be int8, got {self.codes.dtype}")
        if self.codes.ndim < 2:
            raise ValueError(f"codes must be [terms, *weight.shape], got shape {self.codes.shape}")
        if self.codes.size and (self.codes.min() < -1 or self.codes.max() > 1):
            raise ValueError(f"codes must be -1, 0 or +1, got {self.codes.min()} to {self.codes.max()}")
        if not 0 <= self.channel_axis < self.codes.ndim - 1:
            raise ValueError(
                f"channel_axis must be in [0, {self.codes.ndim - 1}) for a weight of shape {self.shape}, "
                f"got {self.channel_axis}"
            )
        for name, level in (("positive", self.positive), ("negative", self.negative)):
            if level.dtype != np.float32:
                raise TypeError(f"{name} must be float32, got {level.dtype}")
            if level.ndim != 2 or level.shape[0] != self.terms or level.shape[1] not in (1, self.channels):
                raise ValueError(
                    f"{name} must have shape [{self.terms}, 1] or [{self.terms}, {self.channels}], got {level.shape}"
                )
        if self.positive.shape != self.negative.shape:
            raise ValueError(
                f"positive and negative must have one shape, got {self.positive.shape} and {self.negative.shape}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(int(size) for size in self.codes.shape[1:])

    @property
    def terms(self) -> int:
        """Number of ternary terms."""
        return int(self.codes.shape[0])

    @property
    def channels(self) -> int:
        """Number of output channels, the size of the weight along ``channel_axis``."""
        return int(self.codes.shape[self.channel_axis + 1])

    @property
    def is_symmetric(self) -> bool:
        """Whether the positive and the negative level are equal everywhere."""
        return bool(np.array_equal(self.positive, self.negative))

    @property
    def per_channel(self) -> TernaryTensor:
        """The same weight with one level per output channel."""
        size = (self.terms, self.channels)
        return TernaryTensor(
            self.codes, np.broadcast_to(self.positive, size), np.broadcast_to(self.negative, size), self.channel_axis
        )

    def _spread(self, level: Array) -> Array:
        """Reshape a ``[terms, C]`` level so that it broadcasts against ``codes``."""
        shape = [1] * self.codes.ndim
        shape[0], shape[self.channel_axis + 1] = level.shape[0], level.shape[1]
        return level.reshape(shape)

    def dequantize(self) -> Array:
        """Return the weight itself, float32 of shape ``shape``."""
        positive, negative = self._spread(self.positive), self._spread(self.negative)
        values = np.where(self.codes > 0, positive, np.where(self.codes < 0, -negative, np.float32(0)))
        return values[0] if self.terms == 1 else values.sum(0, dtype=np.float32)

    def sparsity(self) -> float:
        """Fraction of the weights that are zero, in [0, 1]."""
        return float((self.dequantize() == 0).mean())

    def term_sparsity(self) -> list[float]:
        """Fraction of zero codes in every term, each in [0, 1]."""
        return [float((term == 0).mean()) for term in self.codes]

    def entropy(self) -> float:
        """Shannon entropy of the joint code of all terms in bits per weight, in [0, log2(3) * terms]."""
        weights = 3 ** np.arange(self.terms, dtype=np.int64)
        joint = weights @ (self.codes.reshape(self.terms, -1).astype(np.int64) + 1)
        share = np.unique(joint, return_counts=True)[1] / joint.size
        return float(-(share * np.log2(share)).sum()) + 0.0

    def nbytes(self) -> int:
        """Stored bytes: packed two-bit codes and float32 levels (one of the two when they are equal)."""
        levels = int(self.positive.size) * (1 if self.is_symmetric else 2)
        return self.terms * ((int(self.codes[0].size) + 3) // 4) + 4 * levels

    def scale_channels(self, scale: Array) -> TernaryTensor:
        """Multiply every output channel by a factor, for example that of a normalization that follows.

        Args:
            scale: ``[channels]``, finite. A negative factor flips the channel's codes, so that levels keep their sign;
                a factor of zero gives zero codes with level one.

        Raises:
            ValueError: ``scale`` has another shape.
        """
        if scale.shape != (self.channels,):
            raise ValueError(f"scale must have shape [{self.channels}], got {scale.shape}")
        wide = self.per_channel
        factor = scale.astype(np.float32)
        size, flip, gone = np.abs(factor), factor < 0, factor == 0
        one = np.float32(1)
        positive = np.where(gone, one, np.where(flip, wide.negative, wide.positive) * size).astype(np.float32)
        negative = np.where(gone, one, np.where(flip, wide.positive, wide.negative) * size).astype(np.float32)
        codes = self.codes * self._spread(np.sign(factor)[None]).astype(np.int8)
        return TernaryTensor(codes, positive, negative, self.channel_axis)

    @cached_property
    def stored(self) -> dict[str, Array]:
        """What an artifact keeps: encoded ``codes``, ``positive``, and ``negative`` where it differs.

        One term whose signs share their levels comes without them, and back with ones: kernels have the levels in the
        scale of their epilogue.
        """
        arrays = {"codes": huffman.encode(self.codes)}
        if self.terms > 1 or not self.is_symmetric:
            arrays["positive"] = self.positive
        return arrays if self.is_symmetric else arrays | {"negative": self.negative}

    @staticmethod
    def from_stored(arrays: Mapping[str, Array], shape: Sequence[int]) -> TernaryTensor:
        """The weight of the arrays ``stored`` and the shape of its codes ``[terms, *weight.shape]``.

        Raises:
            ValueError: The arrays do not fit the shape.
        """
        if min(shape, default=-1) < 0:
            raise ValueError(f"the shape of a ternary weight must be [terms, ...] of sizes from 0, got {list(shape)}")
        codes = huffman.decode(arrays["codes"], shape[0], math.prod(shape[1:]))
        positive = arrays["positive"] if "positive" in arrays else np.ones((shape[0], 1), np.float32)
        return TernaryTensor(codes.reshape(shape), positive, arrays.get("negative", positive))

    @staticmethod
    def from_values(weight: Array, channel_axis: int = 0) -> TernaryTensor | None:
        """Recognize a float weight that is exactly ternary by value.

        Args:
            weight: Any float array with at least one axis.
            channel_axis: Axis of the output channels.

        Returns:
            One term whose values equal ``weight`` exactly, with one level pair for the layer where that is enough and
            one per output channel otherwise; a sign that does not occur takes the other sign's level, an empty channel
            has level one. None when some channel needs more than one positive or one negative value, or is not finite.
        """
        if not np.issubdtype(weight.dtype, np.floating) or weight.size == 0 or weight.ndim == 0:
            return None
        values = weight.astype(np.float32)
        if not np.isfinite(values).all():
            return None
        rows = np.moveaxis(values, channel_axis, 0).reshape(values.shape[channel_axis], -1)
        for candidate in (rows.reshape(1, -1), rows):
            levels = _row_levels(candidate)
            if levels is not None:
                return TernaryTensor(np.sign(values).astype(np.int8)[None], levels[0], levels[1], channel_axis)
        return None


def pack_int2(codes: Array) -> Array:
    """Pack int8 codes in [-2, 1] as ONNX INT2: uint8 ``[ceil(n / 4)]``, first code in the least significant bits."""
    flat = codes.reshape(-1)
    flat = np.concatenate([flat, np.zeros(-flat.size % 4, flat.dtype)])
    quads = (flat.astype(np.int8).view(np.uint8) & 3).reshape(-1, 4)
    return (quads[:, 0] | quads[:, 1] << 2 | quads[:, 2] << 4 | quads[:, 3] << 6).astype(np.uint8)


def _row_levels(rows: Array) -> tuple[Array, Array] | None:
    """The positive and negative level of every row, each ``[1, rows]``, or None when a row is not ternary."""
    levels, present = [], []
    for signed in (rows, -rows):
        top = np.maximum(signed.max(1), np.float32(0))
        if ((signed > 0) & (signed != top[:, None])).any():
            return None
        levels.append(top)
        present.append(top > 0)
    one = np.ones_like(levels[0])
    positive = np.where(present[0], levels[0], np.where(present[1], levels[1], one))
    negative = np.where(present[1], levels[1], positive)
    return positive[None], negative[None]
