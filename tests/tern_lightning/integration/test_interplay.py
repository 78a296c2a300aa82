"""Ternary training together with the rest of Lightning."""

import copy
import pickle
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import nn

from tern_lightning import Rule, TernaryCallback, TernaryTensor
from tern_lightning.nn.ternary_layers import swapped_layers, ternary_layers
from tests.tern_lightning.training_nets import Loader, Net, Save, samples

LAYERS = {"body.0", "body.3", "hidden"}


def ternary(**options):
    return TernaryCallback(**{"verbose": False, **options})


def logits(net):
    with torch.no_grad():
        return net.eval()(samples()[0])


def assert_plain_agrees(net, rtol=0.0, atol=0.0):
    """The state_dict in a network of its own class computes what the trained one does."""
    assert set(ternary_layers(net)) == LAYERS
    plain = Net(net.hparams.width)
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(logits(plain), logits(net).float(), rtol=rtol, atol=atol)
    for path, layer in swapped_layers(net):
        axis = layer.ternary().channel_axis
        assert TernaryTensor.from_values(plain.get_submodule(path).weight, axis) is not None


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_learns(optimizer, fit, make_net, record):
    net = make_net(optimizer=optimizer)
    trainer, _ = fit(ternary(), net=net, max_epochs=15, logger=record)
    first, last = record.values["train_loss", 0], trainer.callback_metrics["train_loss"].item()
    assert last < 0.7 * first


class NoNorm(Net):
    """Without batch normalization the gradient of a batch is the mean over its parts."""

    def __init__(self, **options):
        super().__init__(**options)
        self.body[1] = self.body[4] = nn.Identity()


def test_accumulation_is_a_larger_batch(fit, make_net):
    _, a = fit(ternary(freeze=0.5), net=make_net(NoNorm, optimizer="sgd"), accumulate_grad_batches=2)
    _, b = fit(ternary(freeze=0.5), net=make_net(NoNorm, optimizer="sgd"), loader=lambda batch=16: Loader(16))
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, msg=name)
    assert torch.equal(a.hidden.ternary().codes, b.hidden.ternary().codes)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed", "64-true"])
def test_precision(precision, fit, make_net):
    net = make_net()
    trainer, _ = fit(ternary(), net=net, precision=precision)
    assert torch.isfinite(trainer.callback_metrics["val_loss"])
    state = net.state_dict()
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    for path, layer in ternary_layers(net).items():
        assert state[f"{path}.weight"].dtype == dtype
        assert torch.equal(layer.ternary().dequantize().to(dtype), state[f"{path}.weight"])
        assert torch.equal(layer.ternary().codes[0], layer._ternary_state.codes)
    if dtype == torch.float32:
        assert_plain_agrees(net)


class NoLog(Net):
    """Lightning's own ``log`` cannot be compiled."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self(batch[0])


@pytest.mark.parametrize("inside", [False, True])
def test_compile(inside, fit, make_net):
    reference = make_net(NoLog)
    fit(ternary(bn_batches=2), net=reference, max_epochs=3)
    net = make_net(NoLog)
    if inside:
        net.body.compile(backend="eager")
    fit(ternary(bn_batches=2), net=net if inside else torch.compile(net, backend="eager"), max_epochs=3)
    assert_plain_agrees(net)
    for a, b in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


class Shared(Loader):
    """Every process gets its part of every batch."""

    def __iter__(self):
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return ((x.chunk(size)[rank], y.chunk(size)[rank]) for x, y in super().__iter__())


def test_two_processes_train_what_one_does(fit, make_net):
    one, two = make_net(NoNorm, optimizer="sgd"), make_net(NoNorm, optimizer="sgd")
    fit(ternary(freeze=0.5), net=one, loader=Shared, max_epochs=4)
    split = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    trainer, _ = fit(ternary(freeze=0.5), net=two, loader=Shared, max_epochs=4, **split)
    assert trainer.callback_metrics["ternary/sparsity"] > 0.1
    assert type(two.hidden) is nn.Linear  # the weights came back from another process
    for path in LAYERS:
        found = TernaryTensor.from_values(two.get_submodule(path).weight, 1 if path == "body.3" else 0)
        expected = one.get_submodule(path).ternary()
        assert torch.equal(found.codes, expected.codes)
        torch.testing.assert_close(found.dequantize(), expected.dequantize(), rtol=1e-4, atol=1e-5)


class Manual(Net):
    """Manual optimization with two optimizers."""

    def __init__(self, width=6):
        super().__init__(width)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            loss = F.cross_entropy(self(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        late = [*self.hidden.parameters(), *self.head.parameters()]
        early = [*self.stem.parameters(), *self.body.parameters()]
        return torch.optim.Adam(early, 0.01), torch.optim.SGD(late, 0.01)


def test_manual_optimization_with_two_optimizers_and_resume(fit, make_net, tmp_path):
    _, net = fit(ternary(bn_batches=2), Save(tmp_path), net=make_net(Manual))
    assert_plain_agrees(net)
    assert torch.equal(net.hidden.ternary().codes[0], net.hidden._ternary_state.codes)
    for step in (8, 24, 28):
        _, again = fit(ternary(bn_batches=2), net=make_net(Manual), ckpt_path=tmp_path / f"step{step}.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


class Tied(pl.LightningModule):
    """Two linear layers with one weight, and an embedding tied to the head."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.words, self.decode = nn.Embedding(3, 8), nn.Linear(8, 3)
        self.decode.weight = self.words.weight
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        hidden = F.relu(self.b(F.relu(self.a(F.relu(self.stem(x.flatten(1)))))))
        return self.out(hidden) + self.decode(hidden + self.words.weight[0])

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)


@pytest.mark.parametrize("freeze", [0.5, None])
def test_tied_weights_are_one(freeze, make_trainer, make_net, capsys, tmp_path):
    net = make_net(Tied)
    make_trainer(ternary(freeze=freeze, verbose=True), Save(tmp_path)).fit(net, Loader())
    assert "64 of" in capsys.readouterr().out  # counted once
    assert net.a.weight is net.b.weight
    assert set(ternary_layers(net)) == {"a", "b"}
    assert net.a._ternary_state is net.b._ternary_state
    plain = Tied.load_from_checkpoint(tmp_path / "epoch4.ckpt")
    assert torch.equal(logits(plain), logits(net))
    again = make_net(Tied)
    make_trainer(ternary(freeze=freeze)).fit(again, Loader(), ckpt_path=tmp_path / "step10.ckpt")
    assert all(torch.equal(x, y) for x, y in zip(net.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("epochs", [2, 5])
def test_copies_of_a_trained_module(copied, epochs, fit):
    _, net = fit(ternary(freeze=3), max_epochs=epochs)
    net.trainer = None
    other = copied(net)
    assert torch.equal(logits(other), logits(net))
    assert_plain_agrees(other)
    expected = logits(net)
    fit(ternary(), net=other, max_epochs=2)
    assert torch.equal(logits(net), expected)


def test_the_callback_can_be_copied_after_a_run(fit):
    own = ternary()
    fit(own)
    other = pickle.loads(pickle.dumps(copy.deepcopy(own)))
    other.freeze = None
    fit(other, max_epochs=1)
    assert other.phase == "ternary"
    assert own.phase == "frozen"


def test_layers_that_the_module_builds_late(fit, make_net):
    class Late(Net):
        def configure_model(self):
            if isinstance(self.hidden, nn.Identity):
                self.hidden = nn.Linear(self.hparams.width * 25, 8)

    net = make_net(Late)
    net.hidden = nn.Identity()
    fit(ternary(), net=net)
    assert_plain_agrees(net)


def test_average_is_the_model_after_fit(fit):
    for order in (0, 1):
        average = EMAWeightAveraging(decay=0.5)
        _, net = fit(*([ternary(), average] if order else [average, ternary()]))
        averaged = average._average_model.module
        assert torch.equal(logits(averaged), logits(net))
        assert_plain_agrees(net)


def test_stochastic_weight_averaging(fit):
    _, net = fit(ternary(), StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2))
    assert_plain_agrees(net)


def test_fit_twice_goes_on(fit, make_net):
    own = ternary(freeze=None)
    _, net = fit(own)
    latent = net.hidden.weight.detach().clone()
    weight = net.hidden.ternary()

    class First(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 0:
                assert torch.equal(pl_module.hidden.weight, latent)
                assert torch.equal(pl_module.hidden.ternary().codes, weight.codes)
                self.ran = True

    first = First()
    fit(own, first, net=net)
    assert first.ran
    assert not torch.equal(net.hidden.weight, latent)
    assert_plain_agrees(net)


def test_command_line_configuration(command_line):
    cli = command_line(
        r"""
        - class_path: tern_lightning.TernaryCallback
          init_args:
            method: absmean
            start: 0
            freeze: 0.75
            options: {per_channel: true}
            verbose: false
            rules:
              - {name: "hidden", method: sws, options: {beta: 0.1}}
              - {name: 're:body\.3'}
              - {type: Conv2d, method: twn}
        """
    )
    own = next(c for c in cli.trainer.callbacks if isinstance(c, TernaryCallback))
    assert own.rules == (
        Rule("hidden", "sws", options={"beta": 0.1}),
        Rule(r"re:body\.3"),
        Rule(type="Conv2d", method="twn"),
    )
    assert (own.method, own.start, own.freeze, own.options) == ("absmean", 0, 0.75, {"per_channel": True})
    cli.trainer.fit(cli.model, Loader())
    found = {decision.path: decision.method for decision in own.decisions}
    assert found == {"stem": "twn", "body.0": "twn", "body.3": None, "hidden": "sws", "head": None}


def test_import_is_light():
    import subprocess

    script = "import sys, tern_lightning; assert 'torch' not in sys.modules; print(tern_lightning.__version__)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip()[0].isdigit()
