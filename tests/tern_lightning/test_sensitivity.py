"""What a layer alone costs, against networks that are changed by hand."""

import copy
import io
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from tern_lightning import Rule, Sensitivity, sensitivity
from tern_lightning.layer_sensitivity import LayerCost
from tests.tern_lightning.training_nets import Net, samples


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))


def data(count=3):
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 6, generator=random), torch.randint(0, 3, (16,), generator=random)) for _ in range(count)]


def loss(module, batch):
    logits = module(batch[0])
    return F.cross_entropy(logits, batch[1]), {"right": (logits.argmax(1) == batch[1]).float().mean()}


def by_hand(module, batches):
    return float(np.mean([loss(module, batch)[0].item() for batch in batches]))


def twn(weight):
    size = np.abs(weight)
    keep = size > 0.7 * size.mean()
    return np.sign(weight) * keep * size[keep].mean()


def pruned(weight, share):
    count = int(share * weight.size + 1e-9)
    bound = np.sort(np.abs(weight).ravel())[count - 1]
    return np.where(np.abs(weight) > bound, weight, 0)


def test_costs_are_those_of_networks_changed_by_hand():
    made, batches = net(), data()
    before = copy.deepcopy(made.state_dict())
    found = sensitivity(made, iter(batches), zeros=[0.25, 0.75], loss=loss, progress=False)
    assert found.loss == pytest.approx(by_hand(made, batches))
    assert [(one.path, one.change) for one in found.costs] == [
        (path, change) for path in "024" for change in ("twn", "25% zeros", "75% zeros")
    ]
    for one in found.costs:
        other = copy.deepcopy(made)
        weight = other[int(one.path)].weight
        value = weight.detach().numpy()
        weight.data = torch.from_numpy(twn(value) if one.asked is None else pruned(value, one.asked)).float()
        assert one.loss == pytest.approx(by_hand(other, batches), rel=1e-5)
        assert one.zeros == pytest.approx((weight == 0).float().mean().item())
        assert (one.weights, list(one.metrics)) == (value.size, ["right"])
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert made.training


def test_rules_and_options_say_how_and_only_the_first_batches_count():
    made, batches = net(), data()
    rules = [Rule("2", "absmean"), Rule("4", "twn", options={"factor": 0.0})]
    found = sensitivity(made, batches, rules=rules, zeros=[], loss=loss, batches=1, progress=False)
    assert [(one.path, one.method) for one in found.costs] == [("2", "absmean"), ("4", "twn")]
    assert found.costs[1].zeros == 0
    assert found.loss == pytest.approx(by_hand(made, batches[:1]))


def test_batch_normalization_is_that_of_the_changed_network():
    made = Net()
    batches = [tuple(part) for part in zip(*(one.split(8) for one in samples(16)), strict=True)]
    found = sensitivity(made, batches, zeros=[], rules=[Rule("body.0", "twn")], progress=False)
    other = copy.deepcopy(made)
    other.body[0].weight.data = torch.from_numpy(twn(other.body[0].weight.detach().numpy())).float()
    for layer in other.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    for x, _ in batches:
        other(x)
    other.eval()
    assert found.costs[0].loss == pytest.approx(
        float(np.mean([F.cross_entropy(other(x), y).item() for x, y in batches]))
    )
    kept = sensitivity(made, batches, zeros=[], rules=[Rule("body.0", "twn")], batch_norm=False, progress=False)
    assert kept.costs[0].loss != pytest.approx(found.costs[0].loss, abs=1e-4)


def test_a_second_call_goes_on_where_the_first_one_stopped(tmp_path):
    made, batches, path, calls = net(), data(1), tmp_path / "costs.json", []

    def counted(module, batch):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return loss(module, batch)

    with pytest.raises(KeyboardInterrupt):
        sensitivity(made, batches, zeros=[0.5], loss=counted, file=path, progress=False)
    whole = sensitivity(made, batches, zeros=[0.5], loss=counted, file=path, progress=False)
    assert len(calls) == 5 + 1 + 3  # three changes were known
    assert whole == sensitivity(made, batches, zeros=[0.5], loss=loss, progress=False) == Sensitivity.load(path)
    made[0].weight.data.mul_(2)
    other = sensitivity(made, batches, zeros=[0.5], loss=loss, file=path, progress=False)
    assert other == sensitivity(made, batches, zeros=[0.5], loss=loss, progress=False)


def result(rises, weights=None):
    sizes = weights or [100] * len(rises)
    costs = [
        LayerCost(str(i), n, "twn", None, 0.4, 1 + rise, {})
        for i, (rise, n) in enumerate(zip(rises, sizes, strict=True))
    ]
    return Sensitivity("Net", 1.0, {}, tuple(costs))


@pytest.mark.parametrize(
    ("rises", "weights", "costly"),
    [
        ([0.1] * 20, None, []),
        ([0.1] * 19 + [0.9], None, ["19"]),
        ([0.1] * 19 + [0.9], [100] * 19 + [10000], []),  # most of the weights
        ([0.01] * 10 + [0.05] * 20, None, []),  # none is much of the whole
        ([0.1] * 18 + [2.0, 0.9], [100] * 18 + [100, 10], ["19", "18"]),  # the dearest for its size first
        ([0.0] * 3 + [-0.1], None, []),
        ([], None, []),
    ],
)
def test_layers_cost_too_much_by_the_stated_rule(rises, weights, costly):
    assert list(result(rises, weights).costly()) == costly


def test_the_reason_has_the_numbers():
    assert result([0.1] * 19 + [0.9]).costly() == {"19": "costs too much: loss +0.9, 32% of all layers'"}


def test_the_result_is_a_table_a_plot_and_json(tmp_path):
    found = sensitivity(net(), data(), zeros=[0.5], loss=loss, progress=False)
    console = Console(width=120, file=io.StringIO())
    console.print(found)
    text = console.file.getvalue()
    for one in found.costs:
        assert f"{one.loss - found.loss:+.4f} ({one.metrics['right']:.4g})" in text
    figure = found.plot(tmp_path / "costs.svg")
    assert (tmp_path / "costs.svg").read_text().count("<svg") == 1
    offsets = [group.get_offsets() for group in figure.axes[0].collections]
    assert [len(one) for one in offsets] == [3, 3]
    assert offsets[0][1][0] == pytest.approx(found.costs[2].loss - found.loss)
    assert Sensitivity.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"zeros": [1.0]}, ValueError, r"zeros must be shares in \(0, 1\), got \[1.0\]"),
        ({"batches": 0}, ValueError, "batches must be at least 1, got 0"),
        ({"data": []}, ValueError, "at least one"),
        ({"data": torch.zeros(3, 6)}, TypeError, "got one array"),
        ({"loss": None}, ValueError, "loss must be given for a Sequential"),
    ],
)
def test_what_cannot_be_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        sensitivity(net(), **{"data": data(), "loss": loss, "progress": False, **change})


@pytest.mark.parametrize("value", [{}, {"format": "tern-sensitivity", "version": 2}])
def test_other_json_is_refused(value, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match="must have format 'tern-sensitivity'"):
        Sensitivity.load(path)


def test_damaged_json_is_refused():
    damaged = {**result([0.1]).to_dict(), "costs": [{"path": 3}]}
    with pytest.raises(ValueError, match="is damaged"):
        Sensitivity.from_dict(damaged)
