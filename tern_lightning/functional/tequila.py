"""A bias made of the weights that ternarization sets to zero."""

from __future__ import annotations

from torch import Tensor

from tern_lightning.functional.shared import kept, to_rows
from tern_lightning.ternary_tensor import TernaryTensor


def dead_zone_bias(weight: Tensor, ternary: TernaryTensor, eps: float = 1e-3, mask: Tensor | None = None) -> Tensor:
    r"""What the weights with code zero add to every output, ``[channels]``.

    .. math:: b_o = \epsilon \sum_{i : T_{oi} = 0} W_{oi}

    Tequila: Trapping-free Ternary Quantization for Large Language Models (2025). A weight with code zero feels only the
    straight-through gradient, which says little about the direction out; through the bias it also receives
    :math:`\epsilon \, \partial L / \partial b_o`. The bias does not depend on the input, so that it costs nothing after
    training.

    Args:
        weight: Float32 latent weight; the result is differentiable in it.
        ternary: The ternary form of ``weight``, of one term.
        eps: Factor, >= 0.
        mask: Bool of the weight's shape, True for weights that are kept; pruned weights add nothing.

    Example:
        >>> import torch
        >>> from tern_lightning.functional import twn
        >>> weight = torch.tensor([[1.0, -3.0, 0.1], [0.2, 0.3, -4.0]])
        >>> dead_zone_bias(weight, twn(weight), eps=0.5)
        tensor([0.5500, 0.2500])
    """
    dead = kept(ternary.codes[0] == 0, mask)
    return eps * to_rows(weight * dead, ternary.channel_axis, True).sum(1)
