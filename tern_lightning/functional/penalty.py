"""Penalties on groups of weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tern_lightning.functional.patterns import Group, expand_groups, group_norms

DeltaMode = Literal["all", "alive"]


def clipping_threshold(norms: Tensor, share: float, mode: DeltaMode = "all") -> Tensor:
    """The norm from which on a group is not penalized: ``share`` of the mean norm of the groups, a scalar.

    Args:
        norms: Norms of the groups.
        share: Share of the mean that is the limit, > 0.
        mode: ``all`` counts dead groups, so that the threshold falls as groups die; ``alive`` counts the others only.
    """
    if mode == "all":
        return share * norms.mean()
    return share * norms.sum() / (norms > 0).sum().clamp_min(1)


def weight_penalty(
    weight: Tensor, group: Group, threshold: float, mode: DeltaMode = "all", channel_axis: int = 0, kernel: bool = True
) -> Tensor:
    r"""Clipped group penalty, :math:`R = \sum_g \min(\|W_g\|_2, \delta)` with a constant :math:`\delta`, a scalar.

    Weight-penalty clipping with a self-adapting threshold, Harmonious Coexistence of Structured Weight Pruning and
    Ternarization for Deep Neural Networks (2020). Groups whose norm is above :math:`\delta = a \, \mathrm{mean}_g
    \|W_g\|` are not shrunk, which keeps the scale that ternarization works with. Only the paper's abstract was at
    hand: the form of the penalty and of its threshold are a reconstruction.

    Args:
        weight: Float weight with output and input channels on its first two axes; differentiable.
        group: Output and input channels of a group.
        threshold: The share a, positive.
        mode: Groups that count in the mean; see :func:`clipping_threshold`.
        channel_axis: Axis of the output channels.
        kernel: Whether a group spans the whole kernel or one position of it.
    """
    norms = group_norms(weight, group, channel_axis, kernel)
    delta = clipping_threshold(norms.detach(), threshold, mode)
    return torch.minimum(norms, delta).sum()


@torch.no_grad()
def weight_penalty_gradient(
    weight: Tensor, group: Group, threshold: float, mode: DeltaMode = "all", channel_axis: int = 0, kernel: bool = True
) -> Tensor:
    r"""Gradient of :func:`weight_penalty`: :math:`W_g / \|W_g\|` where :math:`0 < \|W_g\| < \delta`, else zero.

    It has the weight's shape; the arguments are those of :func:`weight_penalty`.
    """
    norms = group_norms(weight, group, channel_axis, kernel)
    delta = clipping_threshold(norms, threshold, mode)
    inverse = torch.where((norms > 0) & (norms < delta), 1 / norms.clamp_min(1e-12), torch.zeros_like(norms))
    return weight * expand_groups(inverse, weight.shape, group, channel_axis, kernel)


@torch.no_grad()
def shrink_groups(
    weight: Tensor,
    amount: float,
    group: Group,
    threshold: float,
    mode: DeltaMode = "all",
    channel_axis: int = 0,
    kernel: bool = True,
) -> Tensor:
    r"""Proximal step: :math:`W_g \max(0, 1 - s / \|W_g\|)` where :math:`\|W_g\| < \delta`, else :math:`W_g`.

    Proximal Algorithms (2014) call it block soft thresholding; here for the groups that are penalized. It reaches
    zero exactly, whatever the optimizer. ``amount`` is s, the learning rate times the strength; the other arguments are
    those of :func:`weight_penalty`.
    """
    norms = group_norms(weight, group, channel_axis, kernel)
    delta = clipping_threshold(norms, threshold, mode)
    factor = torch.where(norms < delta, (1 - amount / norms.clamp_min(1e-12)).clamp_min(0), torch.ones_like(norms))
    return weight * expand_groups(factor, weight.shape, group, channel_axis, kernel)
