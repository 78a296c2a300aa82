"""Strengths of an entropy constraint as options of a budget: the zeros that each gives a layer, and what it loses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from tern_lightning.callbacks._masking import Target
from tern_lightning.callbacks.entropy import EntropyConstraint
from tern_lightning.functional.ec2t import entropy_assignment
from tern_lightning.quantizers.ec2t import EC2T

Floats = npt.NDArray[np.float64]
_FINE = 1025
"""Strengths among which the largest is sought that does not make too many zeros."""
_SMALLEST = 1e-12


@dataclass(frozen=True)
class StrengthOptions:
    """What a layer may choose from; all ``[options]``.

    Attributes:
        strengths: Of the constraint, ascending from 0.
        zeros: Share of the layer's weights that gets the code 0.
        damage: Minus the logarithm of the energy that the ternary weights keep of the latent ones.
    """

    strengths: Floats
    zeros: Floats
    damage: Floats


@torch.no_grad()
def strength_options(
    weight: Tensor, positive: Tensor, negative: Tensor, mask: Tensor | None, most: float, options: int
) -> StrengthOptions:
    """The zeros and the damage of a layer at several strengths, from one sort of its weights.

    Thresholds are straight lines in the strength, see :func:`tern_lightning.functional.entropy_assignment`.

    Args:
        weight: Latent weight of any shape.
        positive: Level of the positive weights, a scalar.
        negative: Magnitude of the level of the negative weights, a scalar.
        mask: Bool of the weight's shape, True for weights that are kept; None keeps all.
        most: Largest share of zeros in (0, 1), unless there are more at strength 0.
        options: How many strengths, at least 2.
    """
    weight = weight.detach().float()
    ends = [entropy_assignment(weight, positive, negative, strength, mask=mask) for strength in (0.0, 1.0)]
    upper, lower = (np.array([float(getattr(end, name)) for end in ends]) for name in ("upper", "lower"))
    kept = (weight if mask is None else weight[mask]).flatten().double().sort().values.cpu().numpy()

    def signs(strengths: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """How many weights get -1, and behind how many those with +1 begin."""
        bounds = (np.float32(ends[0] + strengths * (ends[1] - ends[0])) for ends in (lower, upper))
        below, above = bounds
        return np.asarray(np.searchsorted(kept, below, "left")), np.asarray(np.searchsorted(kept, above, "right"))

    def zeros_of(strengths: Floats) -> Floats:
        minus, plus = signs(strengths)
        return np.asarray(1 - (minus + len(kept) - plus) / max(1, weight.numel()))

    fine = np.linspace(0, 1, _FINE)
    last = int(np.searchsorted(zeros_of(fine), most, side="right"))
    strengths = np.linspace(0, fine[max(0, last - 1)], options)
    minus, plus = signs(strengths)
    p, n = float(positive), float(negative)
    sums = np.concatenate([[0.0], kept.cumsum()])
    energy = max(float(kept @ kept), _SMALLEST)
    gained = 2 * p * (sums[-1] - sums[plus]) - p * p * (len(kept) - plus) - 2 * n * sums[minus] - n * n * minus
    return StrengthOptions(strengths, zeros_of(strengths), -np.log(np.clip(gained / energy, _SMALLEST, 1.0)))


def check_methods(trainer: pl.Trainer, targets: Mapping[str, Target], name: str) -> None:
    """Check that the strengths of all layers can be set.

    Raises:
        MisconfigurationException: A layer has another method than ``ec2t``, or an EntropyConstraint sets strengths too.
    """
    if any(isinstance(one, EntropyConstraint) for one in trainer.callbacks):  # type: ignore[attr-defined]
        raise MisconfigurationException(
            f"{name}(by='entropy') finds the strength of every layer by itself; HINT: leave out EntropyConstraint"
        )
    grouped = [path for path, target in targets.items() if (own := _method(target)) is not None and own.group > 1]
    if grouped:
        raise MisconfigurationException(
            f"{name}(by='entropy') finds strengths for single weights, and the method ec2t has a group of channels in "
            f"{', '.join(grouped)}; HINT: group=1, or EntropyConstraint in the place of the budget"
        )
    others = [path for path, target in targets.items() if _method(target) is None]
    if others:
        raise MisconfigurationException(
            f"{name}(by='entropy') needs the method ec2t on the layers that it chooses from, which {', '.join(others)} "
            "does not have; HINT: TernaryCallback('ec2t'), or include and exclude"
        )


def options_of(target: Target, most: float, options: int) -> StrengthOptions:
    """What a layer of the method ``ec2t`` may choose from; see :func:`strength_options`."""
    method, weight, mask = _method(target), target.weight, target.keep
    assert method is not None
    levels = method.fixed_scalars(weight.detach().float(), target.axis, mask)
    positive, negative = (level.reshape(()) for level in method.both(levels))
    return strength_options(weight, positive, negative, mask, most, options)


def set_strength(target: Target, strength: float) -> None:
    """Give a layer and its copies this strength, whatever its size."""
    for layer in target.members():
        method = _method_of(layer)
        if method is not None:
            method.strength.fill_(strength)
            method.size_factor.fill_(1.0)


def _method(target: Target) -> EC2T | None:
    return _method_of(target.layer)


def _method_of(layer: nn.Module) -> EC2T | None:
    method = getattr(layer.__dict__.get("_ternary_state"), "quantizer", None)
    return method if isinstance(method, EC2T) else None
