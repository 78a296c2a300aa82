"""Which layers of a run are ternary: teachers, adapters, networks with several ends, models that are built late."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import (
    AccuracyGuidedPruning,
    ActivationQuantization,
    CoarseActivation,
    LowRank,
    MultiLevelActivation,
    PruningSchedule,
    Rule,
    TernaryCallback,
)
from tern_lightning.nn.activation_quantizer import activation_ranges
from tern_lightning.nn.learned_input import learned_inputs
from tern_lightning.nn.survey import describe_others, other_parameters
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.nn.weight_mask import masks
from tern_lightning.rules import resolve
from tests.tern_lightning.training_nets import Net


def mlp(*sizes):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))


def reasons(model, *rules, optimizers=()):
    found = resolve(model, rules, "twn", optimizers=optimizers)
    return {one.path: one.method or one.reason for one in found}


class Distilled(Net):
    """A teacher that is run without gradient, after the student in the model's order."""

    def __init__(self, **options):
        super().__init__(**options)
        self.teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
        self.average = copy.deepcopy(self.head)

    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        with torch.no_grad():
            wanted = self.teacher(batch[0]).softmax(1)
        return F.cross_entropy(logits, wanted) + F.cross_entropy(logits, batch[1])

    def configure_optimizers(self):
        still = {id(p) for part in (self.teacher, self.average) for p in part.parameters()}
        return torch.optim.Adam([p for p in self.parameters() if id(p) not in still], 0.02)


@pytest.mark.parametrize("rules", [None, [Rule("body.*", "absmean"), Rule("*", "twn")]])
def test_a_teacher_stays_float_and_is_not_the_last_layer(fit, make_net, rules):
    net = make_net(Distilled)
    before = copy.deepcopy(net.teacher.state_dict())
    callback = TernaryCallback(rules=rules)
    fit(callback, PruningSchedule(0.5), net=net, max_epochs=2)
    found = {one.path: one.reason for one in callback.decisions}
    for path in ("teacher.1", "teacher.3", "average"):
        assert found[path] == "not trained (no optimizer of the run has it)"
    assert all(torch.equal(value, before[name]) for name, value in net.teacher.state_dict().items())
    if rules is None:
        assert found["head"] == "last layer"
        assert set(ternary_layers(net)) == {"body.0", "body.3", "hidden"}
    assert set(masks(net)) == {"body.0", "body.3", "hidden"}


def test_a_rule_that_names_a_layer_that_is_not_trained_counts():
    model = nn.ModuleDict({"student": mlp(4, 5, 6, 3), "teacher": mlp(4, 7, 3)})
    optimizers = [torch.optim.SGD(model["student"].parameters(), 0.1)]
    assert reasons(model, Rule("teacher.*", "sws"), optimizers=optimizers)["teacher.0"] == "sws"
    assert reasons(model, Rule("*", "sws"), optimizers=optimizers)["teacher.0"].startswith("not trained")


def test_an_optimizer_with_tensors_of_its_own_says_nothing():
    model = mlp(4, 5, 6, 3)
    flat = torch.optim.SGD([nn.Parameter(torch.zeros(10))], 0.1)
    assert reasons(model, optimizers=[flat]) == {"0": "first layer", "1": "twn", "2": "last layer"}


class Lora(nn.Module):
    """The structure of the peft package's layer."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Tuned(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.requires_grad_(False)
        self.hidden = Lora(self.hidden)
        self.head.requires_grad_()

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], 0.02)


def test_adapters_of_a_frozen_base_stay_float_and_are_explained(fit, make_net):
    net, callback = make_net(Tuned), TernaryCallback()
    with pytest.warns(UserWarning, match=r"'hidden.base_layer'.*HINT: rules=\[Rule\('\*.base_layer', 'twn'\)\]"):
        fit(callback, net=net, max_epochs=1)
    found = {one.path: one.reason for one in callback.decisions}
    assert found["hidden.lora_A.default"] == "adapter of 'hidden.base_layer', which is not trained"
    assert found["hidden.base_layer"] == "not trained (requires_grad is False)"
    assert not ternary_layers(net)


@pytest.mark.parametrize("rules", [[Rule("*.base_layer", "twn")], [Rule("*.base_layer", "twn"), Rule("*", "twn")]])
def test_the_rule_for_adapters_makes_the_base_ternary_and_trains_them(fit, make_net, rules, recwarn):
    net = make_net(Tuned)
    base = net.hidden.base_layer.weight.detach().clone()
    adapter = net.hidden.lora_B["default"].weight.detach().clone()
    fit(TernaryCallback(rules=rules), net=net, max_epochs=2)
    assert not any("adapters" in str(one.message) for one in recwarn)
    found = ternary_layers(net)
    assert "hidden.base_layer" in found
    assert not any("lora" in path for path in found)
    codes = found["hidden.base_layer"].ternary().codes[0]
    assert torch.equal(codes, ((base.abs() > 0.7 * base.abs().mean()) * base.sign()).to(torch.int8))
    assert not torch.equal(net.hidden.lora_B["default"].weight, adapter)


def test_a_head_beside_a_frozen_layer_is_no_adapter():
    model = nn.Sequential(nn.Linear(16, 16).requires_grad_(False), nn.Linear(16, 8), nn.Linear(8, 4), nn.Linear(4, 2))
    assert reasons(model) == {
        "0": "not trained (requires_grad is False)",
        "1": "first layer",
        "2": "twn",
        "3": "last layer",
    }


def test_every_network_of_a_gan_keeps_its_ends():
    model = nn.ModuleDict({"generator": mlp(4, 5, 6, 7), "critic": mlp(7, 6, 5, 1)})
    optimizers = [torch.optim.Adam(part.parameters(), 0.1) for part in model.values()]
    assert reasons(model, optimizers=optimizers) == {
        "generator.0": "first layer of 'generator'",
        "generator.1": "twn",
        "generator.2": "last layer of 'generator'",
        "critic.0": "first layer of 'critic'",
        "critic.1": "twn",
        "critic.2": "last layer of 'critic'",
    }
    rules = [Rule(f"{name}.*", "sws", keep_ends=True) for name in model]
    assert reasons(model, *rules) == {
        "generator.0": "first layer of rule 'generator.*'",
        "generator.1": "sws",
        "generator.2": "last layer of rule 'generator.*'",
        "critic.0": "first layer of rule 'critic.*'",
        "critic.1": "sws",
        "critic.2": "last layer of rule 'critic.*'",
    }


def test_two_optimizers_of_one_network_make_no_two_networks():
    model = nn.Sequential(mlp(4, 5, 6, 7, 8), nn.Linear(8, 2))
    matrices = [layer.weight for layer in model[0]]
    others = [p for p in model.parameters() if not any(p is one for one in matrices)]
    optimizers = [torch.optim.SGD(matrices, 0.1), torch.optim.Adam(others, 0.1)]
    mixed = [torch.optim.SGD(matrices[:2], 0.1), torch.optim.Adam([*matrices[2:], *others], 0.1)]
    for several in (optimizers, mixed):
        assert list(reasons(model, optimizers=several).values()) == ["first layer", "twn", "twn", "twn", "last layer"]


def test_encoder_and_decoder_keep_their_ends():
    model = nn.ModuleDict({"net": nn.ModuleDict({"encoder": mlp(8, 6, 5, 3), "decoder": mlp(3, 5, 6, 8)})})
    assert reasons(model) == {
        "net.encoder.0": "first layer",
        "net.encoder.1": "twn",
        "net.encoder.2": "last layer of 'net.encoder'",
        "net.decoder.0": "first layer of 'net.decoder'",
        "net.decoder.1": "twn",
        "net.decoder.2": "last layer",
    }


def test_large_layers_between_encoder_and_decoder_are_ternary():
    model = nn.ModuleDict({"encoder": mlp(2, 8, 16, 32), "decoder": mlp(32, 16, 8, 2)})
    assert [path for path, what in reasons(model).items() if what == "twn"] == [
        "encoder.1",
        "encoder.2",
        "decoder.0",
        "decoder.1",
    ]


def test_rules_may_come_from_a_generator():
    callback = TernaryCallback(rules=(Rule(name, "sws") for name in ("a", "b")))
    assert [rule.name for rule in callback.rules] == ["a", "b"]


def test_what_else_is_float_is_listed():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.scale = nn.Parameter(torch.zeros(4, 16, 16)), nn.Parameter(torch.zeros(16))

    model = nn.ModuleDict(
        {
            "words": nn.Embedding(100, 16),
            "rnn": nn.LSTM(16, 32, 2),
            "first": nn.Linear(16, 16),
            "cross": nn.MultiheadAttention(16, 2, kdim=8, vdim=8),
            "experts": Experts(),
        }
    )
    weights = [model["first"].weight, model["cross"].out_proj.weight]
    line = describe_others(other_parameters(model, weights))
    assert line == (
        "also float: weight_ih_l0, weight_hh_l0, ... (LSTM) 14.3 k, weight (Embedding) 1.6 k, up (Experts) 1.0 k, "
        "q_proj_weight, k_proj_weight, ... (MultiheadAttention) 512"
    )
    count = sum(p.numel() for p in model["rnn"].parameters() if p.ndim > 1)
    assert other_parameters(model, weights)[0].count == count == 14336
    assert describe_others(other_parameters(mlp(3, 4), [layer.weight for layer in mlp(3, 4)])) is not None
    net = mlp(3, 4)
    assert describe_others(other_parameters(net, [net[0].weight])) is None


def test_the_line_is_printed_when_fit_starts(fit, make_net, capsys):
    net = make_net()
    net.words = nn.Embedding(40, 30)
    fit(TernaryCallback(), net=net, max_epochs=1)
    assert "also float: weight (Embedding) 1.2 k" in capsys.readouterr().out


class Late(Net):
    """Built where Lightning asks for it, from what is known only then."""

    hook = "setup"

    def __init__(self, **options):
        super().__init__(**options)
        self.parts = {name: self._modules.pop(name) for name in list(self._modules)}

    def build(self):
        for name, part in self.parts.items():
            setattr(self, name, part)

    def setup(self, stage):
        self.ready = True
        if self.hook == "setup":
            self.build()

    def configure_model(self):
        assert self.ready  # Lightning's order
        if self.hook == "configure_model":
            self.build()


class LateInConfigureModel(Late):
    hook = "configure_model"


@pytest.mark.parametrize("cls", [Late, LateInConfigureModel])
@pytest.mark.parametrize(
    "callback",
    [ActivationQuantization(observe_batches=1), MultiLevelActivation(), CoarseActivation(), LowRank(multiple=2)],
    ids=lambda one: type(one).__name__,
)
def test_a_model_that_is_built_late(cls, callback, fit, make_net):
    callback = copy.deepcopy(callback)
    _, net = fit(callback, net=make_net(cls), max_epochs=1)
    assert "setup" not in vars(net)
    if isinstance(callback, LowRank):
        assert set(callback.choice) == {"body.0"}
    elif isinstance(callback, ActivationQuantization):
        assert set(activation_ranges(net)) == {"stem", "body.0", "body.3", "hidden", "head"}
    else:
        assert set(learned_inputs(net)) == {"body.0", "body.3", "hidden"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rules": ["head.*"]}, r"list of Rule, 'auto' or None, got \['head.\*'\]; HINT: rules=\[Rule\('head.\*'\)\]"),
        ({"rules": Rule("x")}, r"HINT: rules=\[Rule\(name='x'"),
        ({"rules": "head"}, r"HINT: rules=\[Rule\('head'\)\]"),
        ({"options": ["a"]}, r"options must be a dictionary .*, got \['a'\]; HINT: options={'per_channel': True}"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, words):
    with pytest.raises(TypeError, match=words):
        TernaryCallback(**arguments)


def test_rules_check_their_types():
    with pytest.raises(TypeError, match="options must be a dictionary"):
        Rule("x", "twn", options=["per_channel"])
    with pytest.raises(TypeError, match="name must be a string, got <class"):
        Rule(nn.Linear)


def test_accuracy_guided_pruning_needs_a_validation_loader(make_trainer, make_net):
    from tests.tern_lightning.training_nets import Loader

    trainer = make_trainer(AccuracyGuidedPruning(monitor="val_loss", mode="min"), max_epochs=1)
    with pytest.raises(MisconfigurationException, match="AccuracyGuidedPruning needs validation"):
        trainer.fit(make_net(), Loader())
