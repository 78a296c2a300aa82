"""The stretched elastic quantizer of ParetoQ for ternary weights."""

from __future__ import annotations

import torch
from torch import Tensor

from tern_lightning.functional.gradient import attach
from tern_lightning.functional.shared import kept, signs, spread
from tern_lightning.products import scaled
from tern_lightning.ternary_tensor import TernaryTensor

CLIP = 0.99


def seq(weight: Tensor, scale: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
    r"""Divide a trained range into three equal parts.

    .. math:: \hat W = \frac{a}{1.5} \, \mathrm{round}\left(1.5 \, \mathrm{clip}(W / a, -0.99, 0.99)\right)

    ParetoQ: Improving Scaling Laws in Extremely Low-bit LLM Quantization (2025), for three levels: 0 and
    :math:`\pm 2a/3`, threshold :math:`a/3`.

    Args:
        weight: Float32 weight of any shape.
        scale: The range's end a, float32 ``[C]``, positive.
        channel_axis: Axis of the output channels.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.

    Example:
        >>> import torch
        >>> seq(torch.tensor([[1.0, -3.0, 0.9]]), torch.tensor([3.0])).dequantize()
        tensor([[ 0., -2.,  0.]])
    """
    ratio = (weight / spread(scale, weight, channel_axis)).clamp_(-CLIP, CLIP)
    codes = kept(ratio.mul_(1.5).round_(), mask).to(torch.int8)
    level = (scale / 1.5)[None]
    return TernaryTensor(codes[None], level, level, channel_axis)


def seq_gradient(weight: Tensor, scale: Tensor, ternary: TernaryTensor, mask: Tensor | None = None) -> Tensor:
    r"""The values of :func:`seq` with its gradients.

    .. math:: \frac{\partial L}{\partial W} = G \, [|W/a| \le 0.99], \quad \frac{\partial L}{\partial a} =
        \frac{1}{\sqrt{n}} \sum G \, (\hat W / a - W / a \text{ inside, } \mathrm{sign}(W) \text{ outside})

    with n the number of weights of the layer, as in Learned Step Size Quantization (2020), section 2.2. Outside the
    slope is that of the range's end although the level is at two thirds of it, as in the published code.

    Args:
        weight: Float32 weight.
        scale: The range's end, ``[C]``.
        ternary: ``seq(weight, scale)``.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.
    """
    axis = ternary.channel_axis
    ratio = weight.detach() / spread(scale.detach(), weight, axis)
    inside = ratio.abs() <= CLIP
    # In place: on a CPU a new tensor costs more than the arithmetic.
    slope = scaled(inside, ternary.codes[0].to(ratio.dtype).div_(1.5).sub_(ratio))
    slope.add_(signs(ratio, ~inside).to(ratio.dtype)).div_(weight.numel() ** 0.5)
    values = attach(ternary.dequantize().detach(), weight, inside)
    return attach(values, spread(scale, weight, axis), kept(slope, mask))
