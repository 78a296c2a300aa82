"""The return to the best epoch before codes are fixed."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning import EntropyConstraint, ReturnToBest, TernaryCallback
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything

SCORES = (0.9, 0.3, 0.7, 0.5, 0.95, 0.1)
"""Of the epochs; codes are fixed at epoch 4, so that epoch 2 is the best but the first."""


class Scored(Net):
    """Its score in an epoch is given."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", SCORES[self.current_epoch])


class Look(pl.Callback):
    """Keeps parameters, buffers and codes after every validation, and at the first batch of every epoch."""

    def __init__(self):
        self.ends, self.begins, self.empty = {}, {}, {}

    def look(self, net):
        methods = {path: layer._ternary_state.quantizer.state() for path, layer in ternary_layers(net).items()}
        codes = {path: layer._ternary_state.ternary(layer.weight.detach()).codes for path, layer in layers(net)}
        rest = {name: p.detach().clone() for name, p in net.named_parameters() if name.startswith(("stem", "head"))}
        return {"methods": methods, "codes": codes, "rest": rest}

    def on_validation_end(self, trainer, net):
        self.ends[trainer.current_epoch] = self.look(net)

    def on_train_batch_start(self, trainer, net, batch, batch_idx):
        if batch_idx == 0:
            self.begins[trainer.current_epoch] = self.look(net)
            self.empty[trainer.current_epoch] = not any(len(one.state) for one in trainer.optimizers)


def layers(net):
    return ternary_layers(net).items()


def callbacks(monitor="val_acc", **options):
    return [
        EntropyConstraint(0.2),
        TernaryCallback("ec2t", freeze=4, bn_batches=2, verbose=False),
        ReturnToBest(monitor, **options),
    ]


def test_codes_are_those_of_the_best_epoch_but_the_first(fit, make_net):
    look, own = Look(), callbacks()
    trainer, _ = fit(*own, look, net=make_net(Scored), max_epochs=6)
    assert (own[-1].epoch, own[-1].best) == (2, pytest.approx(0.7))
    assert_same(look.begins[4], look.ends[2])
    assert any(
        not torch.equal(look.ends[2]["codes"][path], look.ends[3]["codes"][path]) for path in ("body.0", "hidden")
    )
    assert look.empty[4]
    assert not look.empty[3]
    # It has moved in front of the callback that fixes the codes, and keeps the copy no longer than it is needed.
    kinds = [type(one) for one in trainer.callbacks]
    assert kinds.index(ReturnToBest) < kinds.index(TernaryCallback)
    assert own[-1].state_dict()["tensors"] is None


@pytest.mark.parametrize(("options", "epoch"), [({"first": 0}, 0), ({"mode": "min"}, 1), ({"monitor": None}, 2)])
def test_what_is_best(options, epoch, fit, make_net):
    own = callbacks(**options)
    fit(*own, net=make_net(Scored), max_epochs=6)
    assert own[-1].epoch == epoch


def test_it_follows_the_checkpoints(fit, make_net, tmp_path):
    own = callbacks(None)
    fit(*own, ModelCheckpoint(tmp_path, monitor="val_loss"), net=make_net(Scored), max_epochs=6)
    assert own[-1]._monitored == ("val_loss", "min")


@pytest.mark.parametrize("average", [False, True])
def test_resume(average, fit, make_net, tmp_path):
    def own():
        return [*([EMAWeightAveraging(decay=0.5)] if average else []), *callbacks()]

    trainer, net = fit(*own(), Save(tmp_path), net=make_net(Scored), max_epochs=6)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step3", "val1", "val2", "step13", "epoch3", "step18", "epoch4"):
        again, net = fit(*own(), net=make_net(Scored), max_epochs=6, ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected, name)


def test_a_second_run_forgets_the_first(fit, make_net):
    own = callbacks()
    fit(*own, net=make_net(Scored), max_epochs=6)
    look = Look()
    fit(*own, look, net=make_net(Scored), max_epochs=6)
    assert_same(look.begins[4], look.ends[2])


def test_errors(fit, make_net, make_trainer):
    for options, match in (({"mode": "up"}, "mode"), ({"first": -1}, "first must be >= 0, got -1")):
        with pytest.raises(ValueError, match=match):
            ReturnToBest(**options)
    with pytest.raises(MisconfigurationException, match="this run has no TernaryCallback"):
        fit(ReturnToBest())
    with pytest.raises(MisconfigurationException, match=r"this run has TernaryCallback\(freeze=None\)"):
        fit(ReturnToBest(), TernaryCallback(freeze=None, verbose=False))
    with pytest.raises(MisconfigurationException, match=r"monitors 'score', but these were logged .*'val_loss'"):
        fit(*callbacks("score"))
    with pytest.raises(MisconfigurationException, match="needs validation"):
        fit(*callbacks(), limit_val_batches=0)
    with pytest.warns(UserWarning, match="no epoch to go back to"):
        fit(*callbacks(first=5), net=make_net(Scored), max_epochs=6)
