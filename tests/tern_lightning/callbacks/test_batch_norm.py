"""Running statistics after the freeze: the mean over the batches, and a momentum that comes back."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.callbacks import SLR
from tests.tern_lightning.training_nets import Net


def test_batch_norm_is_estimated_anew_as_the_mean_over_the_batches_after_the_freeze(fit):
    class Means(pl.Callback):
        def __init__(self):
            self.means, self.momenta = [], []

        def note(self, module, inputs):
            if module.training:
                self.means.append(inputs[0].mean((0, 2, 3)))

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.momenta.append(pl_module.body[1].momentum)
            if len(self.momenta) == 1:
                pl_module.body[1].register_forward_pre_hook(self.note)

        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 15:
                self.found = pl_module.body[1].running_mean.clone()

    means = Means()
    _, net = fit(TernaryCallback(freeze=3, bn_batches=3, verbose=False), means)
    torch.testing.assert_close(means.found, torch.stack(means.means[12:15]).mean(0))
    assert means.momenta == [0.1] * 12 + [None] * 3 + [0.1] * 5
    assert net.body[1].momentum == 0.1


@pytest.mark.parametrize("case", ["off", "evaluation", "run ends first"])
def test_batch_norm_is_left_alone_or_gets_its_momentum_back(case, fit, make_net):
    class Kept(Net):
        def on_train_start(self):
            if case == "evaluation":
                self.body[1].eval()

    net = make_net(Kept)
    fit(TernaryCallback(freeze=4, bn_batches=0 if case == "off" else 100, verbose=False), net=net)
    assert net.body[1].momentum == net.body[4].momentum == 0.1
    expected = {"off": 20, "evaluation": 0, "run ends first": 4}[case]
    assert net.body[1].num_batches_tracked == expected


class Stopped(Net):
    """Raises in a given step."""

    error, step = None, 14

    def training_step(self, batch, batch_idx):
        if self.error is not None and self.trainer.global_step == self.step:
            raise self.error
        return super().training_step(batch, batch_idx)


def callbacks():
    return TernaryCallback(freeze=0.6, bn_batches=6, verbose=False)


def momenta(net):
    return [module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("own", [callbacks, lambda: SLR("sparsity", amount=0.5, end=0.6)], ids=["ternary", "slr"])
def test_batch_normalization_has_its_momentum_back(error, own, fit, make_net):
    net = make_net(Stopped)
    net.error = error
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        fit(own(), net=net)
    assert momenta(net) == [0.1, 0.1]
    net.error = None
    fit(net=net, max_epochs=1)
    assert momenta(net) == [0.1, 0.1]


def test_a_checkpoint_of_the_exception_goes_on_with_the_statistics(fit, make_net, tmp_path):
    net = make_net(Stopped)
    net.error = RuntimeError("no")
    with pytest.raises(RuntimeError):
        fit(callbacks(), OnExceptionCheckpoint(tmp_path, "last"), net=net)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][callbacks().state_key]
    assert saved["statistics"]["left"] == 4
    found = []

    class Watch(Net):
        def training_step(self, batch, batch_idx):
            found.append(momenta(self)[0])
            return super().training_step(batch, batch_idx)

    _, again = fit(callbacks(), net=make_net(Watch), ckpt_path=tmp_path / "last.ckpt")
    assert found[:4] == [None] * 4
    assert found[4:] == [0.1] * (len(found) - 4)
    assert momenta(again) == [0.1, 0.1]
