"""``rules="auto"`` leaves float what costs too much, the same in a resumed run."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tern_lightning import Rule, TernaryCallback
from tests.tern_lightning.training_nets import Save, samples
from tests.tern_lightning.training_runs import assert_same, everything


class Deep(pl.LightningModule):
    """A small layer that ternary weights ruin, among wide ones that hardly matter."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 4)
        self.narrow = nn.Linear(4, 4)
        self.wide = nn.ModuleList(nn.Linear(24, 24) for _ in range(4))
        self.spread = nn.Linear(4, 24)
        self.last = nn.Linear(24, 3)
        with torch.no_grad():
            self.narrow.weight.copy_(torch.tensor([[9.0, 0.3, 0.3, 0.3]] * 4) * torch.tensor([[1, -1, 1, -1]]))
            for layer in self.wide:
                layer.weight.mul_(0.01)

    def forward(self, x):
        x = self.spread(self.narrow(self.first(x.flatten(1))))
        for layer in self.wide:
            x = x + layer(x)
        return self.last(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


def loader(shuffle=True, batch=8):
    return DataLoader(TensorDataset(*samples(32)), batch, shuffle=shuffle, generator=torch.Generator().manual_seed(5))


def run(make_trainer, callback, *others, net=None, ckpt_path=None, validate=True, **options):
    torch.manual_seed(2)
    net = Deep() if net is None else net
    trainer = make_trainer(callback, *others, **{"max_epochs": 2, **options})
    trainer.fit(net, loader(), loader(False, 16) if validate else None, ckpt_path=ckpt_path)
    return trainer, net


def floats(callback):
    return {one.path: one.reason for one in callback.decisions if one.method is None}


@pytest.mark.parametrize("validate", [True, False])
def test_what_costs_too_much_stays_float_and_is_printed(validate, make_trainer, capsys):
    callback = TernaryCallback(rules="auto")
    run(make_trainer, callback, validate=validate)
    assert callback.sensitivity is not None
    costly = callback.sensitivity.costly()
    assert list(costly) == ["narrow"]
    assert floats(callback) == {"first": "first layer", "last": "last layer", **costly}
    printed = capsys.readouterr().out
    assert "What each layer alone costs" in printed
    assert "costs too much: loss +" in printed


def test_nobody_notices_the_look(make_trainer, tmp_path):
    auto, fixed = TernaryCallback(rules="auto", verbose=False), TernaryCallback(verbose=False)
    _, one = run(make_trainer, auto)
    fixed.rules = tuple(Rule(path) for path in floats(auto) if path not in ("first", "last"))
    _, other = run(make_trainer, fixed)
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", ["step3", "val0", "epoch0"])
def test_a_resumed_run_is_the_uninterrupted_one(name, make_trainer, tmp_path):
    callback = TernaryCallback("absmean", "auto", freeze=0.5, verbose=False)
    trainer, net = run(make_trainer, callback, Save(tmp_path), validate=True)
    # Another network, in which other layers would cost too much, and another look, which must not be.
    other = Deep()
    with torch.no_grad():
        other.narrow.weight.fill_(1.0)
    again = TernaryCallback("absmean", "auto", freeze=0.5, verbose=False)
    resumed, _ = run(make_trainer, again, net=other, ckpt_path=tmp_path / f"{name}.ckpt")
    assert again.sensitivity is None
    assert floats(again) == floats(callback)
    if name == "epoch0":
        saved = [everything(t, n, tmp_path / "x.ckpt")["callbacks"] for t, n in ((trainer, net), (resumed, other))]
        states = [next(v for k, v in one.items() if k.startswith("TernaryCallback")) for one in saved]
        assert_same({"costly": states[0]["costly"]}, {"costly": states[1]["costly"]})


def test_a_new_run_looks_anew(make_trainer):
    callback = TernaryCallback(rules="auto", verbose=False)
    run(make_trainer, callback)
    first = callback.sensitivity
    run(make_trainer, callback)
    assert callback.sensitivity is not first


def test_other_words_are_refused():
    with pytest.raises(TypeError, match="rules must be a list"):
        TernaryCallback(rules="automatic")
