"""Distillation: the loss, where the teacher comes from, and that it leaves no trace."""

import copy

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.checkpoint import checkpoint

from tern_lightning import ActivationQuantization, Distillation, PruningSchedule, TernaryCallback
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.integration.test_interplay import NoLog, NoNorm, Shared
from tests.tern_lightning.training_nets import Loader, Net, Record, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything


class Plain(NoNorm):
    """Stochastic gradient descent without momentum, so that a step can be made by hand."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def float_net(cls=Plain, seed=11, **options):
    torch.manual_seed(seed)
    return cls(**options)


def soft(student, teacher, temperature):
    """The divergence as PyTorch has it."""
    own, other = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(own, other, reduction="batchmean")


def by_hand(net, loss_of, accumulate=1, steps=4):
    """Train without a Trainer: batches of 8, a step after every ``accumulate`` of them."""
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for index, batch in enumerate(list(Loader())[: steps * accumulate]):
        (loss_of(net, *batch) / accumulate).backward()
        if (index + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return net


def assert_same_weights(a, b):
    for (name, x), y in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_is_added_once_a_step(accumulate, fit, make_net):
    teacher = float_net().eval()
    before = copy.deepcopy(teacher.state_dict())

    def loss(net, x, y):
        logits = net(x)
        return 0.7 * F.cross_entropy(logits, y) + 0.3 * soft(logits, teacher(x).detach(), 4.0)

    expected = by_hand(make_net(Plain), loss, accumulate, steps=4 // accumulate)
    _, net = fit(
        Distillation(teacher, temperature=4.0, weight=0.3),
        net=make_net(Plain),
        max_epochs=1,
        accumulate_grad_batches=accumulate,
    )
    assert_same_weights(net, expected)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_features_and_attention(fit, make_net):
    teacher = float_net(width=6).eval()

    def parts(net, x):
        stem = net.stem(x)
        return stem, net.hidden(net.body(F.relu(stem)).flatten(1)), net(x)

    def attention(x):
        return F.normalize(x.pow(2).sum(1).flatten(1))

    def loss(net, x, y):
        (stem, hidden, logits), (t_stem, t_hidden, t_logits) = (
            parts(net, x),
            [one.detach() for one in parts(teacher, x)],
        )
        maps = 0.5 * (attention(stem) - attention(t_stem)).pow(2).sum(1).mean()
        hints = 0.5 * (hidden - t_hidden).pow(2).mean()
        return 0.5 * F.cross_entropy(logits, y) + 0.5 * soft(logits, t_logits, 2.0) + 3 * hints + 7 * maps

    expected = by_hand(make_net(Plain), loss)
    own = Distillation(
        teacher, features=["hidden"], feature_weight=3.0, attention={"stem": "stem"}, attention_weight=7.0
    )
    _, net = fit(own, net=make_net(Plain), max_epochs=1)
    assert_same_weights(net, expected)


def test_regression(fit, make_net):
    teacher = float_net().eval()
    expected = by_hand(make_net(Plain), lambda net, x, y: F.mse_loss(net(x), teacher(x).detach()))
    _, net = fit(Distillation(teacher, weight=1.0, loss="mse"), net=make_net(Plain), max_epochs=1)
    assert_same_weights(net, expected)


class Dictionary(Plain):
    def forward(self, x):
        return {"logits": super().forward(x), "image": x}

    def training_step(self, batch, batch_idx):
        return {"loss": F.cross_entropy(self(batch[0])["logits"], batch[1]), "other": 1}

    def validation_step(self, batch, batch_idx):
        pass


class Pair(Dictionary):
    def forward(self, x):
        return x, Plain.forward(self, x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0])[1], batch[1])


class Inner(pl.LightningModule):
    """Calls a part of itself, as the usual wrapper around a network does."""

    def __init__(self, net=None):
        super().__init__()
        self.net = net

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


@pytest.mark.parametrize("case", ["mapping", "tuple", "part", "part of a wrapper"])
def test_where_the_logits_are(case, fit, make_net):
    plain = float_net().eval()
    expected = by_hand(make_net(Plain), lambda net, x, y: soft(net(x), plain(x).detach(), 2.0))
    if case == "mapping":
        net, own = make_net(Dictionary), Distillation(float_net(Dictionary), weight=1.0, output="logits")
    elif case == "tuple":
        net, own = make_net(Pair), Distillation(float_net(Pair), weight=1.0, output=1)
    else:
        teacher = plain if case == "part" else Inner(plain)
        net, own = Inner(make_net(Plain)), Distillation(teacher, weight=1.0, module="net")
    fit(own, net=net, max_epochs=1, limit_val_batches=0)
    assert_same_weights(net, expected)


class Twice(Plain):
    def training_step(self, batch, batch_idx):
        return 0.0 * F.cross_entropy(self(batch[0]), batch[1]) + 0.0 * self(-batch[0]).sum()


def test_of_several_calls_the_mean_counts_and_calls_without_gradients_do_not(fit, make_net):
    teacher = float_net().eval()

    class Looks(Twice):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self(5 * batch[0])
            return super().training_step(batch, batch_idx)

    def loss(net, x, y):
        return (soft(net(x), teacher(x).detach(), 2.0) + soft(net(-x), teacher(-x).detach(), 2.0)) / 2

    _, net = fit(Distillation(teacher, weight=1.0), net=make_net(Looks), max_epochs=1)
    assert_same_weights(net, by_hand(make_net(Plain), loss))


class Checkpointed(Plain):
    def forward(self, x):
        x = checkpoint(self.body, F.relu(self.stem(x)), use_reentrant=False)
        return self.head(F.relu(self.hidden(x.flatten(1))))


def test_layers_that_are_computed_again_in_backward(fit, make_net):
    teacher = float_net()
    nets = [make_net(cls) for cls in (Plain, Checkpointed)]
    for net in nets:
        fit(Distillation(teacher, features=["hidden"], attention=["body"]), net=net, max_epochs=1)
    assert_same_weights(*nets)


def test_a_copy_of_the_float_network(fit, make_net):
    """At the first step the network is its teacher, whatever the order of callbacks; later it is ternary."""
    for order in (1, -1):
        record, look = Record(), Losses()
        own = [TernaryCallback(start=1, freeze=0.6, verbose=False), Distillation(weight=1.0)][::order]
        _, net = fit(*own, look, net=make_net(NoNorm), logger=record)
        assert look.first == pytest.approx(0, abs=1e-6)
        assert len(ternary_layers(net)) == 3
        logged = [value for (name, _), value in record.values.items() if name == "distillation/loss"]
        assert len(logged) == 5
        assert all(value > 1e-4 for value in logged)


class Losses(pl.Callback):
    """The loss of the first step."""

    first = None

    def on_before_backward(self, trainer, pl_module, loss):
        self.first = float(loss.detach()) if self.first is None else self.first


def test_the_copy_has_the_weights_of_a_checkpoint_that_the_run_goes_on_from(fit, make_net, tmp_path):
    fit(Save(tmp_path), net=float_net(NoNorm), max_epochs=1)
    look = Losses()
    fit(Distillation(weight=1.0), look, net=make_net(NoNorm), ckpt_path=tmp_path / "epoch0.ckpt", max_epochs=2)
    assert look.first == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["module", "checkpoint", "copy"])
def test_a_resumed_run_is_the_uninterrupted_one(kind, fit, make_net, tmp_path):
    fit(Save(tmp_path / "float"), net=float_net(Net), max_epochs=1)

    def own():
        teacher = {"module": float_net(Net), "checkpoint": tmp_path / "float" / "epoch0.ckpt", "copy": None}[kind]
        ternary = TernaryCallback("ttq", start=1, freeze=0.6, bn_batches=2, verbose=False)
        return ternary, Distillation(teacher, features=["hidden"]), PruningSchedule(0.3, every=2)

    record = Record()
    trainer, net = fit(*own(), Save(tmp_path), logger=record)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "step11.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == make_net().state_dict().keys()
    state = saved["callbacks"].get("Distillation")
    assert (set(state) == {"teacher"} and len(state["teacher"]) == 64) if kind == "copy" else not state
    for name in ("step2", "step6", "step11", "epoch2"):
        again = Record()
        trainer, net = fit(*own(), ckpt_path=tmp_path / f"{name}.ckpt", logger=again)
        assert_same(everything(trainer, net, tmp_path / "again.ckpt"), expected, name)
        assert again.values["distillation/loss", 19] == record.values["distillation/loss", 19]


def test_a_copy_of_other_weights_is_refused(fit, make_net, tmp_path):
    fit(Distillation(), Save(tmp_path), max_epochs=2)
    with pytest.raises(MisconfigurationException, match=r"began with other weights; HINT.*teacher='float.ckpt'"):
        fit(Distillation(), net=float_net(Net), ckpt_path=tmp_path / "step6.ckpt")


def test_a_ternary_network_is_no_float_teacher(fit, make_net):
    _, net = fit(TernaryCallback(verbose=False), max_epochs=1)
    with pytest.raises(MisconfigurationException, match="is ternary or rounds"):
        fit(Distillation(), net=net)
    _, net = fit(ActivationQuantization(), max_epochs=1)
    with pytest.raises(MisconfigurationException, match="is ternary or rounds"):
        fit(Distillation(), net=net)


class Fails(pl.Callback):
    def on_train_batch_end(self, *args):
        raise RuntimeError("stop")


def test_nothing_is_left_on_the_module(fit, make_net):
    teacher = float_net(Net)
    for more in ([], [Fails()]):
        net = make_net()
        if more:
            with pytest.raises(RuntimeError, match="stop"):
                fit(Distillation(teacher, features=["hidden"]), *more, net=net)
        else:
            fit(Distillation(teacher, features=["hidden"]), net=net, max_epochs=1)
        assert "training_step" not in net.__dict__
        for module in (net, teacher):
            assert not any(one._forward_hooks for one in module.modules())


def test_the_metrics_of_validation_are_the_plain_ones(fit, make_net):
    trainer, net = fit(Distillation(float_net(Net)), max_epochs=1)
    x, y = samples()
    with torch.no_grad():
        expected = F.cross_entropy(net.eval()(x), y)
    assert trainer.callback_metrics["val_loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_precisions(precision, fit, make_net):
    teacher = float_net(NoNorm)
    trainer, net = fit(TernaryCallback(verbose=False), Distillation(teacher), net=make_net(NoNorm), precision=precision)
    assert torch.isfinite(trainer.callback_metrics["distillation/loss"])
    assert len(ternary_layers(net)) == 3


@pytest.mark.parametrize(("inside", "teacher"), [(False, "copy"), (True, "module")])
def test_compile(inside, teacher, fit, make_net):
    def own():
        source = None if teacher == "copy" else float_net(NoLog)
        return TernaryCallback(verbose=False, bn_batches=2), Distillation(source, features=["hidden"])

    reference, net = make_net(NoLog), make_net(NoLog)
    fit(*own(), net=reference, max_epochs=2)
    if inside:
        net.body.compile(backend="eager")
    fit(*own(), net=net if inside else torch.compile(net, backend="eager"), max_epochs=2)
    assert_same_weights(net, reference)
    torch._dynamo.reset()


def test_two_processes_train_what_one_does(fit, make_net):
    one, two = (make_net(NoNorm, optimizer="sgd") for _ in range(2))
    split = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    for net, options in ((one, {}), (two, split)):
        fit(Distillation(float_net(NoNorm), weight=0.9), net=net, loader=Shared, max_epochs=3, **options)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_method_that_takes_every_batch_twice(fit, make_net):
    own = TernaryCallback("tga", options={"two_pass": True}, verbose=False)
    trainer, _ = fit(own, Distillation(float_net(Net)), max_epochs=2)
    assert torch.isfinite(trainer.callback_metrics["distillation/loss"])


class Manual(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Narrow(Plain):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (Manual, {}, "the module optimizes by hand"),
        (Net, {"module": "nets"}, r"module must be the path of a part of Net, got 'nets'; it has \['stem'"),
        (Net, {"features": ["hiden"]}, "features and attention name layers.*hiden.*'hidden'"),
        (Net, {"module": "hidden", "features": ["x"]}, "features and attention name layers"),
        (Net, {"output": 3}, r"cannot be compared: class_axis must .* of the shape \(3,\), got 1"),
        (Net, {"output": "logit"}, "output='logit'"),
        (Dictionary, {}, "where they are in a dict, got output=None"),
        (lambda: Inner(Plain()), {}, "not called the module itself.*module='net'"),
        (Net, {"teacher": Narrow()}, r"outputs of student and teacher cannot be compared.*\(8, 3\) and \(8, 2\)"),
        (
            Net,
            {"teacher": float_net(width=4), "features": ["stem"]},
            "the outputs of layer 'stem' and of the teacher's",
        ),
    ],
)
def test_errors_in_a_run(net, options, message, fit):
    torch.manual_seed(0)
    with pytest.raises(MisconfigurationException, match=message):
        fit(Distillation(**options), net=net(), max_epochs=1, limit_val_batches=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"teacher": 3}, TypeError, "teacher must be a Module, a string, a path or None, got 3"),
        ({"temperature": 0}, ValueError, "temperature must be finite and > 0, got 0"),
        ({"weight": 1.1}, ValueError, r"weight must be in \[0, 1\], got 1.1"),
        ({"loss": "l1"}, ValueError, "loss must be 'kl' or 'mse', got 'l1'"),
        ({"feature_weight": -1}, ValueError, "feature_weight must be finite and >= 0, got -1"),
        ({"attention_weight": float("nan")}, ValueError, "attention_weight must be a number, got nan"),
        (
            {"features": "hidden"},
            TypeError,
            "features must be a list of strings or a dictionary with strings .*, got 'hidden'",
        ),
    ],
)
def test_errors_of_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Distillation(**options)


def test_a_checkpoint_that_is_not_there(fit):
    with pytest.raises(FileNotFoundError, match=r"nothing\.ckpt"):
        fit(Distillation("nothing.ckpt"))


def test_from_the_command_line(command_line, tmp_path):
    cli = command_line(
        f"""
        - class_path: tern_lightning.Distillation
          init_args: {{teacher: {tmp_path}/float.ckpt, temperature: 3, weight: 0.4, features: [hidden]}}
        """
    )
    [own] = [one for one in cli.trainer.callbacks if isinstance(one, Distillation)]
    assert (own.temperature, own.weight, own.features) == (3, 0.4, {"hidden": "hidden"})
