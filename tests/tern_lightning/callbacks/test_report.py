"""What is logged and printed about ternary layers."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from tern_lightning import Rule, TernaryCallback
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.callbacks.test_ternary import Watch
from tests.tern_lightning.training_nets import Save


def test_log(fit, record):
    _, net = fit(TernaryCallback(freeze=None, verbose=False), logger=record, max_epochs=3)
    logged = {name: value for (name, step), value in record.values.items() if step == 11}
    assert len([name for name, _ in record.values if name == "ternary/sparsity"]) == 3
    zeros = bits = count = 0
    for path, layer in ternary_layers(net).items():
        values = layer.ternary().dequantize()
        shares = [(values > 0).double().mean(), (values == 0).double().mean(), (values < 0).double().mean()]
        entropy = -sum(share * share.log2() for share in shares if share > 0).item()
        assert logged[f"ternary/{path}/sparsity"] == pytest.approx(shares[1].item())
        assert logged[f"ternary/{path}/entropy"] == pytest.approx(entropy)
        assert logged[f"ternary/{path}/positive_level"] == pytest.approx(values.max().item())
        assert logged[f"ternary/{path}/negative_level"] == pytest.approx(-values.min().item())
        assert 0 <= logged[f"ternary/{path}/flips"] <= 1
        zeros, bits, count = zeros + (values == 0).sum().item(), bits + entropy * values.numel(), count + values.numel()
    assert logged["ternary/sparsity"] == pytest.approx(zeros / count)
    assert logged["ternary/entropy"] == pytest.approx(bits / count)


def test_flip_ratio_is_that_of_the_epoch(fit, record):
    own = TernaryCallback(freeze=None, verbose=False)
    watch = Watch(own)
    fit(own, watch, logger=record, max_epochs=3)
    for epoch in range(2):
        flips = (watch.codes[4 * epoch] != watch.codes[4 * epoch + 4]).double().mean().item()
        assert record.values["ternary/hidden/flips", 4 * epoch + 3] == pytest.approx(flips)


def test_tables(fit, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    fit(TernaryCallback("sws", rules=[Rule("hidden")], options={"beta": 0.1}))
    printed = capsys.readouterr().out
    start, end = printed.split("Ternary summary")
    for words in (
        "body.0",
        "6x6x3x3",
        "sws(beta=0.1)",
        "first layer",
        "last layer",
        "rule 'hidden'",
        "frozen from epoch 3",
    ):
        assert words in start
    for words in ("body.3", "6x6x2x2", "frozen", "bits/weight", "all", "468 of 1,799 parameters are ternary"):
        assert words in end


def test_a_run_that_goes_on_with_frozen_codes_says_so(fit, make_net, capsys, tmp_path):
    callback = {"start": 0, "freeze": 1}
    fit(TernaryCallback(**callback, verbose=False), Save(tmp_path), max_epochs=3)
    capsys.readouterr()
    fit(TernaryCallback(**callback), net=make_net(), max_epochs=4, ckpt_path=tmp_path / "epoch1.ckpt")
    start = capsys.readouterr().out.split("Ternary summary")[0]
    assert "codes are frozen already" in start
    assert "frozen from epoch" not in start


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(value, fit, make_net):
    net = make_net()
    with torch.no_grad():
        net.hidden.weight[0, 0] = value
    with pytest.raises(ValueError, match="layer 'hidden' has NaN or infinite values at step 0"):
        fit(TernaryCallback(verbose=False), net=net)

    class Break(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 6:
                with torch.no_grad():
                    pl_module.body[0].weight[0] = value

    with pytest.raises(ValueError, match=r"layer 'body.0' has NaN or infinite values at step 8"):
        fit(TernaryCallback(verbose=False), Break())


def test_layer_without_weights_warns_once(fit, make_net):
    net = make_net()
    nn.init.zeros_(net.hidden.weight)
    net.hidden.bias.data.fill_(-5)  # no gradient passes the rectifier
    with pytest.warns(UserWarning, match="all weights of ternary layer 'hidden' are zero at step 4") as warnings:
        fit(TernaryCallback(verbose=False), net=net, max_epochs=3)
    assert len([w for w in warnings if "all weights" in str(w.message)]) == 1
