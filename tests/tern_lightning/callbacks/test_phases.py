"""Boundaries of phases in words."""

from types import SimpleNamespace

import pytest

from tern_lightning.callbacks._clock import Progress
from tern_lightning.callbacks._phases import describe, next_phase, reached


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
