"""Everything at once, resumed, averaged, in half precision, in two processes, and from a command line."""

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from tern_lightning import TernaryCallback, export
from tern_lightning.callbacks.activation_quantization import ActivationQuantization
from tern_lightning.callbacks.bcgd import BCGD
from tern_lightning.callbacks.guided_pruning import AccuracyGuidedPruning
from tern_lightning.callbacks.multilevel_activation import MultiLevelActivation
from tern_lightning.callbacks.penalty import StructuredPruning, WeightPenaltyClipping
from tern_lightning.callbacks.pruning_schedule import PruningSchedule
from tern_lightning.callbacks.slr import SLR
from tern_lightning.nn.ternary_layers import effective_weight, ternary_layers
from tern_lightning.nn.weight_mask import mask_of
from tern_lightning.schedules import Schedule
from tests.tern_lightning.training_nets import Loader, Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


def callbacks(method="twn"):
    return [
        EMAWeightAveraging(decay=0.7),
        PruningSchedule(0.6, schedule=Schedule("cubic", 0.1, 0.7), every=2),
        TernaryCallback(method, start=1, freeze=0.8, bn_batches=2, verbose=False),
        WeightPenaltyClipping(0.01, 0.8, (2, 3), form="proximal"),
        BCGD(0.01),
        ActivationQuantization(bits=8, observe_batches=3, learned=True),
    ]


# In the middle of accumulation Lightning itself does not resume exactly.
STEPS = ("step2", "step5", "val2", "step17", "step23")


@pytest.mark.parametrize(
    ("method", "precision", "accumulate", "names"),
    [
        ("twn", "32-true", 2, ("val0", "val1", "epoch2", "val3", "epoch4")),
        ("twn", "bf16-mixed", 1, STEPS),
        ("multilevel", "32-true", 1, STEPS),
    ],
)
def test_everything_at_once_and_resumed(method, precision, accumulate, names, fit, make_net, tmp_path):
    options = {"precision": precision, "gradient_clip_val": 1.0, "max_epochs": 6}
    options["accumulate_grad_batches"] = accumulate
    trainer, net = fit(*callbacks(method), Save(tmp_path), **options)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for path in LAYERS:
        keep, weight = mask_of(net.get_submodule(path)), effective_weight(net.get_submodule(path))
        assert not weight[~keep].any()
        assert torch.equal(expected["state_dict"][f"{path}.weight"], weight)
    shares = [mask_of(net.get_submodule(path)).float().flatten() for path in LAYERS]
    assert 1 - torch.cat(shares).mean().item() == pytest.approx(0.6, abs=0.01)
    plain = Net()
    plain.load_state_dict(net.state_dict())
    assert set(ternary_layers(net)) == set(LAYERS)
    for name in names:
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        again, net = fit(*callbacks(method), net=other, ckpt_path=tmp_path / f"{name}.ckpt", **options)
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected, name)


class NoNorm(Net):
    """Without batch normalization the gradient of a batch is the mean over its parts."""

    def __init__(self, **options):
        super().__init__(**options)
        self.body[1] = self.body[4] = nn.Identity()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]), sync_dist=True)


class Shared(Loader):
    """Every process gets its part of every batch."""

    def __iter__(self):
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        return ((x.chunk(size)[rank], y.chunk(size)[rank]) for x, y in super().__iter__())


def distributed(kind):
    ramp = Schedule("linear", 0.0, 0.5)
    return {
        "pruning": [
            PruningSchedule(0.5, schedule=ramp, every=2),
            WeightPenaltyClipping(0.01, 0.8, (2, 3)),
            MultiLevelActivation(2, learning_rate=0.01),
            TernaryCallback("twn", verbose=False, freeze=0.75, bn_batches=0),
        ],
        "slr": [
            SLR("ternary", interval=3, end=0.5, rho=0.5, bn_batches=0),
            TernaryCallback("twn", start=0.5, verbose=False, freeze=None),
        ],
        "guided": [AccuracyGuidedPruning("val_loss", 0.3, "min", step=0.2, epochs=1)],
    }[kind]


@pytest.mark.parametrize("kind", ["pruning", "slr", "guided"])
def test_two_processes_train_what_one_does(kind, fit, make_net):
    one, two = make_net(NoNorm, optimizer="sgd"), make_net(NoNorm, optimizer="sgd")
    fit(*distributed(kind), net=one, loader=Shared, max_epochs=4)
    split = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    fit(*distributed(kind), net=two, loader=Shared, max_epochs=4, **split)
    for path in LAYERS:
        expected, found = effective_weight(one.get_submodule(path)), two.get_submodule(path).weight.detach()
        assert torch.equal(expected == 0, found == 0)
        assert (found == 0).any()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_structured_pruning_with_averaging_and_half_precision(fit):
    own = StructuredPruning((2, 3), strength=2.0, dead=0.3, threshold=1.0, form="proximal", prune=0.4)
    tern = TernaryCallback("sws", verbose=False, freeze=0.8, bn_batches=2)
    _, net = fit(own, EMAWeightAveraging(decay=0.5), tern, precision="bf16-mixed")
    plain = Net()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(samples()[0]), net.eval()(samples()[0]))
    assert any(not mask_of(net.get_submodule(path)).all() for path in LAYERS)


def test_command_line_configuration(command_line):
    cli = command_line(
        """
        - class_path: tern_lightning.PruningSchedule
          init_args:
            amount: 0.5
            scope: layer
            schedule: {shape: linear, begin: 0, end: 1, unit: epoch}
            include: [hidden]
        - class_path: tern_lightning.WeightPenaltyClipping
          init_args: {strength: 1.0e-4, group: [2, 2], form: proximal, schedule: {shape: constant, begin: 0.5}}
        - class_path: tern_lightning.TernaryCallback
          init_args: {verbose: false, freeze: null}
        """,
        max_epochs=2,
    )
    own = next(c for c in cli.trainer.callbacks if isinstance(c, PruningSchedule))
    assert own.schedule == Schedule("linear", 0, 1, "epoch")
    cli.trainer.fit(cli.model, Loader())
    assert int((~mask_of(cli.model.hidden)).sum()) == round(0.5 * cli.model.hidden.weight.numel())


def test_pruned_multi_level_networks_are_exported(fit, tmp_path):
    own = [TernaryCallback("multilevel", verbose=False), PruningSchedule(0.5), MultiLevelActivation(2)]
    _, net = fit(*own, max_epochs=3)
    found = export(net.eval(), tmp_path / "out", samples=samples(8)[0], activations="float32", onnx_only=True)
    for path in LAYERS:
        assert torch.equal(found.network.ternary[path].dequantize(), effective_weight(net.get_submodule(path)))
        assert found.network.ternary[path].terms == 2
