"""The entropy constraint on ternary layers, and entropy-constrained pruning of float layers."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from tern_lightning import Rule, TernaryCallback
from tern_lightning.callbacks import EntropyConstraint, EntropyPruning
from tern_lightning.functional import entropy_assignment
from tern_lightning.nn.ternary_layers import swapped_layers
from tern_lightning.nn.weight_mask import masks
from tern_lightning.schedules import Schedule
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything


def ternary(**options):
    return TernaryCallback("ec2t", **{"verbose": False, "freeze": None, **options})


def methods(net):
    return {path: layer._ternary_state.quantizer for path, layer in swapped_layers(net)}


def zeros(net):
    return {path: layer.ternary().sparsity() for path, layer in swapped_layers(net)}


def other(make_net):
    net = make_net()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


@pytest.mark.parametrize("order", [1, -1])
def test_strength_makes_zeros(order, fit):
    found = []
    for strength in (0.0, 0.3, 0.8):
        _, net = fit(*[ternary(), EntropyConstraint(strength)][::order])
        found.append(zeros(net)["hidden"])
    assert found[0] < found[1] - 0.1 < found[2] - 0.2


def test_shares_by_size_and_strength_by_pattern(fit):
    _, net = fit(ternary(), EntropyConstraint({"body.*": 0.2, "hidden": 0.4}, sustain=0.5), max_epochs=1)
    found = methods(net)
    # 6 * 6 * 9, 6 * 6 * 4 and 8 * 150 weights.
    for path, size, strength in (("body.0", 324, 0.2), ("body.3", 144, 0.2), ("hidden", 1200, 0.4)):
        assert found[path].size_factor.item() == pytest.approx((size / 1200 + 0.5) / 1.5)
        assert found[path].strength.item() == pytest.approx(strength)
    _, net = fit(ternary(), EntropyConstraint({"hidden": 0.4}), max_epochs=1)
    assert methods(net)["body.0"].strength.item() == 0


def test_schedule(fit):
    class Watch(pl.Callback):
        def __init__(self):
            self.found = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.found.append(methods(pl_module)["hidden"].strength.item())

    watch = Watch()
    fit(ternary(), EntropyConstraint(0.4, Schedule("linear", end=0.5)), watch)
    assert watch.found == pytest.approx([0.4 * min(step / 10, 1) for step in range(20)])


def test_resume(fit, make_net, tmp_path):
    def callbacks():
        return ternary(freeze=3), EntropyConstraint(0.4, Schedule("linear", end=0.5))

    trainer, net = fit(*callbacks(), Save(tmp_path))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for step in (2, 7, 14):
        trainer, again = fit(*callbacks(), net=other(make_net), ckpt_path=tmp_path / f"step{step}.ckpt")
        assert_same(everything(trainer, again, tmp_path / "again.ckpt"), expected)


def test_frozen_codes_do_not_follow_the_strength(fit):
    class Watch(pl.Callback):
        def __init__(self):
            self.codes = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.codes.append(pl_module.hidden.ternary().codes)

    watch = Watch()
    _, net = fit(ternary(freeze=2), EntropyConstraint(0.5, Schedule("linear", end=1.0)), watch)
    assert all(torch.equal(codes, watch.codes[8]) for codes in watch.codes[8:])
    found = net.hidden.ternary()
    assert not found.is_symmetric


def test_no_layer_warns(fit):
    with pytest.warns(UserWarning, match="EntropyConstraint has no effect"):
        fit(EntropyConstraint(), max_epochs=1)


def test_pruning_is_the_assignment_and_weights_return(fit, make_net):
    """Masks against the thresholds of the whole weight, whose hidden values come back when the strength falls."""

    class Watch(pl.Callback):
        def __init__(self):
            self.kept = []

        def on_train_batch_start(self, trainer, pl_module, *args):
            full = torch.where(masks(pl_module)["head"], pl_module.head.weight, own._hidden["head"])
            p, n = own._levels["head"]
            found = entropy_assignment(full.detach(), p, n, 0.6 * own.clock.value(own.schedule, trainer, args[-1]))
            keep = (full > found.upper) | (full < found.lower)
            assert torch.equal(masks(pl_module)["head"], keep)
            assert not pl_module.head.weight[~keep].any()
            assert not own._hidden["head"][keep].any()
            self.kept.append(keep.float().mean().item())

    watch = Watch()
    ramp = Schedule("linear", end=1.0, initial=1.0, final=0.0)
    own = EntropyPruning(0.6, ramp, include=["head"], freeze=None)
    net = make_net()
    start = net.head.weight.detach().clone()
    _, net = fit(own, watch, net=net)
    assert watch.kept[0] < watch.kept[-1]
    assert net.head.weight.detach()[masks(net)["head"]].abs().min() > 0
    top = start.max() * 0.25
    assert own._levels["head"][0].item() == pytest.approx(max(top.item(), 0.675 * start.std().item()))
    plain = Net()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain.head.weight, net.head.weight)


def test_pruning_beside_ternary_layers_begins_freezes_and_resumes(fit, make_net, tmp_path):
    def callbacks():
        rules = [Rule("hidden"), Rule("body.3", "ec2t")]
        return ternary(freeze=3, rules=rules), EntropyPruning(0.4, start=1, freeze=3, include=["hidden", "stem"])

    class Watch(pl.Callback):
        def __init__(self):
            self.found = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.found.append({path: keep.clone() for path, keep in masks(pl_module).items()})

    watch = Watch()
    trainer, net = fit(*callbacks(), Save(tmp_path), watch)
    assert [sorted(found) for found in watch.found] == [[]] * 4 + [["hidden", "stem"]] * 16
    assert all(torch.equal(found["hidden"], watch.found[11]["hidden"]) for found in watch.found[11:])
    assert 0.1 < (net.hidden.weight == 0).float().mean() < 0.99
    assert type(net.hidden) is nn.Linear
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for step in (2, 7, 14):
        trainer, again = fit(*callbacks(), net=other(make_net), ckpt_path=tmp_path / f"step{step}.ckpt")
        assert_same(everything(trainer, again, tmp_path / "again.ckpt"), expected)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (EntropyConstraint, {"strength": 1.5}, "strength must be >= 0 and <= 1, got 1.5"),
        (EntropyConstraint, {"strength": {"body.*": -1}}, r"strength of 'body\.\*' must be .* got -1"),
        (EntropyConstraint, {"sustain": -1}, "sustain must be >= 0, got -1"),
        (EntropyConstraint, {"schedule": Schedule(final=2.0)}, r"schedule's values must be in \[0, 1\]"),
        (EntropyPruning, {"start": -1}, "start must be .* got -1"),
        (EntropyPruning, {"initial_level": 0}, "initial_level must be .* got 0"),
    ],
)
def test_wrong_arguments(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**options)
