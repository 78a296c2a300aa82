"""Surrogate Lagrangian relaxation: weights that are trained toward a set, sparse or ternary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Relaxation:
    """Where the method is. All tensors are copies: none of them is the weight that is being trained.

    Attributes:
        targets: Z, points of the set, one per weight.
        multipliers: Lambda, one per weight.
        weights_before: W at the last accepted update.
        targets_before: Z at the last accepted update.
        loss_before: Loss at the last accepted update of the weights; None before the first.
        step: Step size s of the multipliers.
        count: Number k of the next update, from 1.
    """

    targets: Tensors
    multipliers: Tensors
    weights_before: Tensors
    targets_before: Tensors
    loss_before: float | None
    step: float
    count: int

    @staticmethod
    def begin(weights: Sequence[Tensor], targets: Sequence[Tensor], step: float) -> Relaxation:
        """Start with the projections of the weights as targets and multipliers of zero."""
        first = tuple(weight.detach().clone() for weight in weights)
        points = tuple(target.detach().clone() for target in targets)
        return Relaxation(points, tuple(torch.zeros_like(w) for w in first), first, points, None, step, 1)


@dataclass(frozen=True)
class Settings:
    r"""The numbers of the method.

    Attributes:
        rho: Weight of the quadratic penalty, > 0.
        step: First step size of the multipliers, > 0.
        m: M of :func:`step_factor`, > 1.
        r: r of :func:`step_factor`, in (0, 1).

    Raises:
        ValueError: A number is out of its range.
    """

    rho: float
    step: float
    m: float
    r: float

    def __post_init__(self) -> None:
        infinite = math.inf
        for name, low, high in (("rho", 0, infinite), ("step", 0, infinite), ("m", 1, infinite), ("r", 0, 1)):
            value = getattr(self, name)
            if not low < value < high:
                raise ValueError(f"{name} must be > {low} and < {high}, got {value}")


SETTINGS = {"sparsity": Settings(0.1, 0.01, 300.0, 0.1), "ternary": Settings(0.01, 1e-3, 500.0, 0.05)}
"""The published numbers for sparse and for ternary weights."""


def step_factor(count: int, m: float, r: float) -> float:
    r"""How much a step shrinks, :math:`a_k = 1 - 1 / (M k^p)` with :math:`p = 1 - 1 / k^r`, in [0, 1)."""
    return 1 - 1 / (m * count ** (1 - 1 / count**r))


def lagrangian(
    loss: float, weights: Sequence[Tensor], targets: Sequence[Tensor], multipliers: Sequence[Tensor], rho: float
) -> float:
    r""":math:`f(W) + \sum \langle \Lambda, W - Z \rangle + \rho/2 \sum \|W - Z\|^2`."""
    total = loss
    for weight, target, multiplier in zip(weights, targets, multipliers, strict=True):
        gap = weight.detach().double() - target.double()
        total += float((multiplier.double() * gap).sum() + rho / 2 * gap.square().sum())
    return total


def relax(
    state: Relaxation,
    weights: Sequence[Tensor],
    loss: float,
    project: Callable[[Tensors], Sequence[Tensor]],
    rho: float,
    m: float = 300.0,
    r: float = 0.1,
) -> Relaxation:
    r"""Update multipliers and targets after a while of training the weights on the penalized loss.

    1. If the Lagrangian is lower for the weights than for those of the last accepted update (or k = 1):
       :math:`s' = a_k s \|W_{prev} - Z_{prev}\| / \|W - Z\|`, :math:`\Lambda \mathrel{+}= s' (W - Z)`, k + 1.
    2. :math:`Z' = \mathrm{Proj}(W + \Lambda / \rho)`. If that lowers the Lagrangian:
       :math:`s = a_k s' \|W_{prev} - Z_{prev}\| / \|W - Z'\|`, :math:`\Lambda \mathrel{+}= s (W - Z')`, k + 1.

    Norms run over all weights together. Enabling Retrain-free Deep Neural Network Pruning using Surrogate Lagrangian
    Relaxation (2021). The weights of the last update are copies; where they alias the live weights, as in published
    code, the ratio of norms degenerates.

    Args:
        state: Points, multipliers and step size of the last update.
        weights: The weights W as they are now.
        loss: Mean loss (without the penalty) since the last call.
        project: Projection on the set, all weights at once.
        rho: Weight of the quadratic penalty, > 0.
        m: M of :func:`step_factor`, > 1.
        r: r of :func:`step_factor`, in (0, 1).
    """
    now = tuple(weight.detach().clone() for weight in weights)
    before = math.inf if state.loss_before is None else state.loss_before
    lower = lagrangian(loss, now, state.targets, state.multipliers, rho) < lagrangian(
        before, state.weights_before, state.targets, state.multipliers, rho
    )
    if state.count == 1 or lower:
        state = replace(_update(state, now, state.targets, m, r), loss_before=loss)
    shifted = tuple(w + x / rho for w, x in zip(now, state.multipliers, strict=True))
    points = tuple(point.detach().clone() for point in project(shifted))
    closer = lagrangian(loss, now, points, state.multipliers, rho) < lagrangian(
        loss, now, state.targets, state.multipliers, rho
    )
    if closer:
        state = _update(state, now, points, m, r)
    return replace(state, targets=points)


def penalty_gradient(weight: Tensor, target: Tensor, multiplier: Tensor, rho: float) -> Tensor:
    r"""Gradient of the Lagrangian's penalty in W, :math:`\Lambda + \rho (W - Z)`."""
    return torch.add(multiplier, weight.detach().to(target) - target, alpha=rho)


def _update(state: Relaxation, weights: Tensors, targets: Tensors, m: float, r: float) -> Relaxation:
    """Move the multipliers along W - Z with the next step size."""
    gaps = [weight - target for weight, target in zip(weights, targets, strict=True)]
    old = _norm([w - z for w, z in zip(state.weights_before, state.targets_before, strict=True)])
    new = _norm(gaps)
    step = step_factor(state.count, m, r) * state.step * (old / new if new > 0 and old > 0 else 1.0)
    multipliers = tuple(x + step * gap for x, gap in zip(state.multipliers, gaps, strict=True))
    return replace(
        state,
        multipliers=multipliers,
        weights_before=weights,
        targets_before=targets,
        step=step,
        count=state.count + 1,
    )


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
