"""A checkpoint is the ternary network for everyone, also without this package."""

import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

from tern_lightning import TernaryCallback, TernaryTensor
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.training_nets import Loader, Net, Save, samples

SCRIPT = """
import sys, torch
from training_nets import Net, samples
torch.set_num_threads(1)
for path in sys.argv[2:]:
    net = Net.load_from_checkpoint(path, map_location="cpu").eval()
    with torch.no_grad():
        torch.save([net(x) for x in samples()[0].split(16)], path + ".logits")
assert not any(name.startswith("tern_lightning") for name in sys.modules)
"""


def test_a_process_without_this_package_gets_the_logits_of_the_last_validation(fit, tmp_path):
    paths = []
    for method in ("twn", "absmean"):
        for weights_only in (False, True):
            folder = tmp_path / f"{method}{weights_only}"
            _, net = fit(TernaryCallback(method, verbose=False), Save(folder, weights_only), max_epochs=3)
            torch.save(net.logits, folder / "logits")
            paths += [str(folder / "epoch2.ckpt"), str(folder / "val2.ckpt")]
    here = str(Path(__file__).parents[1])
    alone = {"PYTHONPATH": here, "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", SCRIPT, here, *paths], check=True, env=alone)
    for path in paths:
        found = torch.load(path + ".logits")
        expected = torch.load(Path(path).parent / "logits")
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), path


def logits(net):
    with torch.no_grad():
        return [net.eval()(x) for x in samples()[0].split(16)]


@pytest.mark.parametrize("method", ["twn", "absmean", "sws"])
@pytest.mark.parametrize("order", ["alone", "before", "after"])
@pytest.mark.parametrize("epochs", [2, 5])
def test_plain_network_and_keys(method, order, epochs, fit, tmp_path):
    own = TernaryCallback(method, freeze=3, verbose=False)
    average = EMAWeightAveraging(decay=0.7)
    callbacks = {"alone": [own], "before": [average, own], "after": [own, average]}[order]
    _, net = fit(*callbacks, Save(tmp_path), max_epochs=epochs)
    expected = net.logits
    plain = Net.load_from_checkpoint(tmp_path / f"epoch{epochs - 1}.ckpt")
    assert plain.state_dict().keys() == Net().state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(logits(plain), expected, strict=True))
    for path, axis in (("body.0", 0), ("body.3", 1), ("hidden", 0)):
        assert type(plain.get_submodule(path)).__name__.startswith("Ternary") is False
        assert TernaryTensor.from_values(plain.get_submodule(path).weight, axis).sparsity() > 0.05
    assert TernaryTensor.from_values(plain.head.weight) is None
    # The module in memory, its state_dict and its copies are the same network.
    again = Net()
    again.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(logits(again), logits(net), strict=True))


def test_loading_checkpoints_of_every_phase_after_fit_uses_them_as_they_are(fit, tmp_path):
    saver = ModelCheckpoint(tmp_path, "{epoch}", monitor="val_loss", save_top_k=-1)
    trainer, net = fit(TernaryCallback("absmean", start=1, verbose=False), saver)
    for path in (tmp_path / "epoch=0.ckpt", tmp_path / "epoch=4.ckpt", tmp_path / "epoch=1.ckpt", "best"):
        trainer.test(net, Loader(batch=16), ckpt_path=path, verbose=False)
        expected = logits(Net.load_from_checkpoint(saver.best_model_path if path == "best" else path))
        assert all(torch.equal(a, b) for a, b in zip(net.logits, expected, strict=True))
    trainer.test(net, Loader(batch=16), ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False)
    assert set(ternary_layers(net)) == {"body.0", "body.3", "hidden"}
    weights = {name: layer.ternary().dequantize() for name, layer in ternary_layers(net).items()}
    assert all(torch.equal(net.state_dict()[f"{name}.weight"], value) for name, value in weights.items())


def test_a_float_checkpoint_in_a_trained_module_stays_float(fit, make_net):
    _, net = fit(TernaryCallback(verbose=False), max_epochs=2)
    plain = make_net()
    net.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(logits(net), logits(plain), strict=True))
    assert ternary_layers(net) == {}


def test_validation_needs_no_swap(fit, make_trainer, tmp_path):
    _, net = fit(TernaryCallback(verbose=False), Save(tmp_path), max_epochs=2)
    fresh = Net()
    make_trainer(TernaryCallback(verbose=False)).validate(
        fresh, Loader(batch=16), ckpt_path=tmp_path / "epoch1.ckpt", verbose=False
    )
    assert type(fresh.hidden) is torch.nn.Linear
    assert all(torch.equal(a, b) for a, b in zip(fresh.logits, net.logits, strict=True))


def test_monitor_of_a_ternary_value(fit, tmp_path):
    saver = ModelCheckpoint(tmp_path, monitor="ternary/sparsity", mode="max", save_top_k=-1)
    trainer, _ = fit(TernaryCallback(verbose=False), saver, max_epochs=2)
    assert len(list(tmp_path.glob("*.ckpt"))) == 2
    assert float(saver.best_model_score) > 0.2
    assert isinstance(trainer, pl.Trainer)


def test_totals_are_there_after_the_first_validation(fit):
    class Seen(pl.Callback):
        def __init__(self):
            self.values = []

        def on_validation_end(self, trainer, pl_module):
            self.values.append(float(trainer.callback_metrics.get("ternary/sparsity", -1.0)))

    seen = Seen()
    fit(TernaryCallback(verbose=False), seen, max_epochs=2)
    assert len(seen.values) == 2
    assert min(seen.values) > 0.2
