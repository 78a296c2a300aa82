"""Entropy-constrained trained ternarization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tern_lightning.functional.patterns import expand_groups, group_sums
from tern_lightning.functional.shared import kept
from tern_lightning.products import as_factor
from tern_lightning.ternary_tensor import TernaryTensor


@dataclass(frozen=True)
class EntropyAssignment:
    """What decides about the codes of one layer; all scalars.

    Attributes:
        upper: Weights above it get code +1.
        lower: Weights below it get code -1.
        shares: Shares ``[3]`` of the codes -1, 0, +1 under the nearest-level assignment, from which bits are taken.
        bits: Their information content ``[3]``, ``-log2``.
        multiplier: Lagrange multiplier of the bits.
        largest: The multiplier at which the first of the two levels loses its last weight; zero where there is none.
    """

    upper: Tensor
    lower: Tensor
    shares: Tensor
    bits: Tensor
    multiplier: Tensor
    largest: Tensor


def entropy_assignment(
    weight: Tensor,
    positive: Tensor,
    negative: Tensor,
    strength: Tensor | float,
    size_factor: Tensor | float = 1.0,
    mask: Tensor | None = None,
) -> EntropyAssignment:
    r"""Thresholds of the assignment that minimizes distortion plus bits.

    .. math:: A_i = \arg\min_c \left[ (W_i - w_c)^2 - \lambda \log_2 P_c \right]

    Learning Sparse & Ternary Neural Networks with Entropy-Constrained Trained Ternarization (EC2T) (2020), with levels
    :math:`w_c \in \{-n, 0, p\}` and :math:`P_c` the shares of the *nearest-level* assignment; fed with its own result
    the assignment would run away to all zeros. An empty class counts as one weight and the share of zeros as at least
    one half, taken from both signs in proportion. With :math:`I = -\log_2 P` the smallest sum is at +1 exactly beyond

    .. math:: \frac{p}{2} + \lambda \frac{I_p - I_0}{2 p} = \frac{p}{2} + \frac{\lambda}{\lambda_p}
        \left( W_{\max} - \frac{p}{2} \right), \quad
        \lambda_p = \frac{W_{\max}^2 - (W_{\max} - p)^2}{I_p - I_0}

    and likewise for -1, so that two thresholds replace three distances per weight. :math:`\lambda = \gamma \delta
    \min(\lambda_p, \lambda_n)`: at strength :math:`\gamma = 1` the most extreme weight of one sign is just indifferent
    and that level is lost. A sign without weights, or with no more bits than zero, leaves the other alone to decide.

    Args:
        weight: Float32 weight of any shape.
        positive: Level p, positive scalar.
        negative: Magnitude n of the negative level, positive scalar.
        strength: Global strength in [0, 1]; 0 assigns to the nearest level.
        size_factor: The layer's share of it in [0, 1], see :func:`size_factor`.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.
    """
    values = kept(weight.detach(), mask)
    plus, minus = torch.count_nonzero(values > positive / 2), torch.count_nonzero(values < -negative / 2)
    total = values.numel() if mask is None else torch.count_nonzero(mask)
    counts = torch.stack([minus, total - plus - minus, plus]).clamp_min(1).to(weight.dtype)
    shares = counts / counts.sum()
    zeros = shares[1].clamp_min(0.5)
    signs = shares[::2] * (1 - zeros) / (shares[0] + shares[2])
    shares = torch.stack([signs[0], zeros, signs[1]])
    bits = -shares.log2()

    levels = torch.stack([negative, positive])
    # One pass; along an axis, because torch.onnx knows it only so.
    lowest, highest = torch.aminmax(values.flatten(), dim=0)
    extremes = torch.stack([-lowest, highest])
    # Distance from the nearest-level threshold to the most extreme weight; W^2 - (W - w)^2 is twice w times it.
    room, extra = extremes - levels / 2, bits[::2] - bits[1]
    able = (room > 0) & (extra > 0)
    limits = torch.where(able, 2 * levels * room / torch.where(able, extra, 1.0), torch.inf)
    largest = limits.amin(0)
    # The deciding sign has exactly ratio one, and lerp ends exactly at its extreme.
    ratios = torch.where(able, largest / limits, 0.0)
    bounds = torch.lerp(levels / 2, torch.where(able, extremes, levels / 2), ratios * strength * size_factor)
    largest = torch.where(able.any(), largest, 0.0)
    return EntropyAssignment(bounds[1], -bounds[0], shares, bits, strength * size_factor * largest, largest)


def ec2t(
    weight: Tensor,
    positive: Tensor,
    negative: Tensor,
    strength: Tensor | float = 0.0,
    size_factor: Tensor | float = 1.0,
    channel_axis: int = 0,
    mask: Tensor | None = None,
    group: int = 1,
) -> TernaryTensor:
    """Ternarize with two trained levels under an entropy constraint; see :func:`entropy_assignment`.

    Args:
        weight: Float32 weight of any shape.
        positive: Level of the positive weights, float32 ``[1]``.
        negative: Magnitude of the level of the negative weights, float32 ``[1]``.
        strength: Global strength in [0, 1].
        size_factor: The layer's share of it in [0, 1].
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.
        group: How many neighboring output channels are zero together where the constraint makes zeros, see
            :func:`entropy_groups`; weights then have at least two axes.

    Example:
        >>> import torch
        >>> weight, level = torch.tensor([[1.0, -2.0, 0.2, 0.6, -0.1, 0.1]]), torch.tensor([1.0])
        >>> ec2t(weight, level, level).dequantize()
        tensor([[ 1., -1.,  0.,  1.,  0.,  0.]])
        >>> ec2t(weight, level, level, strength=0.9).dequantize()
        tensor([[ 1., -1.,  0.,  0.,  0.,  0.]])
    """
    fixed = (positive.detach().reshape(()), negative.detach().reshape(()))
    if group > 1:
        codes = entropy_groups(weight, *fixed, strength, size_factor, group, channel_axis, mask)
        return TernaryTensor(codes[None], positive[None], negative[None], channel_axis)
    found = entropy_assignment(weight, *fixed, strength, size_factor, mask)
    codes = kept(as_factor(weight > found.upper) - as_factor(weight < found.lower), mask)
    return TernaryTensor(codes[None], positive[None], negative[None], channel_axis)


def entropy_groups(
    weight: Tensor,
    positive: Tensor,
    negative: Tensor,
    strength: Tensor | float,
    size_factor: Tensor | float,
    group: int,
    channel_axis: int = 0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Codes of the assignment that decides about neighboring output channels at one place together.

    The sum of :func:`entropy_assignment` is taken over a group :math:`g`, whose weights get the nearest levels, or are
    all zero:

    .. math:: \sum_{i \in g} \left[ W_i^2 - (W_i - w_{c_i})^2 \right]
        > \lambda \sum_{i \in g} \left( I_{c_i} - I_0 \right), \quad c_i = \arg\min_c |W_i - w_c|

    :math:`\lambda = \gamma \delta \lambda_{\max}`: at strength :math:`\gamma = 1` the group that is worth most is
    just indifferent, and all are zero. EC2T (2020) decides about single weights; groups are an addition of this
    package, for kernels that read a pixel once for channels that share their zeros.

    Args:
        weight: Float32 weight with two axes or more.
        positive: Level p, positive scalar.
        negative: Magnitude n of the negative level, positive scalar.
        strength: Global strength in [0, 1].
        size_factor: The layer's share of it in [0, 1].
        group: Output channels of a group, >= 1.
        channel_axis: Axis of the output channels, 0 or 1.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Returns:
        Codes in {-1, 0, 1} of the weight's shape and type.
    """
    how = ((group, 1), channel_axis, False)
    values = kept(weight.detach(), mask)
    bits = entropy_assignment(weight, positive, negative, 0.0, mask=mask).bits
    nearest = as_factor(values > positive / 2) - as_factor(values < -negative / 2)
    levels = torch.where(values > 0, positive, negative)
    extra = torch.where(values > 0, bits[2], bits[0]) - bits[1]
    worth = group_sums(nearest.abs() * levels * (2 * values.abs() - levels), *how)
    price = group_sums(nearest.abs() * extra.clamp_min(0), *how)
    able = price > 0
    largest = torch.where(able, worth / torch.where(able, price, 1.0), 0.0).amax()
    keep = worth > strength * size_factor * largest * price
    return nearest * expand_groups(as_factor(keep), weight.shape, *how)


def size_factor(size: int, largest: int, sustain: float = 0.05) -> float:
    r"""How much of the entropy constraint a layer gets, :math:`(n / n_{\max} + c) / (1 + c)`.

    Small layers hold little and suffer much; see EC2T (2020).

    Args:
        size: Weights of the layer.
        largest: Weights of the largest constrained layer.
        sustain: c, what even the smallest layer gets, >= 0.
    """
    return (size / largest + sustain) / (1 + sustain)
