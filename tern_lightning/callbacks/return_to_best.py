"""Go back to the best epoch before the codes are fixed."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from tern_lightning.callbacks import _snapshot as snapshot
from tern_lightning.callbacks._clock import Clock
from tern_lightning.callbacks._phases import next_phase
from tern_lightning.callbacks._select import check_company
from tern_lightning.callbacks._stateful import StatefulCallback
from tern_lightning.callbacks.ternary import TernaryCallback
from tern_lightning.nn.ternary_layers import ternary_layers
from tvm_schedules.common.arguments import check_arguments

Mode = Literal["max", "min"]


@check_arguments
class ReturnToBest(StatefulCallback):
    """Go back to the best epoch of ternary training right before TernaryCallback fixes the codes.

    Codes that move make accuracy jump from epoch to epoch, and the last epoch before they are fixed is seldom the best
    one. At that moment weights, buffers and what methods train besides them become those of the epoch that validated
    best, and optimizers forget their averages. This is the second step of "Learning Sparse & Ternary Neural Networks
    with Entropy-Constrained Trained Ternarization (EC2T)", 2020, as the authors' code does it; learning rates go on as
    they are.

    A copy of the network is kept until then, in checkpoints too, so that a resumed run goes back to the same epoch.

    Args:
        monitor: Name of a logged validation value. None takes what a ModelCheckpoint of the run monitors, else a value
            with ``acc`` in its name, else one with ``loss``, and says which.
        mode: Whether higher (``max``) or lower (``min``) values are better. None takes that of the ModelCheckpoint,
            else ``min`` for values with ``loss`` or ``error`` in their names and ``max`` for others.
        first: Index of the first epoch that counts, >= 0. Codes of the first epoch, 0, are near those of plain
            rounding.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: There is no TernaryCallback that fixes codes, the run has no validation, or the value
            is not logged in it.

    Example::

        trainer = Trainer(max_epochs=40, callbacks=[ReturnToBest("val_accuracy"), TernaryCallback("ec2t", freeze=20)])
    """

    def __init__(self, monitor: str | None = None, mode: Mode | None = None, first: int = 1) -> None:
        if first < 0:
            raise ValueError(f"first must be >= 0, got {first}")
        self.monitor: str | None = monitor
        self.mode: Mode | None = mode
        self.first: int = first
        self.best: float | None = None
        self.epoch: int | None = None
        self.clock: Clock = Clock()
        self._monitored: tuple[str, Mode] | None = None
        self._tensors: snapshot.Tensors | None = None
        self._restored: bool = False

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        everything = trainer.callbacks  # type: ignore[attr-defined]
        ternary = _ternary(trainer)
        if stage == "fit" and ternary is not None and everything.index(self) > everything.index(ternary):
            # Codes are fixed after the return, from the weights that it has brought back.
            others = [one for one in everything if one is not self]
            where = others.index(ternary)
            # A new list: Lightning is going through the old one.
            trainer.callbacks = [*others[:where], self, *others[where:]]  # type: ignore[attr-defined]

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_company(trainer, pl_module, "ReturnToBest")
        ternary = _ternary(trainer)
        if ternary is None or ternary.freeze is None:
            there = "no TernaryCallback" if ternary is None else "TernaryCallback(freeze=None)"
            raise MisconfigurationException(
                f"ReturnToBest goes back when a TernaryCallback fixes the codes, and this run has {there}"
            )
        if not trainer.enable_validation:
            raise MisconfigurationException(
                "ReturnToBest needs validation, and this run has none: give fit a validation loader, the module a "
                "validation_step, and limit_val_batches > 0; or leave ReturnToBest out"
            )
        self.clock.enter(trainer, self._restored, self.best is not None)
        self._restored, self._monitored = False, None
        if self.clock.fresh:
            self.best = self.epoch = self._tensors = None

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.join(trainer)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        ternary = _ternary(trainer)
        waiting = ternary is not None and ternary.phase == "ternary" and trainer.current_epoch >= self.first
        if trainer.state.fn != "fit" or trainer.sanity_checking or not waiting:
            return
        name, mode = self._monitored = self._monitored or self._choose(trainer)
        value = self._value(trainer, name)
        sign = 1 if mode == "max" else -1
        if self.best is None or math.isnan(self.best) or sign * (value - self.best) > 0:
            self.best, self.epoch = value, trainer.current_epoch
            self._tensors = snapshot.take(self._live(trainer, pl_module))

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        ternary = _ternary(trainer)
        if ternary is None or ternary.phase != "ternary" or batch_idx % trainer.accumulate_grad_batches:
            return
        now = ternary.clock.progress(trainer, batch_idx)
        if next_phase(ternary.phase, ternary.start, ternary.freeze, now) == "frozen":
            self._go_back(trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "tensors": self._tensors}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epoch, self._tensors = state_dict["best"], state_dict["epoch"], state_dict["tensors"]
        self._restored = True

    def _go_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._tensors is None:
            rank_zero_warn(
                f"ReturnToBest has no epoch to go back to: none from epoch {self.first} on was validated before the "
                "codes are fixed. HINT: a later TernaryCallback(freeze=...), or a smaller first."
            )
            return
        snapshot.put_back(self._tensors, self._live(trainer, pl_module))
        self._tensors = None
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
        rank_zero_info(f"back to epoch {self.epoch}, whose validation was best ({self.best:.6g}), to fix the codes")

    def _live(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> snapshot.Tensors:
        return snapshot.tensors(trainer, pl_module, ternary_layers(pl_module))

    def _choose(self, trainer: pl.Trainer) -> tuple[str, Mode]:
        """What is monitored, and which way is better."""
        followed = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
        logged = list(trainer.callback_metrics)
        own = self.monitor
        for candidate in (
            [str(one.monitor) for one in followed if one.monitor in logged],
            [name for name in logged if "val" in name.lower() and "acc" in name.lower()],
            [name for name in logged if "acc" in name.lower()],
            [name for name in logged if "val" in name.lower() and "loss" in name.lower()],
        ):
            own = own or next(iter(candidate), None)
        if own is None or own not in logged:
            raise MisconfigurationException(
                f"ReturnToBest monitors {own!r}, but these were logged by the end of validation: {sorted(logged)}. "
                "HINT: log it in validation_step, for example self.log('val_accuracy', ...), and name it as monitor."
            )
        mode: Mode | None = self.mode or next((_mode(one.mode) for one in followed if one.monitor == own), None)
        mode = mode or ("min" if any(word in own.lower() for word in ("loss", "error")) else "max")
        if self.monitor is None or self.mode is None:
            rank_zero_info(f"ReturnToBest monitors {own!r}, {mode} is best")
        return own, mode

    def _value(self, trainer: pl.Trainer, name: str) -> float:
        # Processes that disagree by rounding must not decide differently.
        value = torch.as_tensor(
            trainer.callback_metrics[name], dtype=torch.float64, device=trainer.strategy.root_device
        )
        return float(trainer.strategy.broadcast(value))


def _mode(name: str) -> Mode:
    return "min" if name == "min" else "max"


def _ternary(trainer: pl.Trainer) -> TernaryCallback | None:
    found = (one for one in trainer.callbacks if isinstance(one, TernaryCallback))  # type: ignore[attr-defined]
    return next(found, None)
