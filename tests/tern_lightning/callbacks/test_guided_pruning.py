"""The loop that prunes as far as a value allows."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.callbacks.guided_pruning import AccuracyGuidedPruning, Loop, judge
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.nn.weight_mask import mask_of
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


class Scored(Net):
    """Its score falls when more than 60% of the weights are zero."""

    def share(self):
        found = torch.cat([(effective_weight(self.get_submodule(path)) == 0).float().flatten() for path in LAYERS])
        return found.mean()

    def validation_step(self, batch, batch_idx):
        self.log("score", 1.0 - F.relu(self.share() - 0.6))


def loop(**options):
    return AccuracyGuidedPruning(
        **{"monitor": "score", "tolerance": 0.01, "step": 0.2, "epochs": 1, "min_step": 0.04, **options}
    )


def test_judge_goes_up_and_back_and_ends():
    options = {"tolerance": 0.01, "higher": True, "min_step": 0.04, "max_amount": 0.9}
    state = judge(Loop(step=0.2, amount=0.3), 0.95, **options)
    assert (state.baseline, state.good, state.action) == (0.95, 0.3, "raise")
    state.amount = 0.5
    state = judge(state, 0.941, **options)
    assert (state.good, state.step, state.action, state.finished) == (0.5, 0.2, "raise", False)
    state.amount = 0.7
    state = judge(state, 0.9, **options)
    assert (state.good, state.step, state.action, state.finished) == (0.5, 0.1, "restore", False)
    state.amount = 0.6
    state = judge(state, float("nan"), **options)
    assert (state.good, state.step, state.action, state.finished) == (0.5, 0.05, "restore", False)
    state.amount = 0.55
    assert judge(state, 0.8, **options).finished
    state.amount = 0.9
    state = judge(state, 0.95, **options)
    assert (state.good, state.action, state.finished) == (0.9, "none", True)
    lower = {**options, "higher": False}
    assert judge(Loop(baseline=1.0, amount=0.5), 1.005, **lower).good == 0.5
    assert judge(Loop(baseline=1.0, amount=0.5), 1.02, **lower).action == "restore"


@pytest.mark.parametrize("methods", ["float", "ternary"])
@pytest.mark.parametrize("pattern", ["element", "block"])
def test_it_finds_the_largest_amount_that_the_tolerance_allows(methods, pattern, fit, make_net):
    own = loop(pattern=pattern, group=(1, 2) if pattern == "block" else (1, 1))
    others = [TernaryCallback("twn", options={"factor": 0.0}, verbose=False, freeze=None)]
    trainer, net = fit(own, *(others if methods == "ternary" else []), net=make_net(Scored), max_epochs=30)
    assert trainer.current_epoch < 29
    assert own.loop.finished
    amounts = [(round(amount, 2), kept) for amount, _, kept in own.loop.trials]
    assert amounts[:6] == [(0.2, True), (0.4, True), (0.6, True), (0.8, False), (0.7, False), (0.65, False)]
    assert 0.55 < net.share() <= 0.61
    for path in LAYERS:
        assert not net.get_submodule(path).weight.detach()[~mask_of(net.get_submodule(path))].any()


def test_natural_zeros_are_where_it_starts(fit, make_net):
    own = loop(start=2)
    fit(own, TernaryCallback("twn", verbose=False, freeze=None), net=make_net(Scored), max_epochs=4)
    first = own.loop.trials[0][0]
    assert 0.5 < first < 0.75


class Fails(Net):
    """Its score is good at the end of the first two epochs only."""

    def validation_step(self, batch, batch_idx):
        self.log("score", 1.0 if self.current_epoch < 2 else 0.0)


@pytest.mark.parametrize("epochs", [3, 4])
@pytest.mark.parametrize("order", ["none", "before", "after"])
def test_the_last_good_state_comes_back_at_the_end(order, epochs, fit, make_net, tmp_path):
    average, own = EMAWeightAveraging(decay=0.5), loop()
    callbacks = {"none": [own], "before": [average, own], "after": [own, average]}[order]
    _, net = fit(*callbacks, Save(tmp_path), net=make_net(Fails), max_epochs=epochs)
    good = torch.load(tmp_path / "val1.ckpt", weights_only=True)
    assert own.loop.trials[0][2]
    assert not own.loop.trials[1][2]
    if order == "none":
        for name, value in net.state_dict().items():
            assert torch.equal(value, good["state_dict"][name]), name
    pruned = [int((~mask_of(net.get_submodule(path))).sum()) for path in LAYERS]
    assert sum(pruned) == pytest.approx(0.2 * sum(net.get_submodule(p).weight.numel() for p in LAYERS), abs=2)
    for path in LAYERS:
        keep = mask_of(net.get_submodule(path))
        assert int((net.get_submodule(path).weight == 0).sum()) == int((~keep).sum())


@pytest.mark.parametrize("order", ["none", "before"])
def test_resume(order, fit, make_net, tmp_path):
    def callbacks():
        methods = [loop(step=0.3, tolerance=0.02), TernaryCallback("absmean", verbose=False, freeze=None, start=1)]
        return [EMAWeightAveraging(decay=0.5), *methods] if order == "before" else methods

    own = callbacks()
    trainer, net = fit(*own, Save(tmp_path), net=make_net(Scored), max_epochs=6)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    assert {kept for *_, kept in own[-2].loop.trials} == {True, False}
    for name in ("step3", "val0", "step6", "epoch1", "val2", "step13", "val3", "step18"):
        other = make_net(Scored)
        nn.init.ones_(other.hidden.weight)
        again, net = fit(*callbacks(), net=other, max_epochs=6, ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected, name)


def test_what_is_monitored_must_exist(fit):
    with pytest.raises(MisconfigurationException, match=r"monitors 'score', but these were logged .*'val_loss'"):
        fit(loop())


def test_frozen_codes_are_an_error(fit, make_net):
    with pytest.raises(MisconfigurationException, match="codes are frozen"):
        fit(loop(), TernaryCallback(verbose=False, freeze=1), net=make_net(Scored))


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": -1.0},
        {"mode": "up"},
        {"scope": "all"},
        {"start": 0},
        {"min_step": 0.5},
        {"max_amount": 0.0},
        {"group": (2, 2)},
    ],
)
def test_errors(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        loop(**options)
