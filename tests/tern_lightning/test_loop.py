"""Ternary training without a Trainer."""

import copy
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tern_lightning
from tern_lightning import Rule, freeze, ternarize, to_plain
from tern_lightning.loop import set_progress
from tern_lightning.nn import layer_types as kinds
from tern_lightning.nn.activation_quantizer import InputFakeQuantizer
from tern_lightning.nn.learned_input import MultiLevelInput
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.nn.weight_mask import prune


def make(hidden=2):
    torch.manual_seed(0)
    middle = [part for _ in range(hidden) for part in (nn.Linear(8, 8), nn.ReLU())]
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *middle, nn.Linear(8, 2))


def train(net, optimizer, steps=12, each=None):
    random = torch.Generator().manual_seed(1)
    for step in range(steps):
        x = torch.randn(16, 4, generator=random)
        optimizer.zero_grad()
        F.cross_entropy(net(x), (x.sum(1) > 0).long()).backward()
        optimizer.step()
        if each:
            each(step)


class ByHand(nn.Linear):
    """Ternary weight networks, written independently of the package."""

    def forward(self, x):
        weight = self.weight.detach()
        kept = weight.abs() > 0.7 * weight.abs().mean()
        values = kept * weight.sign() * weight[kept].abs().mean()
        return F.linear(x, self.weight + (values - weight), self.bias)


def test_a_loop_trains_as_one_written_by_hand():
    net, twin = make(), make()
    for index in (2, 4):
        twin[index].__class__ = ByHand
    decisions = ternarize(net)
    assert [one.method for one in decisions] == [None, "twn", "twn", None]
    for one in (net, twin):
        train(one, torch.optim.SGD(one.parameters(), 0.1, momentum=0.9))
    for own, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)
    assert list(net.state_dict()) == list(twin.state_dict())
    assert len(net.state_dict()["2.weight"].unique()) == 3


def test_frozen_codes_stay_and_levels_are_the_mean():
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    ternarize(net, optimizer=optimizer)
    train(net, optimizer)
    freeze(net)
    codes = {path: layer.ternary().codes for path, layer in ternary_layers(net).items()}
    level = net[2].ternary().positive.clone()
    train(net, optimizer)
    freeze(net)  # nothing is left to do
    for path, layer in ternary_layers(net).items():
        assert torch.equal(layer.ternary().codes, codes[path])
    kept = codes["2"][0] != 0
    torch.testing.assert_close(net[2].ternary().positive.item(), net[2].weight[kept].abs().mean().item())
    assert net[2].ternary().positive != level


def test_shared_weights_are_frozen_once():
    net = make()
    net[4].weight = net[2].weight
    ternarize(net)
    freeze(net)
    assert net[2]._ternary_state is net[4]._ternary_state
    assert torch.equal(net[2].ternary().codes, net[4].ternary().codes)


def beside_tests(stored: bytes) -> bytes:
    """A pickle without the names of the tests' own modules, which have the package's name in them."""
    return stored.replace(b"tests.tern_lightning", b"")


@pytest.mark.parametrize("method", ["ttq", "tga"])
def test_levels_are_trained_with_the_optimizer(method):
    net = make()
    with pytest.raises(ValueError, match="trains levels besides the weight: give the optimizer"):
        ternarize(make(), method)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    ternarize(net, method, optimizer=optimizer)
    scalars = {name: value.clone() for name, value in net[2]._ternary_state.quantizer.trained.items()}
    train(net, optimizer)
    moved = net[2]._ternary_state.quantizer.trained
    assert all(not torch.equal(moved[name], value) for name, value in scalars.items())
    assert all(value.grad is None for value in moved.values())
    assert len(list(net.parameters())) == len(list(make().parameters()))


def test_a_second_call_takes_the_place_of_the_first():
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    ternarize(net, "ttq", optimizer=optimizer)
    ternarize(net, "absmean", [Rule("2")], optimizer=optimizer)
    train(net, optimizer, 2)
    assert list(ternary_layers(net)) == ["4"]
    assert type(net[2]) is nn.Linear


def test_progress_reaches_methods_that_follow_a_schedule():
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    ternarize(net, "hestia", optimizer=optimizer)
    train(net, optimizer, 4, lambda step: set_progress(net, (step + 1) / 4))
    assert net[2]._ternary_state.quantizer.progress == 1
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 2"):
        set_progress(net, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"method": "tern"}, ValueError, "method must be one of"),
        ({"rules": ["2"]}, TypeError, "rules must be a list"),
        ({"options": ["per_channel"]}, TypeError, "options must be a dictionary"),
        ({"method": "tga", "options": {"two_pass": True}}, ValueError, "needs TernaryCallback; HINT: two_pass=False"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        ternarize(make(), **arguments)


def test_nothing_to_freeze():
    with pytest.raises(ValueError, match="Sequential has no ternary layer; HINT: ternarize"):
        freeze(make())


def test_fabric():
    from lightning.fabric import Fabric

    net, twin = make(), make()
    fabric = Fabric(accelerator="cpu", devices=1)
    for own, other in ((net, None), (twin, fabric)):
        optimizer = torch.optim.SGD(own.parameters(), 0.1)
        ternarize(own, "ttq", optimizer=optimizer)
        train(*(other.setup(own, optimizer) if other else (own, optimizer)))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    trained = net[2]._ternary_state.quantizer.trained
    assert all(torch.equal(value, twin[2]._ternary_state.quantizer.trained[name]) for name, value in trained.items())


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.last(self.encoder(self.first(x)).mean(1))


@pytest.mark.parametrize("make_net", [make, Attends])
@pytest.mark.parametrize("frozen", [False, True])
def test_plain_copies_compute_the_same_in_every_tool(make_net, frozen):
    torch.manual_seed(0)
    net = make_net()
    x = torch.randn(3, 4) if make_net is make else torch.randn(3, 5, 8)
    ternarize(net, "absmean", options={"per_channel": True})
    if frozen:
        freeze(net)
    latent = copy.deepcopy(dict(net.named_parameters()))
    plain = to_plain(net.eval())
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(plain(x), expected)
        torch.testing.assert_close(torch.jit.trace(plain, x)(x), expected)
        torch.testing.assert_close(torch.export.export(plain, (x,)).module()(x), expected)
    if make_net is make:
        torch.testing.assert_close(torch.jit.script(plain)(x), expected)
    stored = pickle.dumps(plain)
    assert b"tern_lightning" not in beside_tests(stored)
    torch.testing.assert_close(pickle.loads(stored)(x), expected)
    # The module goes on as it was.
    assert all(torch.equal(value, latent[name]) for name, value in net.named_parameters())
    assert ternary_layers(net)
    assert not ternary_layers(plain)


def test_plain_copies_keep_or_drop_rounded_inputs():
    net = make()
    ternarize(net)
    eight = InputFakeQuantizer(8)
    eight.set_bounds(torch.tensor(-1.0), torch.tensor(1.0))
    levels = MultiLevelInput(2, False, False)
    levels.start(torch.tensor([8.0, 8.0]))
    net[2].register_forward_pre_hook(eight)
    net[4].register_forward_pre_hook(levels)
    x = torch.randn(6, 4)
    plain, bare = to_plain(net), to_plain(net, activations=False)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), net(x))
        torch.testing.assert_close(torch.jit.trace(plain, x)(x), net(x))
        assert not torch.equal(bare(x), net(x))
    assert b"tern_lightning" not in beside_tests(pickle.dumps(bare))


def test_pruned_weights_are_zero_in_the_copy():
    net = make()
    keep = torch.arange(64).reshape(8, 8) % 2 == 0
    prune(net[2], keep)
    ternarize(net)
    plain = to_plain(net)
    assert not plain[2].weight[~keep].any()
    assert vars(plain[2]).keys() == vars(make()[2]).keys()


def test_the_documentation_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kinds, "_KINDS", dict(kinds._KINDS))
    text = (Path(tern_lightning.__file__).parents[1] / "docs" / "without-a-trainer.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert (tmp_path / "ternary.pt").is_file()
    assert {"twn", "ttq"} <= set(re.findall(r'ternarize\(net, "(\w+)"', text))


def test_a_module_that_lightning_has_trained(fit, make_net):
    _, net = fit(tern_lightning.TernaryCallback(), net=make_net(), max_epochs=2)
    net.eval()
    plain, x = to_plain(net), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(plain(x), net(x))
        assert torch.equal(torch.jit.trace(plain, x)(x), net(x))
        assert torch.equal(torch.jit.script(plain)(x), net(x))
    assert b"tern_lightning" not in beside_tests(pickle.dumps(plain))
