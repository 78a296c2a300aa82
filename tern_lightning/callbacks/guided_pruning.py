"""Prune as far as a monitored value allows."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from tern_lightning.callbacks import _snapshot as snapshot
from tern_lightning.callbacks._choice import Choice
from tern_lightning.callbacks._masking import MaskCallback, zero_digit_share, zero_share
from tern_lightning.nn.ternary_layers import TernaryLayer, freeze
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import check_share

Action = Literal["raise", "restore", "none"]


@dataclass
class Loop:
    """Where the pruning loop is.

    Attributes:
        baseline: The monitored value before pruning; None until it is known.
        amount: Share of the weights that is pruned in the trial that is going on.
        good: Amount of the last good state.
        step: Share that a trial prunes in addition.
        epochs: Epochs that the trial has lasted.
        action: What happens before the next batch.
        finished: Whether the loop is over.
        trials: Every trial so far: amount, monitored value, and whether it was kept.
    """

    baseline: float | None = None
    amount: float = 0.0
    good: float = 0.0
    step: float = 0.05
    epochs: int = 0
    action: Action = "none"
    finished: bool = False
    trials: tuple[tuple[float, float, bool], ...] = ()


def judge(loop: Loop, value: float, tolerance: float, higher: bool, min_step: float, max_amount: float) -> Loop:
    """The loop after a trial: keep it and go on by ``step``, or go back and halve the step.

    Args:
        loop: The loop at the end of a trial, or with ``baseline`` None at the end of training before pruning.
        value: The monitored value.
        tolerance: By how much the value may be worse than the baseline, in its own units.
        higher: Whether higher values are better.
        min_step: The loop is over when the step becomes smaller.
        max_amount: The loop is over when this share is pruned.
    """
    if loop.baseline is None:
        return Loop(value, loop.amount, loop.amount, loop.step, 0, "raise", False, ())
    worse = loop.baseline - value if higher else value - loop.baseline
    kept = bool(worse <= tolerance)  # False for NaN
    trials = (*loop.trials, (loop.amount, value, kept))
    step = loop.step if kept else loop.step / 2
    finished = loop.amount >= max_amount - 1e-9 if kept else step < min_step
    if kept:
        action: Action = "none" if finished else "raise"
        return Loop(loop.baseline, loop.amount, loop.amount, step, 0, action, finished, trials)
    return Loop(loop.baseline, loop.amount, loop.good, step, 0, "restore", finished, trials)


@check_arguments
class AccuracyGuidedPruning(MaskCallback):
    """Prune step by step while a validation value stays good, inside one fit.

    After ``start`` the monitored value becomes the baseline. Then the share of pruned weights is raised by ``step`` and
    the network trained on for ``epochs`` epochs. If the value is then within ``tolerance`` of the baseline, the trial
    is the new good state; otherwise the last good state comes back (weights, buffers, optimizer memory, masks) and the
    step is halved. It ends when the step becomes smaller than ``min_step`` or ``max_amount`` is reached, and stops the
    run. At the end of the run the network is the last good state, also where the run ends in the middle of a trial;
    checkpoints that were written during a trial hold that trial, ``pruning/good`` is logged as 0 for them.

    Works with float and ternary layers; the first amount is the share of zeros that the network has by itself. Let
    TernaryCallback freeze the codes never, or before ``start`` of another run: weights of frozen layers are all of one
    size, so that pruning cannot choose among them.

    Args:
        monitor: Name of a logged validation value.
        tolerance: By how much it may be worse than the baseline, in its own units, >= 0.
        mode: Whether higher (``max``) or lower (``min``) values are better.
        start: Epochs before the baseline is taken, >= 1.
        step: Share of the weights that a trial prunes in addition, in (0, 1).
        epochs: Epochs of a trial, >= 1.
        min_step: Smallest step, in (0, step].
        max_amount: Largest share, in (0, 1].
        scope: ``layer`` prunes the same share of every layer, ``global`` compares the weights of all layers.
        pattern: ``element``; ``block``; or ``digit``, for weights of several terms, to prune digits of the last term
            before those of the first (amounts are then shares of the digits).
        group: Output and input channels of a block.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: The run has no validation, ``monitor`` is not logged in it, or codes are frozen.

    Example::

        loop = AccuracyGuidedPruning(monitor="val_accuracy", tolerance=0.005, start=10, epochs=5)
        trainer = Trainer(max_epochs=200, callbacks=[TernaryCallback(freeze=None), loop])
    """

    def __init__(
        self,
        monitor: str,
        tolerance: float = 0.005,
        mode: Literal["max", "min"] = "max",
        start: int = 1,
        step: float = 0.05,
        epochs: int = 5,
        min_step: float = 0.01,
        max_amount: float = 0.99,
        scope: Literal["layer", "global"] = "layer",
        pattern: Literal["element", "block", "digit"] = "element",
        group: tuple[int, int] = (1, 1),
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(include, exclude)
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"tolerance must be finite and >= 0, got {tolerance}")
        self.choice: Choice = Choice(scope, pattern, group)
        if self.choice.n_of_m is not None:
            raise ValueError(f"pattern must be 'element', 'block' or 'digit', got {pattern!r}")
        if start < 1 or epochs < 1:
            raise ValueError(f"start and epochs must be at least 1, got {start} and {epochs}")
        if not 0 < min_step <= step < 1:
            raise ValueError(f"it must be 0 < min_step <= step < 1, got min_step={min_step}, step={step}")
        check_share("max_amount", max_amount, "(0, 1]")
        self.monitor: str = monitor
        self.tolerance: float = tolerance
        self.mode = mode
        self.start: int = start
        self.step: float = step
        self.epochs: int = epochs
        self.min_step: float = min_step
        self.max_amount: float = max_amount
        self.loop: Loop = Loop(step=step)
        self._good: dict[str, Any] | None = None

    @override
    def reset(self) -> None:
        self.loop, self._good = Loop(step=self.step), None

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.enable_validation:
            raise MisconfigurationException(
                f"AccuracyGuidedPruning needs validation, in which {self.monitor!r} is logged, and this run has none: "
                "give fit a validation loader, the module a validation_step, and limit_val_batches > 0"
            )
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._act(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.loop.finished or self.loop.action != "none":
            return
        loop = self.loop
        loop.epochs += 1
        if loop.epochs < (self.start if loop.baseline is None else self.epochs):
            return
        if loop.baseline is None:
            share = zero_digit_share if self.choice.pattern == "digit" else zero_share
            loop.amount = share(list(self._targets.values()))
        value = self._value(trainer)
        before = len(loop.trials)
        self.loop = judge(loop, value, self.tolerance, self.mode == "max", self.min_step, self.max_amount)
        if len(self.loop.trials) > before:
            amount, _, kept = self.loop.trials[-1]
            verdict = "kept" if kept else "rejected"
            rank_zero_info(f"pruning {amount:.1%}: {self.monitor} {value:.6g}, baseline {loop.baseline}: {verdict}")
        if self.loop.action != "restore":
            self._good = self._snapshot(trainer, pl_module)
        if self.loop.finished:
            trainer.should_stop = True

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        in_trial = self.loop.action == "restore" or self.loop.amount != self.loop.good
        if in_trial and self._good is not None:
            self._bring_back(trainer, pl_module)
            self.loop.amount, self.loop.action, self.loop.epochs = self.loop.good, "none", 0

    @override
    def log_values(self) -> dict[str, float]:
        good = float(self.loop.amount == self.loop.good and self.loop.action != "restore")
        return {**super().log_values(), "pruning/good": good}

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._targets:
            return {}
        return {"masks": self.masks_state(), "loop": asdict(self.loop), "good": self._good}

    @override
    def restore(self, state: dict[str, Any]) -> None:
        self.load_masks(state["masks"])
        self.loop, self._good = Loop(**state["loop"]), state["good"]

    def _act(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go back to the last good state and prune for the next trial, before the batch after a verdict."""
        if self.loop.action == "none":
            return
        if self.loop.action == "restore":
            self._bring_back(trainer, pl_module)
        self.loop.amount, self.loop.action = self.loop.good, "none"
        if not self.loop.finished:
            self._check_not_frozen()
            self.loop.amount = min(self.loop.good + self.loop.step, self.max_amount)
            # The order is that of the latent weights: those that are zero in forward are the smallest ones.
            masks = self.choice.keep(list(self._targets.values()), self.loop.amount)
            self.set_masks(masks, trainer.optimizers)

    def _value(self, trainer: pl.Trainer) -> float:
        found = trainer.callback_metrics
        if self.monitor not in found:
            raise MisconfigurationException(
                f"AccuracyGuidedPruning monitors {self.monitor!r}, but these were logged by the end of validation: "
                f"{sorted(found)}. HINT: log it in validation_step, for example self.log({self.monitor!r}, ...)."
            )
        # Processes that disagree by rounding must not decide differently.
        value = torch.as_tensor(found[self.monitor], dtype=torch.float64, device=trainer.strategy.root_device)
        return float(trainer.strategy.broadcast(value))

    def _check_not_frozen(self) -> None:
        for path, target in self._targets.items():
            if isinstance(target.layer, TernaryLayer) and target.layer._ternary_state.phase == "frozen":
                raise MisconfigurationException(
                    f"AccuracyGuidedPruning cannot choose among the weights of {path!r}, whose codes are frozen. "
                    "HINT: TernaryCallback(freeze=None)."
                )

    def _tensors(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> snapshot.Tensors:
        return snapshot.tensors(trainer, pl_module, {path: target.layer for path, target in self._targets.items()})

    def _snapshot(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Copies of everything that a trial changes."""
        return {
            "tensors": snapshot.take(self._tensors(trainer, pl_module)),
            "masks": {path: part.clone() for path, part in self.masks_state().items()},
            "optimizers": [copy.deepcopy(optimizer.state_dict()["state"]) for optimizer in trainer.optimizers],
        }

    def _bring_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return to the last good state; learning rates go on as they are."""
        assert self._good is not None
        self.load_masks(self._good["masks"])
        snapshot.put_back(self._good["tensors"], self._tensors(trainer, pl_module))
        for optimizer, memory in zip(trainer.optimizers, self._good["optimizers"], strict=True):
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": copy.deepcopy(memory), "param_groups": groups})
        for target in self._targets.values():
            layer = target.layer
            if isinstance(layer, TernaryLayer) and layer._ternary_state.phase == "frozen":
                freeze(layer, [other for other in target.others if isinstance(other, TernaryLayer)])
