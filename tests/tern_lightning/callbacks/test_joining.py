"""Callbacks that join a run late, phases that cannot be, schedules that do not end, and what is said about it."""

import warnings

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset

from tern_lightning import Rule, Schedule, TernaryCallback
from tern_lightning.callbacks import (
    SLR,
    ActivationQuantization,
    EntropyConstraint,
    EntropyPruning,
    MultiLevelActivation,
    PruningSchedule,
    StructuredPruning,
    WeightPenaltyClipping,
)
from tern_lightning.callbacks._clock import Clock, Origin, progress
from tern_lightning.callbacks._phases import check_order, never
from tern_lightning.checkpoint import load_module
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.training_nets import Loader, Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything


def ternary(method="twn", **options):
    return TernaryCallback(method, **{"verbose": False, "bn_batches": 2, **options})


class Phases(Save):
    """The phase in every epoch."""

    def __init__(self, own, folder):
        super().__init__(folder)
        self.own, self.phases = own, {}

    def on_train_batch_end(self, trainer, *args):
        super().on_train_batch_end(trainer, *args)
        self.phases.setdefault(trainer.current_epoch, self.own.phase)


@pytest.fixture
def float_run(fit, tmp_path):
    """The path of a checkpoint after four of ten epochs of float training."""
    fit(Save(tmp_path / "float"), max_epochs=4)
    return tmp_path / "float" / "epoch3.ckpt"


@pytest.mark.parametrize("method", ["twn", "ttq", "hestia"])
@pytest.mark.parametrize(
    ("when", "begin", "end"), [({}, 4, 8), ({"start": 1, "freeze": 3}, 5, 7), ({"start": 0.5, "freeze": None}, 7, 99)]
)
def test_phases_count_from_where_the_callback_joins(method, when, begin, end, float_run, fit, make_net, tmp_path):
    own = ternary(method, **when)
    seen = Phases(own, tmp_path / "joined")
    with pytest.warns(UserWarning, match=f"TernaryCallback joins the run at epoch 4.* ternary from epoch {begin}, "):
        trainer, net = fit(own, seen, ckpt_path=float_run, max_epochs=10)
    expected = {e: "float" if e < begin else "ternary" if e < end else "frozen" for e in range(4, 10)}
    assert seen.phases == expected
    # Resumed again, the origin is still where the callback joined.
    again = ternary(method, **when)
    later = Phases(again, tmp_path / "again")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*joins the run")
        trainer_, net_ = fit(again, later, ckpt_path=tmp_path / "joined" / "epoch5.ckpt", max_epochs=10)
    assert later.phases == {e: phase for e, phase in expected.items() if e > 5}
    assert_same(everything(trainer_, net_, tmp_path / "b.ckpt"), everything(trainer, net, tmp_path / "a.ckpt"))


def test_the_same_trainer_goes_on(fit, make_net):
    """More epochs of the same run are no late start."""
    own = ternary(start=0, freeze=6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*joins the run")
        trainer, net = fit(own, max_epochs=4)
        assert own.phase == "ternary"
        trainer.fit_loop.max_epochs = 8
        trainer.fit(net, Loader())
    assert own.phase == "frozen"
    assert own.clock.origin == Origin()


RAMP = Schedule("linear", begin=0, end=0.5)
LATE = {
    "pruning": (lambda: PruningSchedule(0.8, schedule=RAMP, every=1), lambda own: own.progress),
    "entropy pruning": (lambda: EntropyPruning(0.5, RAMP, freeze=None), lambda own: float(bool(own._levels))),
    "entropy": (
        lambda: EntropyConstraint(0.4, RAMP),
        lambda own: max((float(one.strength) / 0.4 for one in own._methods.values()), default=0.0),
    ),
    "penalty": (lambda: WeightPenaltyClipping(1e-4, schedule=RAMP), lambda own: own._factor),
    "structured": (lambda: StructuredPruning(prune=0.5), lambda own: float(own.pruned)),
    "slr": (lambda: SLR("sparsity", amount=0.5, end=0.5, bn_batches=0), lambda own: float(own.done)),
}


@pytest.mark.parametrize("name", LATE)
def test_schedules_count_from_where_a_callback_joins(name, float_run, fit):
    make, position = LATE[name]
    own, seen = make(), {}

    class Look(Net):
        def on_train_batch_end(self, *args):
            seen[self.trainer.global_step] = position(own)

    with pytest.warns(UserWarning, match=f"{type(own).__name__} joins the run at epoch 4, step 16"):
        fit(ternary("ec2t", freeze=None) if name == "entropy" else Save(float_run.parent), own, net=Look(),
            ckpt_path=float_run, max_epochs=10)  # fmt: skip
    if name in ("pruning", "entropy", "penalty"):
        # Six epochs of four batches are left, half of them are the ramp.
        assert [seen[step] for step in (17, 23, 28, 29)] == pytest.approx([0, 0.5, 11 / 12, 1], abs=0.01)
    elif name != "entropy pruning":
        assert (seen[28], seen[29]) == (0, 1)


@pytest.mark.parametrize(
    "when",
    [{"start": 7}, {"start": 0.6}, {"start": 3, "freeze": 3}, {"start": 0.5, "freeze": 0.2}, {"start": 2, "freeze": 0}],
)
def test_a_freeze_that_is_not_after_the_start_is_refused(when, fit):
    with pytest.raises(ValueError, match=r"start=.* is not before freeze=.*: there would be no ternary training"):
        fit(ternary(**when), max_epochs=10)


def test_a_freeze_before_the_start_is_found_when_the_batches_are_known(fit):
    """Epoch 7 of a run of 30 steps is its end; the number of batches is known only when training starts."""
    with pytest.raises(ValueError, match="is not before freeze"):
        fit(ternary(start=7), max_epochs=-1, max_steps=30)


def test_what_is_in_order_is_accepted(fit, make_trainer):
    trainer = make_trainer(max_epochs=10)
    for start, freeze in ((0, 0), (0, 0.6), (5, 0.6), (0.2, 3), (7, None), (7, 0.8), (0, 0.0)):
        check_order(trainer, start, freeze)
    fit(ternary(freeze=0), max_epochs=2)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(*samples(16), strict=True))


def test_fractions_without_a_length_of_the_loader(fit):
    with pytest.warns(UserWarning, match=r"freeze=0.6 is not reached in this run: its loader has no length.*max_steps"):
        fit(ternary(), loader=lambda batch=8: DataLoader(Stream(), batch_size=batch), max_epochs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not reached")
        fit(ternary(), loader=lambda batch=8: DataLoader(Stream(), batch_size=batch), max_epochs=4)


def test_boundaries_that_no_batch_reaches(make_trainer):
    trainer = make_trainer(max_epochs=10)
    trainer.fit_loop.max_batches = 4
    assert [never(trainer, b) for b in (None, 0, 9, 10, 0.9, 0.97, 0.99)] == [False] * 3 + [True, False, False, True]
    assert never(trainer, 6, Origin(4, 16))
    assert not never(trainer, 5, Origin(4, 16))


def test_progress_from_an_origin(make_trainer):
    trainer = make_trainer(max_epochs=10)
    trainer.fit_loop.max_batches = 4
    trainer.fit_loop.epoch_progress.current.completed = 7
    assert progress(trainer, 2).fraction == pytest.approx(0.75)
    assert progress(trainer, 2, Origin(4, 16)).fraction == pytest.approx(3.5 / 6)
    clock = Clock()
    clock.load({"origin": {"epoch": 4, "step": 16}})
    assert clock.progress(trainer, 0).epoch == 3
    clock.load({})
    assert clock.progress(trainer, 0).epoch == 7


class Worse(Net):
    """Validation gets worse in every epoch."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", float(self.current_epoch))


def test_early_stopping_before_a_schedule_is_complete(fit, make_net):
    stop = EarlyStopping("val_loss", patience=1)
    with pytest.warns(
        UserWarning, match=r"before PruningSchedule was done: 5[23]% of the weights are pruned, 58% of its"
    ):
        fit(
            PruningSchedule(0.9, schedule=Schedule("linear", end=0.6), every=1), stop, net=make_net(Worse), max_epochs=5
        )
    with pytest.warns(UserWarning, match=r"before TernaryCallback was done: Hestia still trained softened weights"):
        fit(ternary("hestia"), stop, net=make_net(Worse), max_epochs=5)
    with pytest.warns(UserWarning, match=r"before TernaryCallback was done: start=3 was not reached"):
        fit(ternary(start=3, freeze=4), EarlyStopping("val_loss", patience=1), net=make_net(Worse), max_epochs=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*training ended at epoch")
        fit(ternary("hestia"), PruningSchedule(0.9, every=1), net=make_net(Worse), max_epochs=5)


def test_best_checkpoint_of_the_float_phase(fit, make_net, tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    with pytest.warns(UserWarning, match=r"best checkpoint by 'val_loss', .* is from the float phase: .*'last'"):
        trainer, net = fit(ternary(start=1), best, net=make_net(Worse))
    trainer.test(net, Loader(), ckpt_path="best", verbose=False)
    assert not ternary_layers(net)
    best = ModelCheckpoint(tmp_path, monitor="val_loss", mode="max")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is from the float phase")
        fit(ternary(start=1), best, net=make_net(Worse))


def test_a_run_does_not_go_on_with_another_method(fit, tmp_path):
    fit(ternary("ttq", start=1), Save(tmp_path))
    with pytest.raises(MisconfigurationException, match=r"hidden: ttq\(\) in the checkpoint, twn\(\) in this run"):
        fit(ternary("twn", start=1), ckpt_path=tmp_path / "epoch1.ckpt")
    with pytest.raises(MisconfigurationException, match="cannot go on with another ternary method: hidden"):
        fit(ternary("ttq", start=1, rules=[Rule("hidden", "twn")]), ckpt_path=tmp_path / "epoch1.ckpt")
    with pytest.warns(UserWarning, match=r"ttq\(\) in the checkpoint, ttq\(threshold=0.1\) in this run"):
        fit(ternary("ttq", start=1, options={"threshold": 0.1}), ckpt_path=tmp_path / "epoch1.ckpt")
    with pytest.warns(UserWarning, match="goes on with other methods"):
        fit(ternary("twn", start=1), ckpt_path=tmp_path / "epoch0.ckpt")


@pytest.mark.parametrize("rounding", [lambda: ActivationQuantization(bits=3), MultiLevelActivation])
def test_a_checkpoint_without_its_rounding(rounding, fit, make_net, make_trainer, tmp_path):
    _, net = fit(ternary(), rounding(), Save(tmp_path))
    path, data = tmp_path / "epoch4.ckpt", Loader()
    name = type(rounding()).__name__
    with pytest.warns(UserWarning, match=f"was trained with {name}, and this Trainer computes without the rounding"):
        make_trainer(ternary()).test(make_net(), data, ckpt_path=path, verbose=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without the rounding")
        expected = make_trainer().test(net, data, verbose=False)
        found = make_trainer(ternary(), rounding()).test(make_net(), data, ckpt_path=path, verbose=False)
    assert found[0]["val_loss"] == pytest.approx(expected[0]["val_loss"], rel=1e-4)
    with pytest.warns(UserWarning, match=f"rounded by {name}, and the loaded network computes without"):
        load_module(path, Net)
    plain = make_net()
    plain.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    with pytest.warns(UserWarning, match=f"{name} rounds nothing"):
        make_trainer(rounding()).test(plain, data, verbose=False)


def test_a_run_does_not_go_on_with_another_rounding(fit, tmp_path):
    fit(ActivationQuantization(bits=6, observe_batches=2), MultiLevelActivation(terms=2), Save(tmp_path), max_epochs=1)
    path = tmp_path / "epoch0.ckpt"
    with pytest.warns(UserWarning, match=r"are rounded to 6 bits, and so they stay: bits=4"):
        fit(ActivationQuantization(bits=4), MultiLevelActivation(terms=2), ckpt_path=path)
    with pytest.raises(MisconfigurationException, match=r"trained as .*'terms': 2.* this run has .*'terms': 3"):
        fit(MultiLevelActivation(terms=3), ckpt_path=path)
