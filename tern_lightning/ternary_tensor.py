"""The one description of a ternary weight that every quantizer produces and every report, file and kernel consumes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tern_lightning.products import scaled


@dataclass(frozen=True)
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
        ValueError: The shapes do not fit together.

    Example:
        >>> import torch
        >>> weight = TernaryTensor.from_values(torch.tensor([[0.5, 0.0, -0.5, 0.5]]))
        >>> weight.codes.tolist(), weight.positive.tolist(), weight.sparsity()
        ([[[1, 0, -1, 1]]], [[0.5]], 0.25)
    """

    codes: Tensor
    positive: Tensor
    negative: Tensor
    channel_axis: int = 0

    def __post_init__(self) -> None:
        if self.codes.dtype != torch.int8:
            raise TypeError(f"codes must be int8, got {self.codes.dtype}")
        if self.codes.ndim < 2:
            raise ValueError(f"codes must be [terms, *weight.shape], got shape {tuple(self.codes.shape)}")
        if not 0 <= self.channel_axis < self.codes.ndim - 1:
            raise ValueError(
                f"channel_axis must be in [0, {self.codes.ndim - 1}) for a weight of shape {self.shape}, "
                f"got {self.channel_axis}"
            )
        channels = self.codes.shape[self.channel_axis + 1]
        for name, level in (("positive", self.positive), ("negative", self.negative)):
            if level.dtype != torch.float32:
                raise TypeError(f"{name} must be float32, got {level.dtype}")
            if level.ndim != 2 or level.shape[0] != self.codes.shape[0] or level.shape[1] not in (1, channels):
                raise ValueError(
                    f"{name} must have shape [{self.codes.shape[0]}, 1] or [{self.codes.shape[0]}, {channels}], "
                    f"got {tuple(level.shape)}"
                )
        if self.positive.shape != self.negative.shape:
            shapes = f"{tuple(self.positive.shape)} and {tuple(self.negative.shape)}"
            raise ValueError(f"positive and negative must have one shape, got {shapes}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.codes.shape[1:])

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
        return torch.equal(self.positive, self.negative)

    @property
    def per_channel(self) -> TernaryTensor:
        """The same weight with one level per output channel."""
        size = (self.terms, self.channels)
        return TernaryTensor(self.codes, self.positive.expand(size), self.negative.expand(size), self.channel_axis)

    def outputs(self, rows: slice) -> TernaryTensor:
        """Some of the output channels, with one level each."""
        wide = self.per_channel
        where = [slice(None)] * (self.channel_axis + 1)
        return TernaryTensor(
            wide.codes[(*where, rows)], wide.positive[:, rows], wide.negative[:, rows], self.channel_axis
        )

    def _spread(self, level: Tensor) -> Tensor:
        """Reshape a ``[terms, C]`` level so that it broadcasts against ``codes``."""
        shape = [1] * self.codes.ndim
        shape[0], shape[self.channel_axis + 1] = level.shape[0], level.shape[1]
        return level.reshape(shape)

    def _term(self, index: int) -> TernaryTensor:
        positive = self.positive[index, None]
        negative = positive if self.negative is self.positive else self.negative[index, None]
        return TernaryTensor(self.codes[index, None], positive, negative, self.channel_axis)

    def dequantize(self) -> Tensor:
        """Return the weight itself, float32 of shape ``shape``."""
        # Products are exact here, and many times as fast as torch.where.
        if self.terms > 1 and not (self.positive.requires_grad or self.negative.requires_grad):
            # One term after the other, because fresh memory costs more than the arithmetic on it.
            total = self._term(0).dequantize()
            for index in range(1, self.terms):
                total.add_(self._term(index).dequantize())
            return total
        positive = self._spread(self.positive)
        if self.negative is self.positive:
            values = scaled(self.codes, positive)
        else:
            values = scaled(self.codes.clamp(min=0), positive) + scaled(
                self.codes.clamp(max=0), self._spread(self.negative)
            )
        return values[0] if self.terms == 1 else values.sum(0)

    def sparsity(self) -> float:
        """Fraction of the weights that are zero, in [0, 1]."""
        return (self.dequantize() == 0).double().mean().item()

    def term_sparsity(self) -> list[float]:
        """Fraction of zero codes in every term, each in [0, 1]."""
        return (self.codes == 0).double().flatten(1).mean(1).tolist()

    def entropy(self) -> float:
        """Shannon entropy of the joint code of all terms in bits per weight, in [0, log2(3) * terms]."""
        weights = 3 ** torch.arange(self.terms, device=self.codes.device)
        joint = ((self.codes.long() + 1).flatten(1) * weights[:, None]).sum(0)
        counts = torch.unique(joint, return_counts=True)[1].double()
        share = counts / counts.sum()
        return -(share * share.log2()).sum().item() + 0.0

    def bits(self) -> int:
        """Storage bits per weight as stored: two for every term."""
        return 2 * self.terms

    def nbytes(self) -> int:
        """Stored bytes: packed two-bit codes and float32 levels (one of the two when they are equal)."""
        levels = self.positive.numel() * (1 if self.is_symmetric else 2)
        return self.terms * ((self.codes[0].numel() + 3) // 4) + 4 * levels

    def scale_channels(self, scale: Tensor) -> TernaryTensor:
        """Multiply every output channel by a factor, for example that of a normalization that follows.

        Args:
            scale: ``[channels]``, finite. A negative factor flips the channel's codes, so that levels keep their sign;
                a factor of zero gives zero codes with level one.

        Raises:
            ValueError: ``scale`` has another shape.
        """
        if tuple(scale.shape) != (self.channels,):
            raise ValueError(f"scale must have shape [{self.channels}], got {tuple(scale.shape)}")
        wide = self.per_channel
        factor = scale.detach().to(wide.positive)
        size, flip, gone = factor.abs(), factor < 0, factor == 0
        positive = torch.where(flip, wide.negative, wide.positive) * size
        negative = torch.where(flip, wide.positive, wide.negative) * size
        one = torch.ones_like(positive)
        codes = self.codes * self._spread(factor.sign()[None]).to(torch.int8)
        return TernaryTensor(
            codes, torch.where(gone, one, positive), torch.where(gone, one, negative), self.channel_axis
        )

    def pack(self) -> Tensor:
        """Return the codes as two-bit two's complement, uint8 ``[terms, ceil(n / 4)]``.

        Four codes share a byte, the first in the least significant bits, as ONNX stores INT2; the last byte is filled
        with zeros.
        """
        flat = self.codes.flatten(1)
        flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 4))
        quads = (flat.to(torch.uint8) & 3).reshape(self.terms, -1, 4)
        return quads[..., 0] | quads[..., 1] << 2 | quads[..., 2] << 4 | quads[..., 3] << 6

    @staticmethod
    def from_values(weight: Tensor, channel_axis: int = 0) -> TernaryTensor | None:
        """Recognize a float weight that is exactly ternary by value.

        Args:
            weight: Any float tensor with at least one axis.
            channel_axis: Axis of the output channels.

        Returns:
            One term whose values equal ``weight`` exactly, with one level pair for the layer where that is enough and
            one per output channel otherwise; a sign that does not occur takes the other sign's level, an empty channel
            has level one. None when some channel needs more than one positive or one negative value, or is not finite.
        """
        if not weight.is_floating_point() or weight.numel() == 0 or weight.ndim == 0:
            return None
        values = weight.detach().float()
        if not torch.isfinite(values).all():
            return None
        rows = values.movedim(channel_axis, 0).flatten(1)
        for candidate in (rows.reshape(1, -1), rows):
            levels = _row_levels(candidate)
            if levels is not None:
                return TernaryTensor(values.sign().to(torch.int8)[None], levels[0], levels[1], channel_axis)
        return None


def _row_levels(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """The positive and negative level of every row, each ``[1, rows]``, or None when a row is not ternary."""
    levels, present = [], []
    for signed in (rows, -rows):
        top = signed.amax(1).clamp_min(0)
        if (signed.gt(0) & signed.ne(top[:, None])).any():
            return None
        levels.append(top)
        present.append(top > 0)
    one = torch.ones_like(levels[0])
    positive = torch.where(present[0], levels[0], torch.where(present[1], levels[1], one))
    negative = torch.where(present[1], levels[1], positive)
    return positive[None], negative[None]
