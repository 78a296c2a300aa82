"""Shrink groups of weights that are small already, and prune those that die."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._masking import MaskCallback, Target, WeightCallback
from tern_lightning.callbacks._phases import check_boundary, reached
from tern_lightning.functional.patterns import expand_groups, group_norms, keep_largest
from tern_lightning.functional.penalty import DeltaMode, shrink_groups, weight_penalty, weight_penalty_gradient
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.schedules import Schedule
from tvm_schedules.common.arguments import check_arguments, other_names
from tvm_schedules.common.near import check_share


class _Penalty:
    """Arguments of the penalty and what it does to one weight."""

    def __init__(
        self,
        strength: float,
        threshold: float,
        group: tuple[int, int],
        form: Literal["gradient", "proximal"],
        delta_mode: DeltaMode,
        kernel: bool,
    ) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise ValueError(f"strength must be finite and >= 0, got {strength}")
        if not (math.isfinite(threshold) and threshold > 0):
            raise ValueError(f"threshold must be finite and > 0, got {threshold}")
        if min(group) < 1:
            raise ValueError(f"group must be two sizes >= 1, got {group}")
        self.strength: float = strength
        self.threshold: float = threshold
        self.group: tuple[int, int] = (group[0], group[1])
        self.form = form
        self.delta_mode = delta_mode
        self.kernel: bool = kernel

    def add_gradient(self, target: Target, strength: float) -> None:
        """Add the penalty's gradient to that of the latent weight, unless the step does not move it."""
        weight = target.weight
        if weight.grad is not None:
            slope = weight_penalty_gradient(weight.float(), *self._options(target))
            weight.grad.add_(slope.to(weight.grad), alpha=strength)

    @torch.no_grad()
    def shrink(self, target: Target, amount: float) -> None:
        """Make the proximal step."""
        target.weight.copy_(shrink_groups(target.weight.float(), amount, *self._options(target)))

    @torch.no_grad()
    def value(self, target: Target) -> Tensor:
        """The penalty of one weight, without the strength."""
        return weight_penalty(target.weight.float(), *self._options(target))

    def _options(self, target: Target) -> tuple[tuple[int, int], float, DeltaMode, int, bool]:
        return self.group, self.threshold, self.delta_mode, target.axis, self.kernel


@check_arguments
class WeightPenaltyClipping(WeightCallback):
    r"""Penalize groups of weights with small norms and leave large ones alone.

    The latent weights W get the gradient of :math:`\lambda \sum_g \min(\|W_g\|, \delta)` with the self-adapting
    threshold :math:`\delta = a \, \mathrm{mean}_g \|W_g\|` of their layer: weight-penalty clipping, Harmonious
    Coexistence of Structured Weight Pruning and Ternarization for Deep Neural Networks (2020), as reconstructed in
    :func:`tern_lightning.functional.penalty.weight_penalty`. A plain group lasso shrinks the large groups too and with
    them the scale that a ternarizer works with. The penalty reaches the gradient exactly once per optimizer step: after
    accumulation, unscaling and the exchange between processes, before clipping.

    Args:
        strength: Lambda, >= 0; 1e-5 to 5e-4 are usual for the gradient form.
        threshold: The share a of the mean norm, positive; 0.1 to 1 are usual.
        group: Output and input channels of a group.
        form: ``gradient`` adds to the gradient. ``proximal`` shrinks the groups right after the step by learning rate
            times strength, which reaches zero exactly and does not depend on the optimizer's scaling.
        delta_mode: Groups that count in the mean norm: ``all``, so that the threshold falls as groups die, or
            ``alive``.
        kernel: Whether a group spans the whole kernel of a convolution, or one position of it.
        schedule: Factor of the strength over the run; None for always 1.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.

    Raises:
        ValueError: An argument is out of range.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback("sws"), WeightPenaltyClipping(1e-4, 0.5, group=(4, 4))])
    """

    def __init__(
        self,
        strength: float = 1e-4,
        threshold: float = 0.5,
        group: tuple[int, int] = (4, 4),
        form: Literal["gradient", "proximal"] = "gradient",
        delta_mode: DeltaMode = "all",
        kernel: bool = True,
        schedule: Schedule | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(include, exclude)
        self.penalty: _Penalty = _Penalty(strength, threshold, group, form, delta_mode, kernel)
        self.schedule: Schedule | None = schedule
        self.timed: bool = schedule is not None
        self._factor = 1.0

    @property
    @override
    def state_key(self) -> str:
        penalty = self.penalty
        which = {"group": penalty.group, "form": penalty.form, "threshold": penalty.threshold}
        return self._generate_state_key(include=self.include, exclude=self.exclude, **which)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.origin()

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if not advice.complete(self.clock, self.schedule, trainer):
            advice.unfinished("WeightPenaltyClipping", trainer, "the schedule of its strength was not complete")

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.schedule is not None:
            self._factor = self.clock.value(self.schedule, trainer, batch_idx)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.penalty.form == "gradient":
            for target, _ in self._of(optimizer):
                self.penalty.add_gradient(target, self._factor * self.penalty.strength)

    @override
    def after_step(self, optimizer: Optimizer) -> None:
        if self.penalty.form == "proximal":
            for target, rate in self._of(optimizer):
                self.penalty.shrink(target, rate * self._factor * self.penalty.strength)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = sum(float(self.penalty.value(target)) for target in self._targets.values())
        pl_module.log("penalty/clipping", self._factor * self.penalty.strength * total, sync_dist=True)


@check_arguments(hint=other_names("amount", "sparsity", "zeros"))
class StructuredPruning(MaskCallback):
    r"""Prune groups of weights that belong to one processing element, jointly with ternary training.

    PE-wise structured pruning, Harmonious Coexistence of Structured Weight Pruning and Ternarization for Deep Neural
    Networks (2020); the schedule is a reconstruction. The run has three parts: until ``prune`` the groups
    are under :class:`WeightPenaltyClipping`'s penalty; then those die whose norm is below ``dead`` times the mean norm
    of their layer's groups, or whose ternary weights are all zero; from then on the mask stays and the rest is trained
    without penalty. A group is a block of output by input channels, and so of the matrix ``[O, I * kernel]`` that block
    kernels skip.

    Args:
        group: Output and input channels of a group.
        strength: Lambda of the penalty, >= 0.
        threshold: Groups with norms above this share of the mean are not penalized, positive.
        prune: When groups are pruned: an epoch (int) or a fraction of the run (float).
        dead: Share of the mean norm below which a group is pruned, in [0, 1).
        amount: Where given, prune instead the groups with the smallest root mean squares of all layers until this share
            of the weights is pruned, in [0, 1].
        form: Form of the penalty: ``gradient`` or ``proximal``.
        delta_mode: Groups that count in the mean norm: ``all`` or ``alive``.
        kernel: Whether a group spans the whole kernel of a convolution, or one position of it.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.

    Raises:
        ValueError: An argument is out of range.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback("sws"), StructuredPruning(group=(8, 1), prune=0.5)])
    """

    timed: bool = True

    def __init__(
        self,
        group: tuple[int, int] = (4, 4),
        strength: float = 1e-4,
        threshold: float = 0.5,
        prune: int | float = 0.5,
        dead: float = 1e-2,
        amount: float | None = None,
        form: Literal["gradient", "proximal"] = "gradient",
        delta_mode: DeltaMode = "all",
        kernel: bool = True,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(include, exclude)
        check_boundary("prune", prune)
        check_share("dead", dead, "[0, 1)")
        if amount is not None:
            check_share("amount", amount)
        self.penalty: _Penalty = _Penalty(strength, threshold, group, form, delta_mode, kernel)
        self.prune: int | float = prune
        self.dead: float = dead
        self.amount: float | None = amount
        self.pruned: bool = False

    @override
    def reset(self) -> None:
        self.pruned = False

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        at_step = batch_idx % trainer.accumulate_grad_batches == 0
        if at_step and not self.pruned and reached(self.prune, self.clock.progress(trainer, batch_idx)):
            self.pruned = True
            self.set_masks(self.choose(), trainer.optimizers)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if not self.pruned and self.penalty.form == "gradient":
            for target, _ in self._of(optimizer):
                self.penalty.add_gradient(target, self.penalty.strength)
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if not self.pruned:
            advice.unfinished("StructuredPruning", trainer, f"prune={self.prune!r} was not reached, nothing is pruned")

    @override
    def after_step(self, optimizer: Optimizer) -> None:
        if not self.pruned and self.penalty.form == "proximal":
            for target, rate in self._of(optimizer):
                self.penalty.shrink(target, rate * self.penalty.strength)
        super().after_step(optimizer)

    @torch.no_grad()
    def choose(self) -> dict[str, Tensor]:
        """The masks by path, True for the groups that stay, from the weights as they are now."""
        targets = list(self._targets.values())
        hows = {t.path: (self.penalty.group, t.axis, self.penalty.kernel) for t in targets}
        if self.amount is not None:
            keeps = keep_largest(
                [t.weight for t in targets], self.amount, [t.keep for t in targets], [hows[t.path] for t in targets]
            )
            return {t.path: keep for t, keep in zip(targets, keeps, strict=True)}
        found = {}
        for target in targets:
            how = hows[target.path]
            norms = group_norms(target.weight.float(), *how)
            alive = (norms > 0) & (norms >= self.dead * norms.mean())
            alive &= group_norms(effective_weight(target.layer).float(), *how) > 0
            found[target.path] = expand_groups(alive, target.weight.shape, *how)
        return found

    @override
    def log_values(self) -> dict[str, float]:
        groups = dead = 0
        for target in self._targets.values():
            weight = effective_weight(target.layer).float()
            norms = group_norms(weight, self.penalty.group, target.axis, self.penalty.kernel)
            groups, dead = groups + norms.numel(), dead + int((norms == 0).sum())
        return {**super().log_values(), "pruning/groups": dead / groups}

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._targets:
            return {}
        return {"masks": self.masks_state(), "pruned": self.pruned, **self.origin()}

    @override
    def restore(self, state: dict[str, Any]) -> None:
        self.load_masks(state["masks"])
        self.pruned = state["pruned"]
