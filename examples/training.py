"""What the examples on real data have in common: a training that is taken up again, and accuracies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from tern_lightning import ActivationQuantization
from tern_lightning.checkpoint import load_module, read_checkpoint
from tvm_schedules.common.files import write_file

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
M = TypeVar("M", bound=nn.Module)


class Lines(pl.Callback):
    """Progress as one line every so many epochs, which also a log file can hold.

    Args:
        every: How many.
    """

    def __init__(self, every: int = 5) -> None:
        self.every = every

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the loss and the validation accuracy."""
        epoch, of, values = trainer.current_epoch + 1, trainer.max_epochs, trainer.callback_metrics
        if epoch % self.every == 0 or epoch == of:
            print(
                f"   epoch {epoch:3d} of {of}: loss {values['loss']:.3f}, validation {values['val_acc']:.1%}",
                flush=True,
            )


def one_cycle(module: pl.LightningModule, rate: float) -> Any:
    """AdamW whose learning rate rises to ``rate`` and falls to zero over the run, for ``configure_optimizers``."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-3)
    steps = int(module.trainer.estimated_stepping_batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(
    name: str,
    net: pl.LightningModule,
    data: pl.LightningDataModule,
    epochs: int,
    output: Path,
    settings: dict[str, Any],
    callbacks: Sequence[pl.Callback] = (),
    every: int = 5,
) -> Path:
    """Train a network to ``output/<name>.ckpt``, or take up what an earlier call with the same settings left.

    Args:
        name: Of the run.
        net: Where it starts.
        data: What it is trained on.
        epochs: How long.
        output: Directory.
        settings: Everything the result depends on, plain values, with the ``seed``.
        callbacks: Of the Trainer.
        every: Epochs from one line, and from one checkpoint to go on from, to the next.

    Returns:
        The final checkpoint.
    """
    final, last, note = output / f"{name}.ckpt", output / name / "last.ckpt", output / name / "settings.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, sort_keys=True)
    if not note.is_file() or note.read_text() != text:
        for old in (final, last):
            old.unlink(missing_ok=True)
        write_file(note, text)
    if final.is_file():
        print(f"== {name}: {final} is there already")
        return final
    resumed = last if last.is_file() else None
    print(f"== {name}: {epochs} epochs" + (f", resumed from {last}" if resumed else ""), flush=True)
    pl.seed_everything(settings["seed"], verbose=False)
    keep = ModelCheckpoint(last.parent, save_last=True, save_top_k=0, every_n_epochs=every)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[keep, Lines(every), *callbacks],
    )
    trainer.fit(net, data, ckpt_path=resumed, weights_only=True)
    trainer.save_checkpoint(final)
    return final


def load_rounding(path: Path, net: M) -> M:
    """Fill a network from a checkpoint of a training with ``ActivationQuantization``, and round its layer inputs.

    Weights are ternary in the checkpoint itself; the ranges of activations are in the callback's part of it.

    Args:
        path: The checkpoint.
        net: A new network of its class.

    Returns:
        The same network in evaluation mode.
    """
    quantize = ActivationQuantization(bits=8)
    quantize.load_state_dict(read_checkpoint(path)["callbacks"][quantize.state_key])
    quantize.install(net)
    load_module(path, net)
    return net


def accuracy(logits: npt.NDArray[Any], labels: Labels) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits.argmax(1) == labels).mean())


@torch.no_grad()
def torch_logits(net: nn.Module, images: Images, batch: int = 500) -> npt.NDArray[Any]:
    """Logits of a module in evaluation mode."""
    parts = torch.from_numpy(images).split(batch)
    return np.concatenate([net.eval()(part).numpy() for part in parts])
