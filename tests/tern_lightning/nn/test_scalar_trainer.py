"""Levels and thresholds that are trained besides the weights: their updates, and who sees them."""

import itertools

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tern_lightning import EntropyConstraint, Rule, TernaryCallback
from tern_lightning.nn.ternary_layers import swapped_layers
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.training_nets import Loader, Net

LAYERS = ["body.0", "body.3", "hidden"]


def ternary(method="ttq", **options):
    return TernaryCallback(method, **{"verbose": False, "freeze": None, **options})


def scalars(net):
    return {
        f"{path}.{name}": value.detach().clone()
        for path, layer in swapped_layers(net)
        for name, value in layer._ternary_state.quantizer.trained.items()
    }


class NoNorm(Net):
    """Without batch normalization the gradient of a batch is the mean over its parts."""

    def __init__(self, **options):
        super().__init__(**options)
        self.body[1] = self.body[4] = nn.Identity()


class Plain(NoNorm):
    """Gradient descent without momentum, and with Nesterov's."""

    def configure_optimizers(self):
        if self.hparams.optimizer == "adam":
            return super().configure_optimizers()
        return torch.optim.SGD(self.parameters(), self.hparams.lr, weight_decay=1e-3, **SGD[self.hparams.optimizer])


SGD = {"sgd": {"momentum": 0.9}, "plain": {}, "nesterov": {"momentum": 0.8, "nesterov": True}}


@pytest.mark.parametrize("optimizer", ["sgd", "plain", "nesterov", "adam"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_updates_are_those_of_torch(optimizer, accumulate, fit, make_net):
    """Three steps against torch's own optimizer on levels that a plain network computes with."""
    net = make_net(Plain, optimizer=optimizer, lr=0.003)
    twin = make_net(NoNorm)
    twin.load_state_dict(net.state_dict())
    own = ternary(options={"rate": 0.5})
    fit(own, net=net, max_epochs=-1, max_steps=3, accumulate_grad_batches=accumulate, loader=lambda batch=8: Loader(8))

    methods = {path: get_quantizer("ttq") for path in LAYERS}
    for path, method in methods.items():
        method.begin(twin.get_submodule(path).weight, path == "body.3")
    levels = [level for method in methods.values() for level in method.trained.values()]
    weights = list(twin.parameters())
    if optimizer == "adam":
        outer, inner = torch.optim.Adam(weights, 0.003), torch.optim.Adam(levels, 0.0015)
    else:
        outer = torch.optim.SGD(weights, 0.003, weight_decay=1e-3, **SGD[optimizer])
        inner = torch.optim.SGD(levels, 0.0015, **SGD[optimizer])
    batches = iter(list(Loader(8)) * 2)
    for _ in range(3):
        outer.zero_grad()
        inner.zero_grad()
        for _ in range(accumulate):
            x, y = next(batches)
            forward = {
                path: method(twin.get_submodule(path).weight, int(path == "body.3")) for path, method in methods.items()
            }
            replaced = {f"{path}.weight": weight for path, weight in forward.items()}
            (F.cross_entropy(torch.func.functional_call(twin, replaced, (x,)), y) / accumulate).backward()
        inner.step()
        outer.step()
    for (name, value), expected in zip(scalars(net).items(), levels, strict=True):
        torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-6, msg=name)
    for a, b in zip(net.parameters(), weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Blobs(pl.LightningModule):
    """Four linear layers without normalization, gradient descent without momentum."""

    def __init__(self):
        super().__init__()
        sizes = [20, 64, 64, 64, 4]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.net = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
        random = torch.Generator().manual_seed(0)
        centers = 1.2 * torch.randn(4, 20, generator=random)
        self.y = torch.randint(0, 4, (512,), generator=random)
        self.x = centers[self.y] + 0.7 * torch.randn(512, 20, generator=random)

    def training_step(self, index, batch_idx):
        return F.cross_entropy(self.net(self.x[index]), self.y[index])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.2)

    def accuracy(self):
        with torch.no_grad():
            return (self.net.eval()(self.x).argmax(1) == self.y).float().mean().item()


@pytest.mark.parametrize("method", ["twn", "ttq", "tga", "ec2t", "seq"])
def test_levels_do_not_run_away_under_plain_gradient_descent(method, make_net, make_trainer):
    net = make_net(Blobs)
    batches = [torch.randperm(512, generator=torch.Generator().manual_seed(i))[:32] for i in range(240)]
    make_trainer(TernaryCallback(method, verbose=False), max_epochs=1).fit(net, batches)
    assert net.accuracy() > 0.9  # 0.28 where levels run away
    for _, layer in swapped_layers(net):
        top = layer.weight.abs().max()
        assert layer.ternary().positive.max() < 2 * top


def test_nobody_else_sees_them(fit):
    trainer, net = fit(ternary(), max_epochs=1)
    assert scalars(net).keys() == {f"{path}.{sign}" for path in LAYERS for sign in ("negative", "positive")}
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in Net().named_parameters()]
    assert net.state_dict().keys() == Net().state_dict().keys()
    assert sum(len(group["params"]) for group in trainer.optimizers[0].param_groups) == len(list(net.parameters()))


def test_they_start_when_ternary_training_does_and_rest_after_the_freeze(fit):
    class Watch(pl.Callback):
        def __init__(self):
            self.found = []

        def on_train_batch_end(self, trainer, pl_module, *args):
            self.found.append(scalars(pl_module))

    watch = Watch()
    fit(ternary(start=1, freeze=3), watch)
    assert [len(found) for found in watch.found] == [0] * 4 + [6] * 16
    assert all(a != b for a, b in zip(watch.found[4:11], watch.found[5:12], strict=True))
    assert all(found == watch.found[12] for found in watch.found[12:])


@pytest.mark.parametrize("limit", [None, 1e-3])
def test_penalty_and_limit(limit, fit, make_net, monkeypatch):
    """The first step of SGD moves a level by lr * gradient."""
    from tern_lightning.quantizers.ttq import TTQ

    monkeypatch.setattr(TTQ, "gradient_limit", limit)
    net = make_net(optimizer="sgd", lr=0.1)
    start = {
        path: get_quantizer("ttq").initial(net.get_submodule(path).weight.detach(), path == "body.3") for path in LAYERS
    }
    fit(ternary(), net=net, max_epochs=-1, max_steps=1)
    plain = scalars(net)
    moves = {f"{path}.{name}": plain[f"{path}.{name}"] - start[path][name] for path in LAYERS for name in start[path]}
    if limit is not None:
        assert max(move.abs().max() for move in moves.values()) == pytest.approx(0.1 * limit, rel=1e-2)
    monkeypatch.setattr(TTQ, "penalty", lambda self, *_: 3 * self.trained["positive"].sum())
    again = make_net(optimizer="sgd", lr=0.1)
    fit(ternary(), net=again, max_epochs=-1, max_steps=1)
    for name, value in scalars(again).items():
        expected = 0.1 * 3 if name.endswith("positive") else 0.0
        floor = 0.05 * again.get_submodule(name.rsplit(".", 1)[0]).weight.abs().mean().item()
        # A level that would fall below the floor stays at about it.
        fell = (plain[name] - value).item()
        assert fell == pytest.approx(expected, rel=1e-3, abs=1e-6) or value.item() == pytest.approx(floor, rel=0.2)


def test_loss_scale_is_undone_and_an_overflow_moves_nothing():
    from tern_lightning.nn.layer_state import LayerState
    from tern_lightning.nn.scalar_trainer import ScalarTrainer
    from tern_lightning.nn.swap import swap

    layer = nn.Linear(8, 4)
    swap(layer, LayerState(get_quantizer("ttq"), 0, "ternary"))
    method = layer._ternary_state.quantizer
    method.begin(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    before = {name: value.detach().clone() for name, value in method.trained.items()}

    class Scaler:
        def get_scale(self):
            return 4.0

    own = ScalarTrainer()
    method.trained["positive"].grad = torch.tensor([float("inf")])
    own.step(optimizer, {"x": layer}, scaler=Scaler())
    assert own.state() == {}
    assert all(torch.equal(before[name], value) for name, value in method.trained.items())
    method.trained["negative"].grad = torch.tensor([-0.4])
    own.step(optimizer, {"x": layer}, scaler=Scaler())
    assert method.trained["negative"].item() == pytest.approx(before["negative"].item() + 0.1 * 0.1)
    assert all(value.grad is None for value in method.trained.values())
    # Layers of other optimizers are left alone.
    method.trained["negative"].grad = torch.tensor([-0.4])
    own.step(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), {"x": layer})
    assert method.trained["negative"].grad is not None


def test_fit_twice_goes_on(fit, make_net):
    _, net = fit(ternary())
    before = scalars(net)

    class First(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, *args):
            if trainer.global_step == 0:
                self.found = scalars(pl_module)

    first = First()
    fit(ternary(), first, net=net)
    assert first.found == before
    fit(ternary("twn"), first, net=net)
    assert first.found == {}
    # Another granularity starts anew.
    fit(ternary(options={"per_channel": True}), first, net=net)
    assert {tuple(value.shape) for value in first.found.values()} == {(6,), (8,)}


class Levels(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(scalars(pl_module), self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.parametrize("method", ["ec2t", "seq", "tga", "ttq"])
def test_two_processes_train_what_one_does(method, fit, make_net, tmp_path):
    import torch.distributed as dist

    class Shared(Loader):
        def __iter__(self):
            rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
            return ((x.chunk(size)[rank], y.chunk(size)[rank]) for x, y in super().__iter__())

    rules = [Rule("hidden", method), Rule("body.0", "twn"), Rule("body.3", "ttq", options={"per_channel": True})]
    one, two = make_net(NoNorm, optimizer="sgd"), make_net(NoNorm, optimizer="sgd")
    more = [EntropyConstraint(0.1)] if method == "ec2t" else []
    fit(ternary(rules=rules), *more, net=one, loader=Shared, max_epochs=3)
    split = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    fit(ternary(rules=rules), *more, Levels(tmp_path), net=two, loader=Shared, max_epochs=3, **split)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, expected in scalars(one).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
        path, scalar = name.rsplit(".", 1)
        quantizer = get_quantizer("ttq", per_channel=True) if path == "body.3" else get_quantizer(method)
        start = quantizer.initial(make_net(NoNorm).get_submodule(path).weight.detach(), int(path == "body.3"))
        assert not torch.equal(first[name], start[scalar])
