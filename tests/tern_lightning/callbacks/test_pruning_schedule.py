"""Pruning on a schedule, alone and with everything else."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import Rule, SparsityBudget, TernaryCallback
from tern_lightning.callbacks.activation_quantization import ActivationQuantization
from tern_lightning.callbacks.pruning_schedule import PruningSchedule
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.nn.weight_mask import mask_of
from tern_lightning.quantizers import quantizer_names
from tern_lightning.schedules import Schedule
from tests.tern_lightning.training_nets import Loader, Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything
from tvm_schedules.errors import TargetError

LAYERS = ("body.0", "body.3", "hidden")


RAMP = Schedule("linear", 0.0, 0.5)


def pruning(amount=0.7, **options):
    return PruningSchedule(amount, **{"schedule": RAMP, "every": 2, **options})


def ternary(**options):
    return TernaryCallback(**{"verbose": False, "freeze": None, **options})


def zeros(net, layers=LAYERS):
    found = [net.get_submodule(path).weight for path in layers]
    return sum(int((weight == 0).sum()) for weight in found) / sum(weight.numel() for weight in found)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_float_layers_reach_the_amount_and_keep_it(scope, optimizer, fit, make_net, record):
    own = pruning(scope=scope, include=LAYERS)
    trainer, net = fit(own, net=make_net(optimizer=optimizer), logger=record)
    count = sum(net.get_submodule(path).weight.numel() for path in LAYERS)
    expected = round(0.7 * count) / count if scope == "global" else pytest.approx(0.7, abs=0.01)
    assert zeros(net) == expected
    if scope == "layer":
        assert [zeros(net, [path]) for path in LAYERS] == pytest.approx([0.7] * 3, abs=0.01)
    assert (net.stem.weight != 0).all()
    shares = [record.values["pruning/pruned", step] for step in (3, 7, 11, 19)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[1] < shares[2] == shares[3]
    assert trainer.callback_metrics["pruning/sparsity"] == pytest.approx(zeros(net))
    state = trainer.optimizers[0].state
    for path in LAYERS:
        weight, keep = net.get_submodule(path).weight, mask_of(net.get_submodule(path))
        assert torch.equal(weight != 0, keep)
        for name, memory in state[weight].items():
            if memory.shape == weight.shape:
                assert not memory[~keep].any(), name
                assert memory[keep].any()


def test_the_first_choice_is_by_magnitude(fit, make_net):
    start = {path: make_net().get_submodule(path).weight.abs() for path in LAYERS}
    own = pruning(0.5, schedule=Schedule("constant", 0.0))
    _, net = fit(own, max_steps=1)
    flat = torch.cat([weight.flatten() for weight in start.values()])
    threshold = flat.sort().values[round(0.5 * flat.numel()) - 1]
    for path, weight in start.items():
        assert torch.equal(mask_of(net.get_submodule(path)), weight > threshold)


@pytest.mark.parametrize("method", ["twn", "absmean", "sws"])
def test_ternary_layers_have_the_levels_of_the_weights_that_are_left(method, fit):
    _, net = fit(ternary(method=method), pruning(0.6))
    for path in LAYERS:
        layer = net.get_submodule(path)
        keep, found = mask_of(layer), layer.ternary()
        assert not found.codes[0][~keep].any()
        size = layer.weight.detach()[keep].abs()
        if method == "twn":
            chosen = size > 0.7 * size.mean()
            assert found.positive.item() == pytest.approx(size[chosen].mean().item(), rel=1e-5)
        elif method == "absmean":
            assert found.positive.item() == pytest.approx(size.mean().item(), rel=1e-5)
        assert (layer.weight[~keep] == 0).all()


@pytest.mark.parametrize("method", quantizer_names())
def test_every_method_follows_the_mask(method, fit):
    _, net = fit(ternary(method=method), pruning(0.6, scope="layer"), max_epochs=4)
    for path in LAYERS:
        layer = net.get_submodule(path)
        keep, found = mask_of(layer), layer.ternary()
        assert (~keep).float().mean().item() == pytest.approx(0.6, abs=0.01)
        assert not found.codes[:, ~keep].any()
        assert found.codes.any()
        weight = net.state_dict()[f"{path}.weight"]
        assert not weight[~keep].any()
        assert torch.equal(weight, found.dequantize())


def test_exact_sparsity_with_a_ternarizer_that_makes_no_zeros(fit, make_net, tmp_path):
    own = ternary(method="twn", options={"factor": 0.0})
    trainer, _ = fit(own, pruning(0.8, scope="layer"), net=make_net())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    plain = Net.load_from_checkpoint(tmp_path / "end.ckpt")
    for path in LAYERS:
        weight = plain.get_submodule(path).weight
        assert (weight == 0).float().mean().item() == pytest.approx(0.8, abs=0.01)
        assert len(weight.abs().unique()) == 2


@pytest.mark.parametrize("pattern", ["2:4", "block"])
def test_patterns(pattern, fit):
    block = pattern == "block"
    own = pruning(0.5 if block else None, pattern=pattern, group=(2, 2) if block else (1, 1), include=("hidden",))
    _, net = fit(own)
    weight = net.hidden.weight
    if block:
        tiles = (weight != 0).unfold(0, 2, 2).unfold(1, 2, 2).flatten(2).sum(2)
        assert set(tiles.unique().tolist()) == {0, 4}
        assert (tiles == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    else:
        groups = (weight[:, : weight.shape[1] // 4 * 4] != 0).unflatten(1, (-1, 4)).sum(2)
        assert (groups == 2).all()


def callbacks(kind):
    ramp = Schedule("cubic", 0.0, 0.6)
    prune_, tern = pruning(0.7, schedule=ramp, every=3), ternary(start=1, freeze=0.8, bn_batches=2)
    average = EMAWeightAveraging(decay=0.7)
    activations = ActivationQuantization(bits=4, observe_batches=3, learned=True)
    return {
        "float": [prune_],
        "ternary": [tern, prune_],
        "before": [prune_, average, tern],
        "after": [average, tern, prune_, activations],
    }[kind]


@pytest.mark.parametrize("kind", ["float", "ternary", "before", "after"])
def test_a_resumed_run_is_the_uninterrupted_one(kind, fit, make_net, tmp_path):
    trainer, net = fit(*callbacks(kind), Save(tmp_path))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step2", "step7", "val1", "epoch2", "step18"):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        trainer, net = fit(*callbacks(kind), net=other, ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(everything(trainer, net, tmp_path / "again.ckpt"), expected, name)


def test_other_settings_after_a_resume_are_named(fit, tmp_path):
    fit(pruning(), Save(tmp_path), max_epochs=2)
    with pytest.warns(UserWarning, match=r"PruningSchedule goes on with other settings .*: amount=0.7, now 0.8. What"):
        fit(pruning(0.8), max_epochs=3, ckpt_path=tmp_path / "epoch0.ckpt")


@pytest.mark.parametrize("order", ["before", "after"])
def test_averaged_weights_are_pruned_too(order, fit, tmp_path):
    own = callbacks(order)
    _, net = fit(*own, Save(tmp_path))
    average = next(c for c in own if isinstance(c, EMAWeightAveraging))._average_model.module
    for path in LAYERS:
        keep = mask_of(net.get_submodule(path))
        assert not keep.all()
        for root in (net, average):
            assert not effective_weight(root.get_submodule(path))[~keep].any()
        saved = torch.load(tmp_path / "step18.ckpt", weights_only=True)["state_dict"][f"{path}.weight"]
        assert not saved[~keep.cpu()].any()


class NoNorm(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.body[1] = self.body[4] = nn.Identity()


def test_accumulation_is_a_larger_batch(fit, make_net):
    runs = []
    for batch, accumulate in ((8, 2), (16, 1)):
        net = make_net(NoNorm, optimizer="sgd")
        fit(pruning(), net=net, loader=lambda batch=batch: Loader(batch), accumulate_grad_batches=accumulate)
        runs.append(net)
    for path in LAYERS:
        assert torch.equal(mask_of(runs[0].get_submodule(path)), mask_of(runs[1].get_submodule(path)))


def test_gradient_clipping_sees_no_pruned_gradients(fit, make_net):
    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            keep = mask_of(pl_module.hidden)
            self.clean = not pl_module.hidden.weight.grad[~keep].any()

    look = Look()
    fit(pruning(schedule=Schedule("constant", 0.0)), look, max_epochs=1, gradient_clip_val=0.1)
    assert look.clean


class Tied(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.out = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(self.b(self.a(self.stem(x.flatten(1))).relu()).relu())

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


def test_layers_that_share_a_weight_share_the_mask(make_trainer, make_net):
    for own in ([pruning(0.5)], [pruning(0.5), ternary()], [ternary(), pruning(0.5)]):
        net = make_net(Tied)
        make_trainer(*own).fit(net, Loader())
        assert mask_of(net.a) is mask_of(net.b)
        assert int(mask_of(net.a).sum()) == 32
        assert torch.equal(effective_weight(net.a), effective_weight(net.b))


def test_two_callbacks_prune_different_layers_or_the_same(fit):
    first, second = pruning(0.5, include=("hidden",)), pruning(0.3, include=("body.*",))
    _, net = fit(first, second)
    assert zeros(net, ["hidden"]) == pytest.approx(0.5, abs=0.01)
    assert zeros(net, ["body.0", "body.3"]) == pytest.approx(0.3, abs=0.01)
    third = pruning(0.6, include=("hid*",))
    _, net = fit(first, third)
    assert zeros(net, ["hidden"]) == pytest.approx(0.6, abs=0.01)


def test_bf16_mixed_and_plain_use_of_the_trained_module(fit, make_net):
    net = make_net()
    fit(
        ternary(rules=[Rule("hidden", "absmean"), Rule("head"), Rule("stem")]),
        pruning(),
        net=net,
        precision="bf16-mixed",
    )
    plain = Net()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(samples()[0]), net.eval()(samples()[0]))
    assert zeros(plain) >= 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"amount": 80}, r"amount must be in \[0, 1\], got 80; 80 % is 0.8"),
        ({"amount": 0.5, "pattern": "2:4"}, "amount must be None"),
        ({"amount": None}, "amount must be None"),
        ({"pattern": "4:2", "amount": None}, "0 < n < m"),
        ({"pattern": "rows"}, "pattern must be"),
        ({"scope": "all"}, "scope"),
        ({"group": (2, 2)}, "group is for pattern 'block'"),
        ({"group": (0, 2), "pattern": "block"}, "group must be"),
        ({"every": 0}, "every"),
        ({"schedule": Schedule(final=2.0)}, "schedule's values"),
        ({"include": "hidden"}, "include must be a list of strings or None, got 'hidden'"),
        ({"sparsity": 0.8}, "no argument 'sparsity'; HINT: it is amount=0.8 here"),
    ],
)
def test_errors_of_arguments(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        PruningSchedule(**{"amount": 0.5, **options})


def test_errors_of_patterns(fit):
    with pytest.raises(MisconfigurationException, match=r"include pattern 'hiden' matches no .*there are hidden"):
        fit(pruning(include=("hiden",)))
    with pytest.raises(MisconfigurationException, match="leave none"):
        fit(pruning(include=("hidden",), exclude=("hidden",)))


def test_a_fraction_needs_a_run_with_an_end(fit):
    with pytest.raises(MisconfigurationException, match="run with an end"):
        fit(pruning(), max_epochs=-1, max_steps=-1)


def test_pruning_after_the_freeze_warns(fit):
    with pytest.warns(UserWarning, match="after the codes were frozen"):
        fit(ternary(freeze=1), pruning())


@pytest.mark.parametrize(
    "target", ["pi4", "host", '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a73"}']
)
def test_a_cpu_gets_pairs_of_channels(target, fit, caplog):
    with caplog.at_level("INFO", "lightning.pytorch"):
        _, net = fit(pruning(target=target))
    assert "pairs of output channels" in caplog.text
    keep = mask_of(net.body[0])
    assert torch.equal(keep[::2], keep[1::2])
    assert 0.6 < float((~keep).float().mean()) < 0.9


def test_c_for_microcontrollers_gets_pairs():
    own = pruning(target="c")
    assert (own.choice.pattern, own.choice.group, own.choice.kernel) == ("block", (2, 1), False)
    assert "stores the places once" in own.structure.why


@pytest.mark.parametrize("target", ["cuda", "sm_86", "opencl"])
def test_a_target_without_such_a_kernel_gets_single_weights(target):
    assert (pruning(target=target).choice.pattern, pruning(target=target).choice.group) == ("element", (1, 1))


def test_a_target_is_known_and_stands_alone():
    with pytest.raises(TargetError, match="did you mean 'pi4'"):
        pruning(target="pi44")
    for other in ({"pattern": "block"}, {"group": (4, 1)}):
        with pytest.raises(ValueError, match="target chooses pattern and group: give it alone, got target='pi4'"):
            pruning(target="pi4", **other)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([], "nothing is pruned: with PruningSchedule(0.8, target='pi4') pairs of output channels"),
        ([pruning()], "another structure was measured to pay than the one that is pruned: with PruningSchedule(0.8, "),
        ([pruning(target="pi4")], None),
        ([pruning(pattern="block", group=(2, 1), kernel=False)], None),
        ([SparsityBudget(0.7)], None),
    ],
)
def test_a_ternarizer_with_a_target_says_which_structure_pays(others, said, fit, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(ternary(target="pi4"), *others, max_epochs=1)
    lines = [record.message for record in caplog.records if record.message.startswith("TernaryCallback: ")]
    assert len(lines) == (said is not None)
    assert all(said in line for line in lines)
    with pytest.raises(TargetError, match="pi44"):
        ternary(target="pi44")
