"""What is said, once and plainly, about runs that do not give what their callbacks were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from tern_lightning.callbacks._clock import Clock, position
from tern_lightning.checkpoint import rounding_callbacks
from tern_lightning.nn.activation_quantizer import layer_quantizers
from tern_lightning.nn.learned_input import learned_hooks
from tern_lightning.recipes.preset import PresetData
from tern_lightning.schedules import Schedule


def joined(name: str, trainer: pl.Trainer, what: str) -> None:
    """Say that a callback has joined a run in its middle, and what counts from there."""
    rank_zero_warn(
        f"{name} joins the run at epoch {trainer.current_epoch}, step {trainer.global_step}, as the checkpoint has no "
        f"state of it: {what}"
    )


def in_eval_mode(module: pl.LightningModule) -> None:
    """Warn where training starts with a module in evaluation mode, which newer versions of Lightning leave as it is."""
    if not module.training:
        rank_zero_warn(
            "the module is in evaluation mode when training starts: dropout is off and batch normalization keeps its "
            "statistics. HINT: net.train() before trainer.fit(net)"
        )


def unfinished(name: str, trainer: pl.Trainer, result: str) -> None:
    """Say that training has ended before a callback was done."""
    rank_zero_warn(
        f"training ended at epoch {trainer.current_epoch}, step {trainer.global_step}, before {name} was done: "
        f"{result}. HINT: let EarlyStopping wait longer, or the schedule end earlier; fractions of the run need "
        "max_steps where loaders have no length."
    )


def complete(clock: Clock, schedule: Schedule | None, trainer: pl.Trainer) -> bool:
    """Whether a schedule is over when training ends."""
    return schedule is None or schedule.complete(position(trainer, schedule.unit, 0, clock.origin))


def best(trainer: pl.Trainer) -> list[str]:
    """The best checkpoints so far, with their scores."""
    return [_scored(callback) for callback in _monitors(trainer)]


def _monitors(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    """Callbacks that have a best checkpoint."""
    return [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None and callback.best_model_path
    ]


def _scored(callback: ModelCheckpoint) -> str:
    return f"{callback.best_model_path} {callback.best_model_score}"


def best_is_float(trainer: pl.Trainer, before: list[str]) -> None:
    """Warn where a best checkpoint is still one of those ``before`` ternary training."""
    for callback in _monitors(trainer):
        if _scored(callback) in before:
            rank_zero_warn(
                f"the best checkpoint by {callback.monitor!r}, {callback.best_model_path!r}, is from the float phase: "
                "ckpt_path='best' is the float network, and no ternary one was as good. HINT: ckpt_path='last' (with "
                "save_last=True), or train the float network in a run of its own and the ternary one from start=0."
            )


def best_is_unpruned(trainer: pl.Trainer, before: list[str], amount: str) -> None:
    """Warn where a best checkpoint is still one of those ``before`` pruning was complete."""
    for callback in _monitors(trainer):
        if _scored(callback) in before:
            rank_zero_warn(
                f"the best checkpoint by {callback.monitor!r}, {callback.best_model_path!r}, is from before pruning "
                f"was complete: it has fewer zeros than {amount}, and no later one was better. HINT: take the last one "
                "(save_last=True), or let the schedule end earlier."
            )


def missing_companions(preset: PresetData, trainer: pl.Trainer) -> None:
    """Warn where callbacks that belong to a preset are not in a Trainer."""
    there = {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
    missing = [name for name, _ in preset.companions if name not in there]
    if missing:
        rank_zero_warn(
            f"preset {preset.name!r} is a TernaryCallback and {', '.join(missing)}, which this Trainer does not have. "
            f'HINT: callbacks=tern_lightning.preset("{preset.name}").callbacks()'
        )


def float_search(reason: str) -> None:
    """Warn where a learning rate finder searches while the network is float, and why it is."""
    rank_zero_warn(
        f"the learning rate finder searches for the float network, because {reason}; the best one for ternary training "
        "may be another. HINT: start=0"
    )


def latent_weights_lost(paths: list[str]) -> None:
    """Warn where layers go on from ternary weights that were loaded during training."""
    rank_zero_warn(
        f"ternary weights were loaded during training, and layers {paths} go on from them instead of their latent "
        "weights, which state_dict() does not hold. HINT: what is to be put back later must be copied from "
        "parameters(); fit(ckpt_path=...) restores everything."
    )


def rounds_nothing(name: str, ready: Iterable[bool]) -> None:
    """Warn where a callback evaluates a network for whose layer inputs it has no ranges or levels."""
    if not any(ready):
        rank_zero_warn(
            f"{name} rounds nothing: it has no state of training, so that layer inputs stay float. "
            "HINT: ckpt_path=... of the checkpoint, which has it."
        )


def without_rounding(trainer: pl.Trainer, module: pl.LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Warn where a checkpoint was trained with rounded layer inputs and nothing here rounds them."""
    there = {type(callback).__name__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
    missing = [name for name in rounding_callbacks(checkpoint) if name not in there]
    if missing and not layer_quantizers(module) and not learned_hooks(module):
        rank_zero_warn(
            f"the checkpoint was trained with {' and '.join(missing)}, and this Trainer computes without the rounding: "
            f"other numbers than in training. HINT: Trainer(callbacks=[{missing[0]}(...)])"
        )


def of_spawned_processes(trainer: pl.Trainer) -> None:
    """Warn where what a callback learns ends with the processes that it learns in.

    Lightning's ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook`` bring the weights back to the program that called
    ``fit``, and no callback's state.
    """
    from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher

    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        rank_zero_warn(
            f"the strategy trains in processes of its own ({launcher._start_method!r}) that bring back weights alone: "
            "ranges of activations and other state of callbacks end with them. Export from a checkpoint that "
            "ModelCheckpoint has written, as `tern-export CHECKPOINT` does, or train with strategy='ddp'"
        )
