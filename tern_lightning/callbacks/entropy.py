"""Entropy-constrained training: of ternary layers (EC2T) and, by pruning, of layers that stay float (ECP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._clock import Clock, position
from tern_lightning.callbacks._masking import MaskCallback, Target, pruned_share
from tern_lightning.callbacks._phases import check_boundary, check_order, reached
from tern_lightning.callbacks._stateful import StatefulCallback
from tern_lightning.functional.ec2t import entropy_assignment, size_factor
from tern_lightning.nn.layer_types import weight_of
from tern_lightning.nn.ternary_layers import swapped_layers
from tern_lightning.nn.weight_mask import weight_mask
from tern_lightning.quantizers.base import check_range
from tern_lightning.quantizers.ec2t import EC2T
from tern_lightning.schedules import Schedule
from tvm_schedules.common.arguments import check_arguments


@check_arguments
class EntropyConstraint(StatefulCallback):
    """Give the layers of ``TernaryCallback("ec2t")`` their share of an entropy constraint.

    Learning Sparse & Ternary Neural Networks with Entropy-Constrained Trained Ternarization (EC2T) (2020): codes are
    assigned by distortion plus ``strength * share * multiplier`` times their bits, where the multiplier is the largest
    that leaves a layer ternary and the share grows with the layer's size. Strength is the knob for sparsity; with the
    default levels, Gaussian weights of a small layer have about 60% zeros at 0, 74% at 0.1, 84% at 0.2, 95% at 0.4. See
    :func:`tern_lightning.functional.entropy_assignment`. The published strength is constant; a ramp over the first part
    of the run is advisable above about 0.2.

    It works in either order with TernaryCallback, whose freeze ends its effect.

    Args:
        strength: In [0, 1], for all layers, or by layer path pattern (``*``, ``?``, ``[...]``; the first that matches
            counts, layers without a pattern get none).
        schedule: Factor of the strength over the run; None for a constant one.
        sustain: What even the smallest layer gets of the strength, relative to the largest one, >= 0.

    Raises:
        ValueError: An argument is out of range.

    Example::

        ramp = Schedule("linear", end=0.2)
        trainer = Trainer(callbacks=[TernaryCallback("ec2t"), EntropyConstraint(strength=0.3, schedule=ramp)])
    """

    instead: ClassVar[str] = "one for all layers, such as strength={'head*': 0.05, '*': 0.15}"

    def __init__(
        self,
        strength: float | dict[str, float] = 0.15,
        schedule: Schedule | None = None,
        sustain: float = 0.05,
    ) -> None:
        self.strength: dict[str, float] = _strengths(strength)
        self.schedule: Schedule | None = schedule
        self.sustain: float = sustain
        _check_schedule(schedule)
        check_range("sustain", sustain, 0)
        self.clock: Clock = Clock()
        self._methods: dict[str, EC2T] = {}
        self._restored: dict[str, Any] | None = None

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.enter(trainer, self._restored is not None, bool(self._methods))
        if self.schedule is not None:
            position(trainer, self.schedule.unit)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        saved, self._restored = self._restored, None
        if saved is not None:
            self.clock.load(saved)
        if self.clock.join(trainer) and self.schedule is not None:
            advice.joined("EntropyConstraint", trainer, "its schedule counts from there")
        sizes: dict[str, int] = {}
        self._methods = {}
        for path, layer in swapped_layers(pl_module):
            method = layer._ternary_state.quantizer
            if isinstance(method, EC2T) and not any(method is known for known in self._methods.values()):
                self._methods[path], sizes[path] = method, weight_of(layer).numel()
        if not self._methods:
            rank_zero_warn('EntropyConstraint has no effect: no layer has the method "ec2t" of TernaryCallback')
        for path, method in self._methods.items():
            method.size_factor.fill_(size_factor(sizes[path], max(sizes.values()), self.sustain))

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            factor = 1.0 if self.schedule is None else self.clock.value(self.schedule, trainer, batch_idx)
            for path, method in self._methods.items():
                method.strength.fill_(_strength_of(self.strength, path) * factor)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._methods and not advice.complete(self.clock, self.schedule, trainer):
            advice.unfinished("EntropyConstraint", trainer, "the schedule of its strength was not complete")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"origin": self.clock.state()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict


@check_arguments
class EntropyPruning(MaskCallback):
    """Prune layers that stay float by the entropy-constrained assignment: a weight stays itself unless it gets zero.

    The entropy-constrained pruning that EC2T (2020) uses for layers that suffer too much from two levels, such as
    depthwise convolutions, squeeze-and-excitation layers and classifiers. Before every step weights are assigned to
    ``{-n, 0, p}`` as by :class:`EntropyConstraint`, and those that get zero are masked. They keep the value that they
    had, and so return when the others change enough. The levels decide only where zero ends; they have no gradient and
    stay what they were at ``start``.

    Args:
        strength: In [0, 1], for all layers or by layer path pattern; see :class:`EntropyConstraint`.
        schedule: Factor of the strength over the run; None for a constant one.
        start: When pruning begins: an epoch (int) or a fraction of the run (float).
        freeze: From when on the masks do not change; None for never.
        initial_level: The levels as a share of the largest and the smallest weight, in (0, 1].
        floor: Smallest level in standard deviations, >= 0.
        sustain: What even the smallest layer gets of the strength, relative to the largest one, >= 0.
        include: Patterns of layer paths (``*``, ``?``, ``[...]``); None for all trained layers but the first and the
            last.
        exclude: Patterns of layers that are left out.

    Raises:
        ValueError: An argument is out of range.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback("ec2t"), EntropyPruning(include=["head", "*.depthwise"])])
    """

    timed: bool = True

    def __init__(
        self,
        strength: float | dict[str, float] = 0.15,
        schedule: Schedule | None = None,
        start: int | float = 0,
        freeze: int | float | None = 0.6,
        initial_level: float = 0.25,
        floor: float = 0.675,
        sustain: float = 0.05,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(include, exclude)
        self.strength: dict[str, float] = _strengths(strength)
        self.schedule: Schedule | None = schedule
        _check_schedule(schedule)
        check_boundary("start", start)
        check_boundary("freeze", freeze)
        check_range("initial_level", initial_level, 0, 1, above=True)
        check_range("floor", floor, 0)
        check_range("sustain", sustain, 0)
        self.start: int | float = start
        self.freeze: int | float | None = freeze
        self.initial_level: float = initial_level
        self.floor: float = floor
        self.sustain: float = sustain
        self._levels: dict[str, Tensor] = {}
        self._hidden: dict[str, Tensor] = {}

    @override
    def reset(self) -> None:
        self._levels, self._hidden = {}, {}

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.schedule is not None:
            position(trainer, self.schedule.unit)
        check_order(trainer, self.start, self.freeze, between="pruning")
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self._targets and not (self._levels and advice.complete(self.clock, self.schedule, trainer)):
            pruned = f"{pruned_share(list(self._targets.values())):.0%} of the weights are pruned"
            advice.unfinished("EntropyPruning", trainer, pruned)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        now = self.clock.progress(trainer, batch_idx)
        if batch_idx % trainer.accumulate_grad_batches or not reached(self.start, now) or reached(self.freeze, now):
            return
        factor = 1.0 if self.schedule is None else self.clock.value(self.schedule, trainer, batch_idx)
        sizes = {path: target.weight.numel() for path, target in self._targets.items()}
        keeps = {
            path: self._assign(target, factor * size_factor(sizes[path], max(sizes.values()), self.sustain))
            for path, target in self._targets.items()
        }
        self.set_masks(keeps, trainer.optimizers)

    @torch.no_grad()
    def _assign(self, target: Target, factor: float) -> Tensor:
        """The new mask of a weight; what it hides is remembered, what it shows again is put back."""
        path, weight = target.path, target.weight
        mine = weight_mask(target.layer).part(self.owner)
        full = (
            weight.float() if mine is None else torch.where(mine, weight.float(), self._hidden[path].to(weight.device))
        )
        if path not in self._levels:
            tops = torch.stack([full.amax(), -full.amin()]) * self.initial_level
            self._levels[path] = torch.maximum(tops, self.floor * full.std()).clamp_min(torch.finfo(torch.float32).tiny)
        positive, negative = self._levels[path].to(weight.device)
        found = entropy_assignment(full, positive, negative, _strength_of(self.strength, path) * factor)
        keep = (full > found.upper) | (full < found.lower)
        self._hidden[path] = full.masked_fill(keep, 0)
        weight.copy_(full)
        return keep

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._targets:
            return {}
        kept = {"levels": self._levels, "hidden": self._hidden}
        plain = {name: {path: value.cpu().clone() for path, value in of.items()} for name, of in kept.items()}
        return {"masks": self.masks_state(), **plain, **self.origin()}

    @override
    def restore(self, state: dict[str, Any]) -> None:
        self.load_masks(state["masks"])
        self._levels, self._hidden = dict(state["levels"]), dict(state["hidden"])


def _strengths(strength: float | Mapping[str, float]) -> dict[str, float]:
    """Check strengths, one number or a number by pattern of layer paths, and return them by pattern."""
    found = dict(strength) if isinstance(strength, Mapping) else {"*": strength}
    for pattern, value in found.items():
        check_range("strength" if pattern == "*" else f"strength of {pattern!r}", value, 0, 1)
    return found


def _strength_of(strengths: Mapping[str, float], path: str) -> float:
    return next((value for pattern, value in strengths.items() if fnmatchcase(path, pattern)), 0.0)


def _check_schedule(schedule: Schedule | None) -> None:
    ends = (schedule.initial, schedule.final) if schedule is not None else (0.0, 1.0)
    if min(ends) < 0 or max(ends) > 1:
        raise ValueError(f"the schedule's values must be in [0, 1], got {schedule}")
