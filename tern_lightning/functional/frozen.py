"""Levels of a frozen assignment."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.shared import conditional_mean
from tern_lightning.tensor import TernaryTensor


def frozen_levels(
    latent: Tensor, codes: Tensor, symmetric: bool = True, per_channel: bool = False, channel_axis: int = 0
) -> TernaryTensor:
    r"""Read the levels out of a latent weight whose codes are fixed, so that training the latent trains the levels.

    .. math:: p = E(W : T = +1), \quad n = -E(W : T = -1), \quad \text{or } p = n = E(T W : T \ne 0)

    The chain rule through the mean gives every latent weight of a class the same gradient,
    :math:`dW_i = T_i S / N`, with :math:`S = \sum_{T_j \ne 0} T_j G_j` the level's own gradient and :math:`N` the
    number of weights that share the level. It is the orthogonal projection of the weight gradient :math:`G` on the
    weights that the codes allow. So the level goes on at the speed at which it moved before the freeze, whatever the
    optimiser, and the gradient's norm (clipping, loss scaling) stays what it was. A level trained as a parameter of
    its own, as in Trained Ternary Quantization (2017), equation 7, receives :math:`S` itself and moves :math:`N` times
    as fast under plain gradient descent; adaptive optimisers see hardly a difference.

    Args:
        latent: Float32 weight of any shape. The result's levels are differentiable in it.
        codes: int8, the shape of ``latent``.
        symmetric: One level for both signs.
        per_channel: One level (pair) per output channel instead of one for the layer.
        channel_axis: Axis of the output channels.

    Example:
        >>> import torch
        >>> codes = torch.tensor([[1, 1, -1]], dtype=torch.int8)
        >>> frozen_levels(torch.tensor([[1.0, 3.0, -4.0]]), codes, symmetric=False).negative
        tensor([[4.]])
    """
    if symmetric:
        positive = negative = conditional_mean(latent * codes, codes != 0, channel_axis, per_channel)
    else:
        positive = conditional_mean(latent, codes > 0, channel_axis, per_channel)
        negative = conditional_mean(-latent, codes < 0, channel_axis, per_channel)
    return TernaryTensor(codes[None], positive[None], negative[None], channel_axis)
