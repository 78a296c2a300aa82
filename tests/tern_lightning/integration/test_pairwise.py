"""Every two of the things that combine, together: methods, constraints, pruning, activations, averaging, precision.

The rows are chosen so that every pair of values occurs; every row is resumed bit for bit, in the ternary and in the
frozen phase.
"""

import itertools

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from tern_lightning import (
    ActivationQuantization,
    Distillation,
    EntropyConstraint,
    EntropyPruning,
    MultiLevelActivation,
    PruningSchedule,
    TernaryCallback,
    WeightPenaltyClipping,
)
from tern_lightning.nn.ternary_layers import effective_weight, ternary_layers
from tern_lightning.nn.weight_mask import mask_of
from tern_lightning.schedules import Schedule
from tests.tern_lightning.integration.test_composition import LAYERS, NoNorm, Shared
from tests.tern_lightning.training_nets import Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything

OPTIONS = {"tga": {"two_pass": True}, "multilevel": {"terms": 2}, "tequila": {"strength": 0.1}}
FACTORS = {
    "method": ["twn", "ec2t", "ttq", "tga", "seq", "multilevel", "sherry", "tequila"],
    "constraint": [None, "clipping", "entropy pruning"],
    "pruning": [None, "element", "digit"],
    "activation": [None, "8 bits", "levels"],
    "teacher": [None, "another network"],
    "average": [None, "before", "after"],
    "precision": ["32-true", "bf16-mixed"],
}


def pairs(row):
    return set(itertools.combinations(enumerate(row), 2))


def covering_rows():
    """Rows in which every pair of values occurs, the row with most new pairs first."""
    rows, left = [], set().union(*(pairs(row) for row in itertools.product(*FACTORS.values())))
    every = [(row, pairs(row)) for row in itertools.product(*FACTORS.values())]
    while left:
        row, own = max(every, key=lambda one: len(one[1] & left))
        rows.append(row)
        left -= own
    return rows


ROWS = covering_rows()


def another():
    torch.manual_seed(5)
    return Net()


def callbacks(method, constraint, pruning, activation, teacher, average, _):
    ramp = Schedule("linear", 0.0, 0.5)
    own = [
        TernaryCallback(method, options=OPTIONS.get(method), start=1, freeze=3, bn_batches=2, verbose=False),
        EntropyConstraint(0.2, ramp) if method == "ec2t" else None,
        WeightPenaltyClipping(0.01, 0.8, (2, 3), form="proximal") if constraint == "clipping" else None,
        EntropyPruning(0.3, include=["stem"], freeze=0.7) if constraint == "entropy pruning" else None,
        PruningSchedule(0.6, schedule=ramp, every=2, pattern=pruning) if pruning else None,
        ActivationQuantization(observe_batches=3, learned=True) if activation == "8 bits" else None,
        MultiLevelActivation(2, learning_rate=0.01) if activation == "levels" else None,
        Distillation(another(), weight=0.3, features=["hidden"]) if teacher else None,
    ]
    own = [one for one in own if one is not None]
    averaging = [EMAWeightAveraging(decay=0.7)] if average else []
    return [*averaging, *own] if average == "before" else [*own, *averaging]


def test_rows_cover_all_pairs():
    for (a, first), (b, second) in itertools.combinations(enumerate(FACTORS.values()), 2):
        assert {(row[a], row[b]) for row in ROWS} == set(itertools.product(first, second))
    assert len(ROWS) <= 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(str(value or "none").replace(" ", "") for value in row))
def test_row(row, fit, make_net, tmp_path):
    precision = row[-1]
    trainer, net = fit(*callbacks(*row), Save(tmp_path), precision=precision)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    assert torch.isfinite(trainer.callback_metrics["val_loss"])
    assert set(ternary_layers(net)) == set(LAYERS)
    for path, layer in ternary_layers(net).items():
        keep, weight = mask_of(layer), effective_weight(layer)
        assert torch.equal(layer.ternary().dequantize(), weight)
        assert torch.equal(expected["state_dict"][f"{path}.weight"], weight)
        assert keep is None or not weight[~keep].any()
    if row[2] is not None:
        assert any(mask_of(net.get_submodule(path)) is not None for path in LAYERS)
        assert trainer.callback_metrics["pruning/sparsity"] > 0.2
    if row[3] is None:
        plain = Net()
        plain.load_state_dict(net.state_dict())
        with torch.no_grad():
            assert torch.equal(plain.eval()(samples()[0]), net.eval()(samples()[0]))
    for name in ("step6", "step14"):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        again, net = fit(*callbacks(*row), net=other, ckpt_path=tmp_path / f"{name}.ckpt", precision=precision)
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected, name)


SPLIT = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}


@pytest.mark.parametrize("method", FACTORS["method"])
def test_two_processes_train_what_one_does(method, fit, make_net):
    # Ranges of 8-bit inputs are averages over processes, so that trained levels stand in for them.
    row = (method, "clipping", "digit" if method == "multilevel" else "element", "levels", None, None, "32-true")
    one, two = (make_net(NoNorm, optimizer="sgd", lr=0.01) for _ in range(2))
    fit(*callbacks(*row), net=one, loader=Shared, max_epochs=4)
    fit(*callbacks(*row), net=two, loader=Shared, max_epochs=4, **SPLIT)
    for path in LAYERS:
        expected, found = effective_weight(one.get_submodule(path)), two.get_submodule(path).weight.detach()
        assert (found == 0).any()
        # Sums in another order may prune or round the other of two weights that are nearly equal.
        different = ~torch.isclose(found, expected, rtol=1e-3, atol=1e-4)
        assert int(different.sum()) <= 0.01 * different.numel()


@pytest.mark.parametrize("row", [("ec2t", "clipping", "element", "8 bits", "another network", "before", "bf16-mixed")])
def test_two_processes_are_resumed(row, fit, make_net, tmp_path):
    """The checkpoints at the end of an interrupted and of an uninterrupted run of two processes are equal."""
    ends = []
    for folder, start in (("whole", None), ("resumed", tmp_path / "whole" / "step6.ckpt")):
        other = make_net(NoNorm)
        if start is not None:
            nn.init.ones_(other.hidden.weight)
        options = {"precision": row[-1], "loader": Shared, "ckpt_path": start, **SPLIT}
        fit(*callbacks(*row), Save(tmp_path / folder), net=other, **options)
        ends.append(torch.load(tmp_path / folder / "step20.ckpt", weights_only=True))
        ends[-1].pop("loops")
    assert_same(*ends)
