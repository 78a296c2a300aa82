import sys
import textwrap

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from tests.tern_lightning.training_nets import Loader, Net, Record

torch.set_num_threads(1)


@pytest.fixture
def make_trainer(tmp_path):
    """Quiet CPU trainers of five epochs."""

    def make(*callbacks, **options):
        options = {
            "max_epochs": 5,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
            **options,
        }
        return pl.Trainer(callbacks=list(callbacks), **options)

    return make


@pytest.fixture
def make_net():
    """Networks with the same initial weights."""

    def make(cls=Net, **options):
        torch.manual_seed(3)
        return cls(**options)

    return make


@pytest.fixture
def fit(make_trainer, make_net):
    """Train a network: ``trainer, net = fit(callbacks...)``."""

    def run(*callbacks, net=None, ckpt_path=None, loader=Loader, **options):
        net = make_net() if net is None else net
        trainer = make_trainer(*callbacks, **options)
        trainer.fit(net, loader(), loader(batch=16), ckpt_path=ckpt_path)
        return trainer, net

    return run


@pytest.fixture
def record():
    return Record()


@pytest.fixture
def command_line(tmp_path, monkeypatch):
    """``LightningCLI`` of a network, from the callbacks' part of a configuration file."""

    def run(callbacks, max_epochs=1):
        config = tmp_path / "config.yaml"
        config.write_text(
            f"""\
trainer:
  max_epochs: {max_epochs}
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  default_root_dir: {tmp_path}
  callbacks:
{textwrap.indent(textwrap.dedent(callbacks).strip(), "    ")}
model:
  width: 4
"""
        )
        monkeypatch.setattr(sys, "argv", ["train", "--config", str(config)])
        return LightningCLI(Net, run=False, save_config_callback=None)

    return run
