"""Runs that end by an exception leave the module as it was."""

import pytest
import torch
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.callbacks import SLR
from tests.tern_lightning.training_nets import Net


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


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
@pytest.mark.parametrize("method", ["hestia", "sherry", "ttq", "tga", "seq", "ec2t", "multilevel"])
def test_every_precision_of_the_weights(method, precision, fit):
    trainer, net = fit(TernaryCallback(method, verbose=False), precision=precision, max_epochs=3)
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    assert torch.isfinite(trainer.callback_metrics["val_loss"])
    assert net.hidden.weight.dtype == dtype
    if method != "multilevel":
        values = net.state_dict()["hidden.weight"]
        assert len(values[values > 0].unique()) <= (1 if method != "seq" else values.shape[0])
