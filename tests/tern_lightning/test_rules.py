import pytest
import torch
from torch import nn

from tern_lightning import Rule
from tern_lightning.nn.layer_types import channel_axis
from tern_lightning.rules import resolve


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.attention = nn.MultiheadAttention(4, 2)


@pytest.fixture
def model():
    return nn.ModuleDict(
        {
            "first": nn.Conv2d(1, 2, 3),
            "deep": nn.ModuleList([Branch(), Branch()]),
            "mid": nn.Linear(3, 3),
            "last": nn.Linear(3, 2),
        }
    )


def chosen(model, *rules, method="twn"):
    return {d.path: (d.method, d.reason) for d in resolve(model, rules, method)}


def test_defaults(model):
    found = chosen(model)
    assert found["first"] == (None, "first layer")
    assert found["last"] == (None, "last layer")
    assert {path for path, (method, _) in found.items() if method} == {
        *(f"deep.{i}.{name}" for i in range(2) for name in ("conv", "attention", "attention.out_proj")),
        "mid",
    }


def test_first_matching_rule_counts(model):
    rules = (
        Rule("deep.1.*", "sws", options={"per_channel": True}),
        Rule(r"re:deep\.\d+\.conv", None),
        Rule("*", "absmean"),
    )
    found = chosen(model, *rules)
    assert found["deep.1.conv"][0] == "sws"
    assert found["deep.0.conv"] == (None, r"rule 're:deep\.\d+\.conv'")
    assert found["first"][0] == found["last"][0] == "absmean"
    assert chosen(model, Rule(type="Linear"))["mid"] == (None, "rule '*' of type Linear")
    assert chosen(model, Rule(type="_ConvNd", method="sws"))["first"][0] == "sws"


def test_layers_that_cannot_or_should_not(model):
    model["mid"] = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    model["deep"][0].conv.requires_grad_(False)
    model["deep"][1].conv.forward = lambda x: x
    found = chosen(model)
    assert "parametrization" in found["mid"][1]
    assert "requires_grad" in found["deep.0.conv"][1]
    assert "replaced on the instance" in found["deep.1.conv"][1]
    assert chosen(model, Rule("deep.0.conv", "twn"))["deep.0.conv"][0] == "twn"


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule("mdi", "twn"), r"matches no layer; near misses: \['mid'"),
        (Rule("mid", type="Conv2D"), r"matches no layer; near misses: .*'Conv2d'"),
        (Rule("xyz.*"), r"matches no layer; the layers are \['first'"),
        (Rule("deep.0.norm", "twn"), r"matches 'deep.0.norm' \(BatchNorm1d\), which cannot be ternary; Linear, Conv1d"),
        (Rule("cross", "twn"), "asks for a ternary layer 'cross', which cannot be: its in_proj_weight is None"),
    ],
)
def test_rules_that_cannot_be_followed(rule, words, model):
    model["cross"] = nn.MultiheadAttention(4, 2, kdim=3)
    with pytest.raises(ValueError, match=words):
        chosen(model, rule)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_weights_that_are_not_real(dtype, model):
    model["mid"].weight = nn.Parameter(torch.ones(3, 3).to(dtype), requires_grad=False)
    assert "ternary weights are real" in chosen(model)["mid"][1]
    with pytest.raises(ValueError, match="ternary layer 'mid', which cannot be: its weight is torch"):
        chosen(model, Rule("*", "twn"))


def test_lazy_layers(model):
    model["mid"] = nn.LazyLinear(3)
    with pytest.raises(ValueError, match=r"layer 'mid' \(LazyLinear\) has no shape yet"):
        chosen(model)


def test_metrics_are_nobodys_layers(model):
    from torchmetrics import Metric

    class Scorer(Metric):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

        def update(self): ...

        def compute(self): ...

    model["scorer"] = Scorer()
    assert not any(path.startswith("scorer") for path in chosen(model))


def test_ties(model):
    model["again"] = nn.Linear(3, 3)
    model["again"].weight = model["mid"].weight
    model["end"] = nn.Linear(3, 2)
    found = chosen(model)
    assert found["mid"][0] == found["again"][0] == "twn"
    with pytest.raises(ValueError, match="'again' cannot be ternary by rule 'again': it shares its weight with 'mid'"):
        chosen(model, Rule("again", "sws"))
    found = chosen(model, Rule("again"))
    assert found["mid"] == (None, "shares its weight with 'again', which is not ternary in the same way")
    model["words"] = nn.Embedding(3, 3)
    model["words"].weight = model["mid"].weight
    assert "shares its weight with 'words'" in chosen(model)["mid"][1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "re:("}, "valid expression"),
        ({"method": "tern"}, "method must be one of"),
        ({"method": "twn", "options": {"beta": 1}}, "options of method 'twn'"),
        ({"options": {"beta": 1}}, "need a method"),
    ],
)
def test_wrong_rules(arguments, words):
    with pytest.raises(ValueError, match=words):
        Rule(**arguments)


def test_channel_axis():
    assert channel_axis(nn.ConvTranspose2d(4, 6, 3)) == 1
    assert channel_axis(nn.ConvTranspose2d(4, 4, 3, groups=4)) == channel_axis(nn.Conv2d(4, 4, 3)) == 0
    assert channel_axis(nn.Linear(2, 3)) == 0


def test_an_optional_rule_may_match_nothing():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"optional=False\) matches no layer"):
        resolve(model, [Rule("*shortcut*")], "twn")
    found = resolve(model, [Rule("*shortcut*", optional=True), Rule("2", "twn")], "twn")
    assert [one.method for one in found] == [None, "twn", "twn"]
