"""Every checkpoint of the ternary phases is ternary, whatever the module does to its parameters during a run."""

import copy

import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tern_lightning import TernaryCallback
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.training_nets import Net, Save, samples

LAYERS = ("body.0", "body.3", "hidden")
TERNARY, FROZEN = 2, 4


def ternary(method="twn", **options):
    return TernaryCallback(method, **{"verbose": False, "start": 1, "freeze": 0.6, "bn_batches": 2, **options})


def noise(net):
    return [torch.randn(p.shape, generator=torch.Generator().manual_seed(5)) for p in net.parameters()]


def load_float(net):
    net.load_state_dict(net.first)


def load_ternary(net):
    net.load_state_dict(net.early)


def assign(net):
    net.load_state_dict(copy.deepcopy(net.first), assign=True)


def data(net):
    for parameter, value in zip(net.parameters(), noise(net), strict=True):
        parameter.data = value


def copy_data(net):
    load_ternary(net)
    for parameter, value in zip(net.parameters(), noise(net), strict=True):
        parameter.data.copy_(value)


def vector(net):
    vector_to_parameters(parameters_to_vector(noise(net)), net.parameters())


class Writing(Net):
    """Overwrites its parameters at the beginning of an epoch, or averages them for every validation."""

    write, epoch = None, -1

    def on_train_start(self):
        self.first = copy.deepcopy(self.state_dict())

    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            self.early = {name: value.clone() for name, value in self.state_dict().items()}
        if self.current_epoch == self.epoch:
            self.write()


def assert_all_ternary(folder, first=6):
    paths = [path for path in folder.glob("*.ckpt") if torch.load(path, weights_only=True)["global_step"] >= first]
    assert len(paths) > 10
    for path in paths:
        saved = torch.load(path, weights_only=True)
        assert saved["callbacks"][ternary().state_key]["phase"] != "float"
        for layer in LAYERS:
            values = saved["state_dict"][f"{layer}.weight"]
            for row in (values > 0, values < 0):
                assert len(values[row].unique()) <= 1, (path.name, layer)


@pytest.mark.parametrize("write", [load_float, load_ternary, assign, data, copy_data, vector])
@pytest.mark.parametrize("epoch", [TERNARY, FROZEN])
def test_every_checkpoint_is_ternary(write, epoch, fit, make_net, tmp_path):
    net = make_net(Writing)
    net.write, net.epoch = write.__get__(net), epoch
    fit(ternary(), Save(tmp_path), net=net)
    assert_all_ternary(tmp_path)
    assert set(ternary_layers(net)) == set(LAYERS)
    assert all(parameter.isfinite().all() for parameter in net.parameters())


class Averaging(Net):
    """Validates with a moving average of its own weights, and goes on with the weights themselves."""

    by = "state_dict"

    def numbers(self):
        own = self.state_dict() if self.by == "state_dict" else dict(self.named_parameters())
        return {name: value.detach().clone() for name, value in own.items()}

    def put(self, values):
        if self.by == "state_dict":
            self.load_state_dict(values)
        else:
            for name, parameter in self.named_parameters():
                parameter.data.copy_(values[name])

    def on_train_batch_end(self, *args):
        now, before = self.numbers(), getattr(self, "average", None)
        self.average = now if before is None else {n: (0.5 * before[n] + 0.5 * now[n]).to(v) for n, v in now.items()}

    def on_validation_start(self):
        self.kept = self.numbers()
        self.put(self.average)

    def on_validation_end(self):
        self.put(self.kept)


@pytest.mark.parametrize("by", ["state_dict", "parameters"])
def test_average_for_validation(by, fit, make_net, tmp_path):
    net = make_net(Averaging)
    net.by = by
    if by == "state_dict":
        with pytest.warns(UserWarning, match="ternary weights were loaded during training"):
            fit(ternary(freeze=0.8), Save(tmp_path), net=net)
    else:
        fit(ternary(freeze=0.8), Save(tmp_path), net=net)
    assert_all_ternary(tmp_path)
    assert set(ternary_layers(net)) == set(LAYERS)


@pytest.mark.parametrize("method", ["absmean", "ttq", "tequila", "tga"])
def test_best_weights_that_are_loaded_when_training_ends_are_the_network(method, fit, make_net, tmp_path):
    """The usual ``load_state_dict(best)`` at the end: exactly those weights, in the module and in checkpoints."""

    class Best(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == 3:
                self.best = {name: value.clone() for name, value in self.state_dict().items()}

        def on_train_end(self):
            self.load_state_dict(self.best)

    trainer, net = fit(ternary(method, freeze=None), net=make_net(Best))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(net.best[name], value) for name, value in saved.items())
    plain = Net()
    plain.load_state_dict(net.best)
    with torch.no_grad():
        assert torch.equal(plain.eval()(samples()[0]), net.eval()(samples()[0]))


@pytest.mark.parametrize("method", ["absmean", "hestia", "ec2t", "seq", "sherry", "ttq", "twn", "tequila"])
def test_training_goes_on_from_ternary_weights_that_were_loaded(method, fit, make_net):
    """The first batch after ``load_state_dict`` computes what was loaded."""
    found = {}

    class Back(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == 2:
                self.best = {name: value.clone() for name, value in self.state_dict().items()}
            if self.current_epoch == 4:
                self.load_state_dict(self.best)

        def on_before_zero_grad(self, optimizer):
            if self.current_epoch == 4 and not found:
                found.update({name: value.clone() for name, value in self.state_dict().items()})

    with pytest.warns(UserWarning, match="were loaded during training"):
        _, net = fit(ternary(method, freeze=None), net=make_net(Back))
    for path in LAYERS:
        for name in (f"{path}.weight", f"{path}.bias"):
            torch.testing.assert_close(found[name], net.best[name], rtol=1e-4, atol=1e-6)


def test_a_loaded_weight_outside_a_run_is_used_as_it_is_until_it_is_trained():
    layer = torch.nn.Linear(8, 4)
    swap(layer, LayerState(get_quantizer("absmean"), 0, "ternary"))
    values = torch.tensor([1.0, 0.0, -1.0, 1.0]).repeat(4, 2)
    layer.load_state_dict({"weight": values, "bias": torch.zeros(4)})
    assert torch.equal(layer.state_dict()["weight"], values)
    layer.eval()(torch.randn(2, 8)).sum().backward()
    assert torch.equal(layer.state_dict()["weight"], values)
    layer.train()(torch.randn(2, 8)).sum().backward()
    assert torch.equal(layer.state_dict()["weight"].unique(), torch.tensor([-0.75, 0.0, 0.75]))
