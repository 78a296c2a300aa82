"""Prune weights on a schedule while the network trains, float or ternary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._choice import Choice
from tern_lightning.callbacks._clock import position
from tern_lightning.callbacks._masking import MaskCallback, pruned_share
from tern_lightning.callbacks._structure import Structure, structure_for
from tern_lightning.schedules import Schedule
from tvm_schedules.common.arguments import check_arguments, other_names
from tvm_schedules.common.near import check_share


@check_arguments(hint=other_names("amount", "sparsity", "zeros"))
class PruningSchedule(MaskCallback):
    """Prune the smallest weights, more and more of them, and train the others on.

    Pruned weights are zero from then on, for every callback and quantizer: thresholds and levels of ternary layers are
    those of the weights that are left. They come back in no checkpoint: checkpoints hold zeros, and the masks are in
    this callback's state, from which a run is resumed exactly. A ternarizer makes further zeros.
    ``TernaryCallback("twn", options={"factor": 0.0})`` makes none, so that sparsity is the scheduled amount;
    before anything is pruned all weights then are plus or minus one level. Pruning should be complete before the codes
    of ternary layers are frozen, because frozen weights of a layer are all of one size.

    Every process prunes by itself: the weights that they compare are the same. Strategies that split a weight over
    processes are not supported.

    Args:
        amount: Share of the chosen weights to prune, in [0, 1]. At least as many are zero in the end: a ternarizer
            makes zeros of some of the others. None with a pattern ``n:m``, which implies it.
        scope: ``global`` compares the weights of all chosen layers, ``layer`` prunes the same share of every layer.
        schedule: How the amount is reached, from ``schedule.initial`` to ``schedule.final`` times the amount; None for
            a cubic one over the first half of the run.
        pattern: ``element``, which is usual; ``block`` for whole groups of weights; ``digit`` for the digits of weights
            of several terms, the last term before the first (``amount`` is then a share of the digits; see
            :func:`tern_lightning.functional.patterns.keep_digits`); or ``n:m``, for example ``2:4``, to keep the n
            largest of every m weights along the input channels (m falls to n over the schedule).
        group: Output and input channels of a block.
        kernel: Whether a block spans the whole kernel of a convolution, or one position of it.
        every: Optimizer steps from one pruning to the next, at least 1; it always prunes when the schedule completes.
        include: Patterns of layer paths (``*``, ``?``, ``[...]``); None for all trained layers but the first and the
            last.
        exclude: Patterns of layers that are left out.
        target: A target of ``tern-export``, for example ``pi4``, in place of a pattern: weights are pruned in the
            structure that was measured to pay there, and fit says which.

    Raises:
        ValueError: An argument is out of range.
        TargetError: There is no such target.

    Example::

        ramp = Schedule("cubic", begin=0.1, end=0.5)
        trainer = Trainer(callbacks=[TernaryCallback(), PruningSchedule(0.8, schedule=ramp)])
    """

    timed: bool = True

    def __init__(
        self,
        amount: float | None = None,
        scope: Literal["global", "layer"] = "global",
        schedule: Schedule | None = None,
        pattern: str | None = None,
        group: tuple[int, int] = (1, 1),
        kernel: bool = True,
        every: int = 50,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        target: str | None = None,
    ) -> None:
        super().__init__(include, exclude)
        if target is not None and (pattern is not None or tuple(group) != (1, 1)):
            raise ValueError(
                f"target chooses pattern and group: give it alone, got target={target!r}, {pattern=}, {group=}"
            )
        self.structure: Structure | None = None if target is None else structure_for(target)
        if self.structure is None:
            self.choice: Choice = Choice(scope, "element" if pattern is None else pattern, group, kernel)
        else:
            self.choice = Choice(scope, self.structure.pattern, self.structure.group, kernel=False)
        if (self.choice.n_of_m is not None) != (amount is None):
            raise ValueError(
                f"amount must be None with a pattern n:m and a number otherwise, got {amount}, {pattern!r}"
            )
        if amount is not None:
            check_share("amount", amount)
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.schedule: Schedule = Schedule() if schedule is None else schedule
        if (
            not 0
            <= min(self.schedule.initial, self.schedule.final)
            <= max(self.schedule.initial, self.schedule.final)
            <= 1
        ):
            raise ValueError(f"the schedule's values must be in [0, 1], got {self.schedule}")
        self.amount: float | None = amount
        self.every: int = every
        self.progress: float = 0.0
        self._next_step = 0
        self._best_before: list[str] = []  # the best checkpoints when pruning became complete

    @override
    def reset(self) -> None:
        self.progress, self._next_step, self._best_before = 0.0, 0, []

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        position(trainer, self.schedule.unit)
        super().on_fit_start(trainer, pl_module)
        if self.structure is not None:
            rank_zero_info(f"PruningSchedule: {self.structure.why}")

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.progress < 0.99 * self.schedule.final and self._targets:
            share = f"{self.progress / self.schedule.final:.0%} of its schedule"
            pruned = pruned_share(list(self._targets.values()))
            advice.unfinished(type(self).__name__, trainer, f"{pruned:.0%} of the weights are pruned, {share}")
        elif not trainer.fast_dev_run:  # type: ignore[attr-defined]
            asked = self.choice.pattern if self.amount is None else f"{self.schedule.final * self.amount:.0%}"
            advice.best_is_unpruned(trainer, self._best_before, asked)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        target = self.clock.value(self.schedule, trainer, batch_idx)
        due = trainer.global_step >= self._next_step or target == self.schedule.final
        if target > self.progress and due:
            self.progress, self._next_step = target, trainer.global_step + self.every
            self._warn_frozen()
            if target == self.schedule.final:
                self._best_before = advice.best(trainer)
            self.set_masks(self.choose(target), trainer.optimizers)

    @torch.no_grad()
    def choose(self, progress: float) -> dict[str, Tensor]:
        """The masks for a share of the way, from the weights as they are now: True where one is kept, or its digits."""
        share = progress if self.amount is None else progress * self.amount
        return self.choice.keep(list(self._targets.values()), share)

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._targets:
            return {}
        state = {"masks": self.masks_state(), "progress": self.progress, "next_step": self._next_step}
        return {**state, "asked": self._asked(), **self.origin()}

    def _asked(self) -> dict[str, Any]:
        """What is pruned, as plain values."""
        return {"amount": self.amount, **asdict(self.choice), "group": list(self.choice.group)}

    @override
    def restore(self, state: dict[str, Any]) -> None:
        now, before = self._asked(), state.get("asked", {})
        if other := [f"{key}={before[key]!r}, now {now[key]!r}" for key in before if before[key] != now[key]]:
            rank_zero_warn(
                f"PruningSchedule goes on with other settings than the checkpoint's: {'; '.join(other)}. "
                "What is pruned already stays so."
            )
        self.load_masks(state["masks"])
        self.progress, self._next_step = state["progress"], state["next_step"]

    def _warn_frozen(self) -> None:
        states = (t.layer.__dict__.get("_ternary_state") for t in self._targets.values())
        if any(state is not None and state.phase == "frozen" for state in states):
            rank_zero_warn(
                "weights are pruned after the codes were frozen: those of a layer are of one size then, so that the "
                "choice is arbitrary. HINT: end the schedule before TernaryCallback's freeze."
            )
