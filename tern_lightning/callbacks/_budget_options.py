"""What a budget chooses from for a layer: shares of pruned weights, strengths of a constraint, or float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tern_lightning.callbacks._masking import Target
from tern_lightning.functional.patterns import group_norms, group_sizes
from tern_lightning.nn.layer_state import LayerState

Floats = npt.NDArray[np.float64]
FLOAT = -1
"""In the place of a group's number: the layer is not ternary."""
_SMALLEST = 1e-12
"""Share of a layer's energy that counts as none."""


@dataclass(frozen=True)
class Options:
    """The forms that a layer may have.

    Attributes:
        forms: Of every option the number of the group, or :data:`FLOAT`, and the share of pruned weights or the
            strength.
        damage: ``[options]``, what is lost.
        costs: ``[options]`` of every budget.
    """

    forms: list[tuple[int, float]]
    damage: Floats
    costs: list[Floats]

    def or_float(self, ternarizing: float, costs: Sequence[float]) -> Options:
        """With one more option, float, at which nothing is lost.

        Args:
            ternarizing: What all others lose besides.
            costs: Of float, for every budget.
        """
        return Options(
            [*self.forms, (FLOAT, 0.0)],
            np.append(self.damage + ternarizing, 0.0),
            [np.append(own, cost) for own, cost in zip(self.costs, costs, strict=True)],
        )


def pruning_loss(target: Target, shares: Floats, group: int) -> Floats:
    """The damage of pruning a share of a layer: minus the logarithm of the energy that is left.

    Layer-adaptive Sparsity for the Magnitude-based Pruning (2021), equation 3, scores a weight by its square over the
    squares of all weights that are not smaller; such scores add up to about this. A layer that loses nearly all its
    weights counts without bound, and it does not matter how large the weights of a layer are.

    Args:
        target: The weight.
        shares: Shares of pruned weights, those of now first.
        group: How many channels lose a weight together; groups go as :func:`keep_largest` takes them.
    """
    weight, shape = target.weight.detach().float(), ((group, 1), target.axis, False)
    squares = group_norms(weight, *shape).square().flatten()
    sizes = group_sizes(weight.shape, *shape).to(weight.device).flatten()
    order = (squares / sizes).argsort(stable=True)
    lost = squares[order].double().cumsum(0).cpu().numpy()
    count = np.searchsorted(sizes[order].cumsum(0).cpu().numpy(), np.round(shares * weight.numel()), side="right")
    gone = np.where(count > 0, lost[np.maximum(count, 1) - 1], 0.0) / max(float(lost[-1]), _SMALLEST)
    return -np.log(np.maximum(1 - gone, _SMALLEST))


@torch.no_grad()
def ternarizing_loss(target: Target) -> float:
    """What a layer loses by ternary weights alone, those that its method makes now, in the measure of pruning.

    Minus the logarithm of one less the energy of the difference to the latent weights, by that of the latent weights.
    """
    state: LayerState | None = target.layer.__dict__.get("_ternary_state")
    if state is None:
        return 0.0
    latent: Tensor = target.weight.detach().float() * (1 if target.keep is None else target.keep)
    difference = latent - state.ternary(target.weight.detach()).dequantize().float()
    gone = float(difference.square().sum()) / max(float(latent.square().sum()), _SMALLEST)
    return -float(np.log(max(1 - gone, _SMALLEST)))
