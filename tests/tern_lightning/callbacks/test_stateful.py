"""Two callbacks of one class in a Trainer: which are fine, and what is said of the others."""

from __future__ import annotations

import inspect

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

import tern_lightning.callbacks as public
from tern_lightning import (
    ActivationQuantization,
    CompressionReport,
    Distillation,
    EntropyConstraint,
    PruningSchedule,
    SparsityBudget,
    TernaryCallback,
    prepare,
)
from tern_lightning.callbacks._stateful import StatefulCallback


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (
            (TernaryCallback(), TernaryCallback("ttq")),
            r"TernaryCallback .*HINT: .* rules=\[Rule\('head",
        ),
        (
            (PruningSchedule(0.5), PruningSchedule(0.8)),
            "PruningSchedule .* HINT: .* by include or exclude",
        ),
        ((ActivationQuantization(), ActivationQuantization(4)), "ActivationQuantization .* include or exclude"),
        ((SparsityBudget(0.5), SparsityBudget(0.6)), "SparsityBudget .* include or exclude"),
        ((EntropyConstraint(0.1), EntropyConstraint(0.2)), r"EntropyConstraint .* strength={'head\*': 0.05"),
        ((CompressionReport(), CompressionReport()), "CompressionReport .* a run takes one of them"),
    ],
)
def test_two_for_the_same_layers_are_refused_in_words_that_help(pair, words, fit):
    with pytest.raises(MisconfigurationException, match=rf"^more than one {words}"):
        fit(*pair, max_epochs=1)


def test_the_same_is_said_without_a_trainer():
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    with pytest.raises(MisconfigurationException, match="more than one TernaryCallback"):
        prepare(net, torch.optim.SGD(net.parameters(), 0.1), [TernaryCallback(), TernaryCallback()], steps=3)


def test_lightning_asks_no_callback_of_this_package():
    classes = [one for name in public.__all__ if inspect.isclass(one := getattr(public, name))]
    callbacks = [one for one in classes if issubclass(one, pl.Callback)]
    assert len(callbacks) > 15
    for one in callbacks:
        assert issubclass(one, StatefulCallback), one
        assert not is_overridden("state_dict", instance=object.__new__(one), parent=pl.Callback), one


def test_states_are_kept_all_the_same(tmp_path, fit):
    trainer, _ = fit(TernaryCallback(verbose=False), Distillation(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]
    assert "latents" in saved[TernaryCallback().state_key]
    assert all(type(key) is str for key in saved)
