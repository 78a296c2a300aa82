"""Ternary weights without training, against convolutions computed by torch and statistics computed by hand."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tern_lightning import Rule, post_training
from tern_lightning.after_training import _patches, _products
from tern_lightning.exporter.prepare import find_ternary


def net():
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 12, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip
    for layer in made:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    made(images())
    return made


def images(count=48):
    """Smooth ones, so that neighbors depend on each other."""
    coarse = torch.randn(count, 2, 4, 3, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (9, 7), mode="bilinear")


CONVOLUTIONS = [
    {"kernel_size": 3}, {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2)}, {"kernel_size": 3, "dilation": 2},
    {"kernel_size": 3, "groups": 2, "padding": 1}, {"kernel_size": 1, "groups": 4},
    {"kernel_size": 3, "padding": "same"}, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
]  # fmt: skip


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_patches_by_the_weight_are_the_convolution(options):
    layer, x = nn.Conv2d(4, 8, **options), torch.randn(3, 4, 9, 8)
    rows = layer.weight.reshape(layer.groups, 8 // layer.groups, -1)
    found = torch.cat(list(_patches(layer, x) @ rows.mT), 1) + layer.bias
    assert torch.allclose(found, layer(x).permute(0, 2, 3, 1).reshape(-1, 8), atol=1e-5)


def test_patches_of_signals():
    layer, x = nn.Conv1d(4, 6, 5, stride=2, padding=3, dilation=2, groups=2), torch.randn(2, 4, 31)
    rows = layer.weight.reshape(2, 3, -1)
    found = torch.cat(list(_patches(layer, x) @ rows.mT), 1) + layer.bias
    assert torch.allclose(found, layer(x).permute(0, 2, 1).reshape(-1, 6), atol=1e-5)


def test_long_data_is_thinned_evenly(monkeypatch):
    monkeypatch.setattr("tern_lightning.after_training.POSITIONS", 8)
    x = torch.arange(32.0)[:, None]
    parts = [x[:16], x[16:]]
    (gram,) = _products(nn.Linear(1, 2), torch.zeros(2, 1), parts, parts)
    assert gram.item() == sum(value**2 for value in range(0, 32, 4))


@pytest.mark.parametrize("zeros", [None, 0.5, 0.8])
def test_outputs_are_kept_better_than_by_rounding(zeros):
    reference = net().eval()
    wanted = reference(images())
    errors = {}
    for fit in (False, True):
        made = copy.deepcopy(reference)
        found = post_training(made, images(), options={"per_channel": True}, zeros=zeros, fit=fit)
        assert list(found) == ["3", "6"]
        errors[fit] = (made(images()) - wanted).square().mean().item()
        ternary = find_ternary(made)
        for path, one in found.items():
            assert torch.equal(ternary[path].dequantize(), one.ternary.dequantize())
            assert one.error < one.rounded if fit else one.error == one.rounded
            if zeros is not None:
                assert one.ternary.sparsity() >= zeros
        assert not made.training
    assert errors[True] < (1.1 if zeros is None else 0.8) * errors[False]


def test_the_error_is_that_of_the_layer_s_outputs():
    made = net().eval()
    before = copy.deepcopy(made)
    found = post_training(made, images(), rules=[Rule("3", "twn")], batch_norm=False)
    x = before[:3](images())
    for pair, layer in ((found["3"].error, made[3]), (found["3"].rounded, None)):
        if layer is None:
            continue
        bias = before[3].bias[:, None, None]
        wanted, got = before[3](x) - bias, layer(x) - bias
        assert pair == pytest.approx(((wanted - got).square().sum() / wanted.square().sum()).sqrt().item(), rel=1e-3)


@pytest.mark.parametrize("zeros", [None, 0.5])
def test_layers_make_up_for_those_before_them(zeros, monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU()) for _ in range(8)]
    reference, x = nn.Sequential(*layers, nn.Linear(24, 3)), torch.randn(512, 24)
    for _ in range(50):
        reference(x)
    wanted, errors = reference.eval()(x), []
    for ridge in (1e9, 0.01):  # the first one holds every weight to the float one
        monkeypatch.setattr("tern_lightning.after_training.RIDGE", ridge)
        made = copy.deepcopy(reference)
        post_training(made, x, options={"per_channel": True}, zeros=zeros)
        errors.append((made(x) - wanted).square().mean().item())
    assert errors[1] < 0.95 * errors[0]


def test_data_may_come_in_another_order_every_time():
    def loader(shuffle):
        random = torch.Generator().manual_seed(4)
        return DataLoader(TensorDataset(images()), 12, shuffle=shuffle, generator=random)

    one, other = net(), net()
    ordered, shuffled = (
        post_training(made, loader(shuffle), batch_norm=False) for made, shuffle in ((one, False), (other, True))
    )
    for path, found in ordered.items():
        assert shuffled[path].error == pytest.approx(found.error, rel=0.05)


def test_statistics_are_those_of_the_ternary_network():
    made = net()
    made[7].momentum = 0.25
    post_training(made, [images()[:24], images()[24:]])
    assert made.training  # as it was
    assert made[7].momentum == 0.25
    made.eval()
    made[1].training = made[4].training = True  # by the batch, as while statistics were gathered
    parts = [made[:7](part) for part in (images()[:24], images()[24:])]
    assert torch.allclose(made[7].running_mean, sum(part.mean((0, 2, 3)) for part in parts) / 2, atol=1e-5)
    kept = net()
    mean = kept[7].running_mean.clone()
    post_training(kept, images(), batch_norm=False)
    assert torch.equal(kept[7].running_mean, mean)


def test_layers_are_taken_in_the_order_in_which_they_run():
    class Backward(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.third, self.second, self.first = (nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            return self.last(self.third(self.second(self.first(x)).relu()).relu())

    lines = []
    rules = [Rule("second", "twn"), Rule("third", "twn")]
    found = post_training(Backward(), torch.randn(64, 6), rules=rules, progress=lines.append)
    assert list(found) == ["second", "third"]
    assert [line.partition(":")[0] for line in lines] == ["not ternary", "second", "third"]
    assert "last (" in lines[0]
    assert "first (" in lines[0]


def test_progress_is_logged_where_the_log_is_on(caplog):
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    with caplog.at_level("INFO", "tern_lightning"):
        post_training(net, torch.randn(64, 6))
    assert [line.partition(":")[0] for line in caplog.messages] == ["not ternary", "2"]
    assert caplog.messages[0] == "not ternary: 0 (first layer), 4 (last layer)"


def test_layers_that_nobody_calls_are_fitted_to_the_weight():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.attention, self.last = nn.Linear(8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            x = self.first(x)
            return self.last(self.attention(x, x, x)[0])

    torch.manual_seed(0)
    made = Attention()
    found = post_training(made, [torch.randn(5, 4, 8)], options={"per_channel": True})
    assert set(found) == {"attention", "attention.out_proj"}
    for one in found.values():
        assert one.error <= one.rounded
    assert len(made.attention.out_proj.weight[0].unique()) <= 3


def test_several_terms_come_nearer():
    errors = []
    for terms in (1, 2):
        made = net()
        options = {"terms": terms, "per_channel": True}
        found = post_training(made, images(), "sws", options=options, zeros=0.5)
        assert all(one.ternary.terms == terms and one.ternary.sparsity() >= 0.5 for one in found.values())
        errors.append(sum(one.error for one in found.values()))
        assert torch.allclose(made[3].weight, found["3"].ternary.dequantize())
    assert errors[1] < errors[0]


def test_batches_may_be_pairs_and_modules_may_have_several_inputs():
    pairs = [(images()[:24], torch.zeros(24)), (images()[24:], torch.zeros(24))]
    one, other = net(), net()
    post_training(one, pairs)
    post_training(other, [{"x": x} for x, _ in pairs], forward=lambda module, batch: module(batch["x"]))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zeros": 1.0}, r"zeros must be in \[0, 1\), got 1.0"),
        ({"data": []}, "at least one batch"),
        ({"data": itertools.repeat(0)}, "gone through again"),
        ({"method": "none"}, "none"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(change, message):
    made = net()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(ValueError, match=message):
        post_training(made, **{"data": images(), **change})
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert made.training
