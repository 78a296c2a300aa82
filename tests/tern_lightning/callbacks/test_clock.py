"""Callbacks that join a run late: phases and schedules count from there."""

import warnings

import pytest

from tern_lightning import Schedule, TernaryCallback
from tern_lightning.callbacks import (
    SLR,
    EntropyConstraint,
    EntropyPruning,
    PruningSchedule,
    StructuredPruning,
    WeightPenaltyClipping,
)
from tern_lightning.callbacks._clock import Clock, Origin, progress
from tests.tern_lightning.training_nets import Loader, Net, Save
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
