"""Boundaries of phases in words."""

import warnings
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, IterableDataset

from tern_lightning import TernaryCallback
from tern_lightning.callbacks._clock import Origin, Progress
from tern_lightning.callbacks._phases import check_order, describe, never, next_phase, reached
from tests.tern_lightning.training_nets import samples


def trainer(max_epochs=10, max_steps=-1):
    return SimpleNamespace(
        max_epochs=max_epochs, max_steps=max_steps, num_training_batches=7, current_epoch=0, global_step=0
    )


@pytest.mark.parametrize(
    ("start", "freeze", "limits", "expected"),
    [
        (0, 0.6, {}, "ternary from epoch 0, frozen from epoch 6"),
        (0.25, 0.99, {}, "ternary from epoch 2.5, frozen from epoch 9.9"),
        (0.0, 1.0, {}, "ternary from epoch 0, frozen from epoch 10"),
        (3, None, {}, "ternary from epoch 3, never frozen"),
        (0.0, 0.5, {"max_steps": 31}, "ternary from epoch 0, frozen from step 16"),
        (0.1, 4, {"max_steps": 30}, "ternary from step 3, frozen from epoch 4"),
        (2, 0.5, {"max_epochs": -1}, "ternary from epoch 2, never frozen"),
    ],
)
def test_describe(start, freeze, limits, expected):
    assert describe(trainer(**limits), start, freeze) == expected


def test_phase_never_goes_back():
    late, early = Progress(4, 0.8), Progress(4, 0.4)
    assert next_phase("float", 0, 0.6, late) == "frozen"
    assert next_phase("frozen", 0, 0.6, early) == "frozen"
    assert next_phase("ternary", 9, None, early) == "ternary"
    assert reached(0.6, Progress(3, 3 * 0.2))
    assert not reached(0.1, Progress(3, None))


def ternary(method="twn", **options):
    return TernaryCallback(method, **{"verbose": False, "bn_batches": 2, **options})


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
