"""A resumed run is the uninterrupted run, bit for bit."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning import Rule, TernaryCallback
from tern_lightning.nn.ternary_layers import swapped_layers
from tests.tern_lightning.training_nets import Record, Save
from tests.tern_lightning.training_runs import assert_same, everything

# Four batches an epoch, five epochs: float in epoch 0, ternary in 1 and 2, frozen in 3 and 4. A file "step" was saved
# after a batch, "val" after the validation at an epoch's end, "epoch" at the very end of an epoch.
PLAIN = [*(f"step{step}" for step in (2, 4, 6, 8, 11, 12, 13, 14, 16, 18)), *(f"val{e}" for e in range(4))]
PLAIN += [f"epoch{epoch}" for epoch in range(4)]
AVERAGED = ["step2", "step6", "step11", "step12", "step14", "epoch1", "epoch2", "epoch3"]
CASES = [("plain", name) for name in PLAIN] + [(o, name) for o in ("before", "after") for name in AVERAGED]


def ternary(**options):
    return TernaryCallback("absmean", start=1, freeze=0.6, bn_batches=3, verbose=False, **options)


def callbacks(order):
    average = EMAWeightAveraging(decay=0.7)
    return {"plain": [ternary()], "before": [average, ternary()], "after": [ternary(), average]}[order]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def uninterrupted(folders, fit, tmp_path):
    """Train once for each order of callbacks: ``folder, end state, logged values = uninterrupted(order)``."""

    def run(order):
        folder = folders / order
        if not folder.exists():
            record = Record()
            trainer, net = fit(*callbacks(order), Save(folder), logger=record)
            torch.save((everything(trainer, net, tmp_path / "end.ckpt"), record.values), folder / "whole.pt")
        return folder, *torch.load(folder / "whole.pt", weights_only=False)

    return run


@pytest.mark.parametrize(("order", "name"), CASES)
def test_resume(order, name, uninterrupted, fit, make_net, tmp_path):
    folder, expected, logged = uninterrupted(order)
    path = folder / f"{name}.ckpt"
    other = make_net()
    torch.nn.init.ones_(other.hidden.weight)
    record = Record()
    trainer, net = fit(*callbacks(order), net=other, ckpt_path=path, logger=record)
    assert trainer.global_step == 20
    assert_same(everything(trainer, net, tmp_path / "resumed.ckpt"), expected)
    begin = torch.load(path, weights_only=True)["global_step"]
    tail = {key: value for key, value in logged.items() if key[1] >= begin}
    assert any(key[0] == "ternary/hidden/flips" for key in tail)
    assert tail.items() <= record.values.items()
    assert all(record.values[key] == value for key, value in logged.items() if key in record.values)


def test_the_run_has_three_phases_and_the_codes_are_frozen_for_good(uninterrupted):
    folder, *_ = uninterrupted("plain")
    states = {}
    for step in (2, 6, 13, 20):
        saved = torch.load(folder / f"step{step}.ckpt", weights_only=True)
        states[step] = saved["callbacks"][ternary().state_key]
    assert [states[s]["phase"] for s in (2, 6, 13, 20)] == ["float", "ternary", "frozen", "frozen"]
    for path, codes in states[13]["codes"].items():
        assert torch.equal(codes, states[20]["codes"][path])
        values = torch.load(folder / "step20.ckpt", weights_only=True)["state_dict"][f"{path}.weight"]
        assert torch.equal(values.sign().to(torch.int8), codes)
        assert len(values.abs().unique()) == 2
    latents = [states[step]["latents"]["hidden"] for step in (13, 20)]
    assert not torch.equal(*latents)


def test_resuming_into_a_module_that_was_trained_before(uninterrupted, fit, tmp_path):
    folder, expected, _ = uninterrupted("plain")
    _, used = fit(ternary(), max_epochs=3)
    assert list(swapped_layers(used))
    trainer, net = fit(ternary(), net=used, ckpt_path=folder / "step11.ckpt")
    assert_same(everything(trainer, net, tmp_path / "again.ckpt"), expected)


def test_without_the_callback_it_warns(uninterrupted, fit):
    folder, *_ = uninterrupted("plain")
    with pytest.warns(UserWarning, match="TernaryCallback .*without it training goes on in float"):
        fit(ckpt_path=folder / "epoch3.ckpt")


def test_other_layers_than_in_the_checkpoint(uninterrupted, fit):
    folder, *_ = uninterrupted("plain")
    with pytest.raises(MisconfigurationException, match=r"only in the checkpoint \['hidden'\]"):
        fit(ternary(rules=[Rule("hidden")]), ckpt_path=folder / "epoch3.ckpt")


def test_average_that_is_added_on_resume_starts_from_the_latent_weights(uninterrupted, fit):
    folder, *_ = uninterrupted("plain")

    class Look(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            copy = average._average_model.module
            self.same = all(torch.equal(a, b) for a, b in zip(copy.parameters(), pl_module.parameters(), strict=True))

    average, look = EMAWeightAveraging(decay=0.7), Look()
    with pytest.warns(UserWarning, match="not created with WeightAveraging"):
        fit(ternary(), average, look, ckpt_path=folder / "step11.ckpt")
    assert look.same
