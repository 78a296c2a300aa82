"""Blended coarse gradient descent."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning import TernaryCallback
from tern_lightning.callbacks.bcgd import BCGD
from tern_lightning.callbacks.coarse_activation import CoarseActivation
from tern_lightning.functional import twn
from tern_lightning.functional.bcgd import blend
from tern_lightning.nn.learned_input import CoarseInput
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything


def ternary(**options):
    return TernaryCallback(**{"verbose": False, "freeze": None, **options})


@pytest.mark.parametrize("rho", [0.0, 0.2])
def test_one_step_is_the_published_update(rho, fit, make_net):
    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.grad = pl_module.hidden.weight.grad.clone()

    net, look = make_net(optimizer="sgd"), Look()
    net.configure_optimizers = lambda: torch.optim.SGD(net.parameters(), 0.1)
    start = net.hidden.weight.detach().clone()
    fit(ternary(), BCGD(rho), look, net=net, max_steps=1)
    expected = (1 - rho) * start + rho * twn(start).dequantize() - 0.1 * look.grad
    torch.testing.assert_close(net.hidden.weight.detach(), expected)


def test_it_acts_in_the_ternary_phase_only_and_once_per_step(fit, make_net):
    runs = {}
    for rho in (0.0, 0.3):
        _, runs[rho] = fit(ternary(start=4), BCGD(rho), max_epochs=4, net=make_net())
    assert torch.equal(runs[0.0].hidden.weight, runs[0.3].hidden.weight)
    net = make_net()
    net.configure_optimizers = lambda: torch.optim.SGD(net.parameters(), 0.0)
    start = net.hidden.weight.detach().clone()
    fit(ternary(), BCGD(0.25), net=net, max_epochs=1, accumulate_grad_batches=2)
    for _ in range(2):
        start = blend(start, twn(start).dequantize(), 0.25)
    torch.testing.assert_close(net.hidden.weight.detach(), start)


def test_it_needs_ternary_layers(fit):
    with pytest.raises(MisconfigurationException, match="BCGD needs ternary layers"):
        fit(BCGD())


def test_published_safeguards():
    hook = CoarseInput(4, "mean")
    hook.start(torch.tensor([1.0, 1.0]))
    before = hook.value.item()
    hook.step(torch.tensor([1e6]), 0.1)
    assert hook.value.item() == pytest.approx(before - 0.1)
    hook.step(torch.tensor([1e6]), 10.0)
    assert hook.value.item() == pytest.approx(1e-3)
    hook.velocity.zero_()
    hook.step(torch.tensor([-1e6]), 1000.0)
    assert hook.value.item() == 5.0


def callbacks():
    return [ternary(freeze=0.8, bn_batches=2), BCGD(0.01), CoarseActivation(2, learning_rate=0.1)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resume(precision, fit, make_net, tmp_path):
    trainer, net = fit(*callbacks(), Save(tmp_path), precision=precision)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    steps = [torch.load(tmp_path / f"step{i}.ckpt", weights_only=True)["callbacks"] for i in (2, 20)]
    key = CoarseActivation().state_key
    assert steps[0][key]["hidden"]["value"] != steps[1][key]["hidden"]["value"]
    assert net.state_dict().keys() == Net().state_dict().keys()
    for name in ("step2", "val1", "step17"):
        again, other = fit(*callbacks(), net=make_net(), ckpt_path=tmp_path / f"{name}.ckpt", precision=precision)
        assert_same(everything(again, other, tmp_path / "again.ckpt"), expected, name)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(BCGD, {"rho": 1.0}), (CoarseActivation, {"bits": 9}), (CoarseActivation, {"derivative": "none"})],
)
def test_errors(kind, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        kind(**options)
