"""Pruning digits of weights of several terms, the last term first."""

import pytest
import torch
from torch import nn

from tern_lightning import SLR, AccuracyGuidedPruning, PruningSchedule, TernaryCallback, export
from tern_lightning.nn.ternary_layers import effective_weight, ternary_layers
from tern_lightning.nn.weight_mask import weight_mask
from tern_lightning.schedules import Schedule
from tests.tern_lightning.training_nets import Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


def callbacks(amount, scope="global", method="multilevel", **options):
    ramp = Schedule("linear", 0.0, 0.5)
    own = {"terms": 2, **options}
    return [
        TernaryCallback(method, options=own, start=1, freeze=0.8, bn_batches=2, verbose=False),
        PruningSchedule(amount, scope, ramp, pattern="digit", every=2),
    ]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("amount", [0.3, 0.5, 0.8])
def test_schedule_prunes_the_last_term_first(amount, scope, fit):
    trainer, net = fit(*callbacks(amount, scope), max_epochs=6)
    parts = {path: weight_mask(net.get_submodule(path)).limit for path in LAYERS}
    total = sum(part.numel() for part in parts.values())
    left = sum(int(part.sum()) for part in parts.values())
    assert left == pytest.approx((1 - amount) * 2 * total, abs=3)
    first = sum(int((part > 0).sum()) for part in parts.values())
    assert first == (total if amount <= 0.5 else pytest.approx(2 * (1 - amount) * total, abs=3))
    for path, layer in ternary_layers(net).items():
        found = layer.ternary()
        assert not found.codes[1][parts[path] < 2].any()
        if scope == "layer":
            assert int(parts[path].sum()) == pytest.approx((1 - amount) * 2 * parts[path].numel(), abs=1)
    assert trainer.callback_metrics["pruning/digits"] >= amount - 0.01
    plain = Net()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(samples()[0]), net.eval()(samples()[0]))


@pytest.mark.parametrize("method", ["multilevel", "sws", "twn"])
def test_resumed_runs_are_equal(method, fit, make_net, tmp_path):
    trainer, net = fit(*callbacks(0.7, method=method), Save(tmp_path), max_epochs=6)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step2", "step7", "val3", "step22"):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        again, net = fit(*callbacks(0.7, method=method), net=other, ckpt_path=tmp_path / f"{name}.ckpt", max_epochs=6)
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected, name)


def test_guided_pruning_of_digits(fit):
    """A tolerance that nothing violates ends at the largest amount; one that everything violates at the natural one."""
    for tolerance, mode in ((1e9, "min"), (0.0, "max")):
        ternary = TernaryCallback("multilevel", freeze=None, verbose=False)
        own = AccuracyGuidedPruning(
            "val_loss", tolerance, mode, step=0.2, min_step=0.15, epochs=1, max_amount=0.9, pattern="digit"
        )
        _, net = fit(ternary, own, max_epochs=12)
        codes = torch.cat([layer.ternary().codes.flatten() for layer in ternary_layers(net).values()])
        share = (codes == 0).float().mean().item()
        if mode == "min":
            assert own.loop.finished
            assert share >= 0.9 - 0.01
            assert not any(layer.ternary().codes[1].any() for layer in ternary_layers(net).values())
        else:
            assert share == pytest.approx(own.loop.good, abs=0.02)


def test_export(fit, tmp_path):
    _, net = fit(*callbacks(0.7), max_epochs=4)
    found = export(net.eval(), tmp_path / "out", samples=samples(8)[0], activations="float32", onnx_only=True)
    for path in LAYERS:
        assert torch.equal(found.network.ternary[path].dequantize(), effective_weight(net.get_submodule(path)))


def test_where_it_cannot_be():
    with pytest.raises(ValueError, match="got 'digit'"):
        SLR("sparsity", 0.5, pattern="digit")
    with pytest.raises(ValueError, match="pattern must be"):
        PruningSchedule(0.5, pattern="digits")
