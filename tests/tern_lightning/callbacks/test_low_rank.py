"""Networks of low rank and the search of their ranks."""

import itertools

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import Rule, TernaryCallback
from tern_lightning.callbacks.low_rank import Candidates, LowRank
from tern_lightning.functional.low_rank import ConvShape
from tern_lightning.nn.low_rank_layers import LatencyTable, LowRankConv, MeasuredLatency, low_rank
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.training_nets import Save, samples
from tests.tern_lightning.training_runs import assert_same, everything


class Net(pl.LightningModule):
    def __init__(self, ranks: dict | None = None):
        super().__init__()
        self.save_hyperparameters()
        self.stem, self.body = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.hidden, self.head = nn.BatchNorm2d(8), nn.Linear(8, 8), nn.Linear(8, 3)
        low_rank(self, ranks or {})

    def forward(self, x):
        x = F.relu(self.norm(self.body(F.relu(self.stem(x)))))
        return self.head(F.relu(self.hidden(x.mean((2, 3)))))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)


def test_a_trained_network_of_low_rank_with_ternary_cores_is_loadable(fit, make_net, tmp_path):
    net = make_net(Net, ranks={"body": 4, "hidden": 2})
    rules = [Rule("*.core", "twn"), Rule("*")]
    _, net = fit(TernaryCallback(rules=rules, verbose=False, freeze=0.6, bn_batches=2), Save(tmp_path), net=net)
    assert set(ternary_layers(net)) == {"body.core"}
    plain = Net.load_from_checkpoint(tmp_path / "epoch4.ckpt")
    with torch.no_grad():
        assert torch.equal(plain.eval()(samples()[0]), net.eval()(samples()[0]))
    by_hand = low_rank(Net(), {"body": 4, "hidden": 2})
    by_hand.load_state_dict(net.state_dict())


def search(**options):
    return LowRank(**{"multiple": 2, "learning_rate": 0.3, **options})


def test_the_gradient_of_theta_by_finite_differences():
    torch.manual_seed(0)
    layer = Candidates(nn.Conv2d(4, 4, 3).double(), [1, 2, 4])
    layer.theta = torch.tensor([0.1, -0.3, 0.2], dtype=torch.float64, requires_grad=True)
    x, pull = torch.randn(2, 4, 6, 6, dtype=torch.float64), 0.7

    def loss():
        shares = layer.shares()
        outputs = [option(x) for option in layer.options]
        mixed = sum(s * o for s, o in zip(shares, outputs, strict=True))
        far = torch.stack([(o - layer.original(x)).square().mean() for o in outputs])
        return float(mixed.square().mean() + pull * (shares * far).sum())

    layer.pull = pull
    layer(x).square().mean().backward()
    for i in range(3):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                layer.theta[i] += step
                values.append(loss())
                layer.theta[i] -= step
        assert layer.theta.grad[i].item() == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize(("beta", "expected"), [(100.0, 2), (0.0, None)])
def test_latency_drives_the_ranks(beta, expected, fit, make_net, record):
    own = search(beta=beta, pull=1.0)
    _, net = fit(own, net=make_net(Net), logger=record)
    assert set(own.choice) == {"body"}
    assert isinstance(net.body, LowRankConv)
    assert net.body.core.weight.shape[0] == own.choice["body"]
    if expected:
        assert own.choice["body"] == expected
        assert record.values["low_rank/latency", 19] < record.values["low_rank/latency", 3]
        assert record.values["low_rank/body/rank", 19] == 2
    low_rank(Net(), own.choice).load_state_dict(net.state_dict())
    fit(net=net, max_epochs=1)  # fine-tune


def test_weights_and_theta_move_in_turns(fit, make_net):
    class Look(pl.Callback):
        def __init__(self):
            self.moves = []

        def on_train_batch_start(self, trainer, pl_module, *args):
            self.before = pl_module.body.options[0].core.weight.detach().clone(), pl_module.body.theta.detach().clone()

        def on_train_batch_end(self, trainer, pl_module, *args):
            now = pl_module.body.options[0].core.weight, pl_module.body.theta
            self.moves.append(tuple(not torch.equal(a, b) for a, b in zip(self.before, now, strict=True)))

    look = Look()
    fit(search(), look, net=make_net(Net), max_epochs=1)
    assert look.moves == [(True, False), (False, True)] * 2


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_resume(precision, fit, make_net, tmp_path):
    class End(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            self.state = everything(trainer, pl_module, tmp_path / "end.ckpt")

    def run(**options):
        end, own = End(), search(pull=0.1)
        fit(own, end, *options.pop("also", ()), net=make_net(Net), precision=precision, **options)
        return end.state, own.choice

    expected = run(also=[Save(tmp_path)])
    for name in ("step3", "val1", "step14"):
        assert_same(run(ckpt_path=tmp_path / f"{name}.ckpt"), expected, name)
    saved = torch.load(tmp_path / "step14.ckpt", weights_only=True)
    assert set(saved["callbacks"][search().state_key]["choice"]) == {"body"}


class Two(Net):
    def configure_optimizers(self):
        return [torch.optim.SGD(self.stem.parameters(), 0.1), torch.optim.SGD(self.head.parameters(), 0.1)]

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def held_out(count=3):
    x, y = samples(32)
    return [(x[i * 8 : i * 8 + 8] + 0.1, y[i * 8 : i * 8 + 8]) for i in range(count)]


def test_theta_moves_by_held_out_batches_alone_and_weights_in_every_step(fit, make_net):
    seen = []

    class Seen(Net):
        def training_step(self, batch, batch_idx):
            seen.append(batch[0])
            return super().training_step(batch, batch_idx)

    class Moves(pl.Callback):
        def __init__(self):
            self.thetas, self.weights = [], []

        def on_train_batch_end(self, trainer, net, outputs, batch, batch_idx):
            self.thetas.append(net.body.theta.detach().clone())
            self.weights.append(net.head.weight.detach().clone())

    moves, batches = Moves(), held_out()
    fit(search(held_out=batches, beta=0.0), moves, net=make_net(Seen), max_epochs=2)
    assert [any(torch.equal(x, one) for one, _ in batches) for x in seen] == [False, True] * 8
    wanted = [batches[i % 3][0] for i in range(8)]
    assert all(torch.equal(x, one) for x, one in zip(seen[1::2], wanted, strict=True))
    for values in (moves.thetas, moves.weights):
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("name", ["step3", "epoch1", "step14"])
def test_a_resumed_search_goes_on_with_the_next_held_out_batch(name, fit, make_net, tmp_path):
    options = {"held_out": held_out()}
    whole, first = fit(search(**options), Save(tmp_path), net=make_net(Net))
    resumed, second = fit(search(**options), net=make_net(Net), ckpt_path=tmp_path / f"{name}.ckpt")
    assert_same(everything(resumed, second, tmp_path / "a.ckpt"), everything(whole, first, tmp_path / "b.ckpt"))


def test_latencies_come_from_a_file(fit, make_net, tmp_path):
    measured = MeasuredLatency(repeats=1)
    shape = ConvShape(8, 8, (3, 3), (1, 1), (8, 8), (8, 8))
    for rank in (2, 4, 6, 8):
        measured.table[shape, rank] = {2: 5.0, 4: 1.0, 6: 6.0, 8: 7.0}[rank]
    path = measured.save(tmp_path / "latency.json")
    assert LatencyTable(path).table == measured.table
    callback = search(latency=path, beta=100.0)
    fit(callback, net=make_net(Net))
    assert callback.choice == {"body": 4}
    with pytest.raises(ValueError, match="has no row for ConvShape"):
        LatencyTable(path)(shape, 3)
    path.write_text('{"format": "other", "rows": []}')
    with pytest.raises(ValueError, match="must have format 'tern-latency', got 'other'"):
        LatencyTable(path)
    path.write_text('{"format": "tern-latency", "rows": [{"rank": 1}]}')
    with pytest.raises(ValueError, match="is damaged"):
        LatencyTable(path)


def test_held_out_batches_must_come_again(fit, make_net):
    with pytest.raises(ValueError, match="gone through again"):
        search(held_out=iter(held_out()))
    with pytest.raises(MisconfigurationException, match="at least one batch"):
        fit(search(held_out=[]), net=make_net(Net))


def test_errors(fit, make_net):
    with pytest.raises(MisconfigurationException, match="exactly one optimizer, got 2"):
        fit(search(), net=make_net(Two))
    with pytest.raises(MisconfigurationException, match="finds no convolution"):
        fit(search(include=["hidden"]), net=make_net(Net))
    with pytest.raises(ValueError, match=r"'norm' is no layer .* \['stem', 'body'"):
        low_rank(Net(), {"norm": 2})
    with pytest.raises(ValueError, match="got 9 for shape"):
        low_rank(Net(), {"body": 9})
    for options in ({"multiple": 0}, {"beta": -1.0}, {"temperature": 0.0}, {"learning_rate": 0.0}, {"pull": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LowRank(**options)
    with pytest.raises(ValueError, match="batch and repeats"):
        MeasuredLatency(0)
