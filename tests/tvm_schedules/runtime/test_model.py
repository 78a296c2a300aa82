"""What every model can: inputs by position and name, any number of samples, copies. The smallest one shows it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_schedules.backends.c.runtime import CModel
from tvm_schedules.backends.cpu.runtime import CpuModel
from tvm_schedules.backends.gpu.runtime import GpuModel
from tvm_schedules.errors import InputError
from tvm_schedules.ir.plan import Plan, StepInfo, TensorInfo
from tvm_schedules.runtime.model import Model, SteppedModel


def plan(batch: bool, size: int = 2) -> Plan:
    ends = [TensorInfo(name, (size, 3), "float32", batch=batch) for name in ("a", "b", "sum", "product")]
    return Plan(tuple(ends[:2]), tuple(ends[2:]), (StepInfo("both", "numpy"),), (), 0)


class Numpy(Model):
    """Two inputs, two outputs; remembers the shapes that it has run."""

    def __init__(self, batch: bool = True, size: int = 2) -> None:
        super().__init__(plan(batch, size), {"sha256": "1234"})
        self.seen: list[int] = []

    def _run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        a, b = arrays
        self.seen.append(len(a))
        return [a + b, a * b]


def loaded(source: str, threads: int | None, digest: str) -> Model:
    made = Numpy()
    made.threads = threads
    made.loaded_from(Path(source), loaded, {})
    assert digest == "1234"
    return made


def numbers(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(count)
    a, b = random.normal(size=(2, count, 3)).astype(np.float32)
    return a, b


def test_calls() -> None:
    model, (a, b) = Numpy(False), numbers(2)
    for results in (model(a, b), model(a, b=b), model(b=b, a=a)):
        assert isinstance(results, tuple)
        np.testing.assert_array_equal(results, [a + b, a * b])
    assert repr(model) == "Numpy(a: float32[2, 3], b: float32[2, 3] -> sum: float32[2, 3], product: float32[2, 3])"
    assert model.batch_sizes == ()
    with pytest.raises(InputError, match="its first axis is not known to count samples"):
        model(*numbers(4))
    with pytest.raises(InputError, match="'b' is missing"):
        model(a)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 11])
def test_any_number_of_samples(count: int) -> None:
    """By the largest pieces that fit, which are other models' of the same network."""
    model, larger = Numpy(), Numpy(size=4)
    model.loaded_from(Path("/out"), loaded, {4: larger})
    assert model.batch_sizes == (2, 4)
    a, b = numbers(count)
    np.testing.assert_array_equal(model(a, b), [a + b, a * b])
    if count != 2:
        assert len(larger.seen) == count // 4
        assert len(model.seen) == -(-(count % 4) // 2)


def test_threads_are_set_for_all_numbers_of_samples() -> None:
    model, larger = Numpy(), Numpy(size=4)
    model.loaded_from(Path("/out"), loaded, {4: larger})
    model.threads = 3
    assert (model.threads, larger.threads) == (3, 3)
    for wrong, error in ((0, ValueError), (129, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="from 1 to 128"):
            model.threads = wrong  # type: ignore[assignment]
    assert model.threads == 3


def test_copies_of_a_model_that_cannot_be_doubled_are_loaded_again() -> None:
    model: Any = Numpy()
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="Numpy was not loaded from an artifact"):
            make(model)
    model.loaded_from(Path("/out"), loaded, {})
    model.threads = 5
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is Numpy
        assert other is not model
        assert (other.source, other.threads, other.inputs) == (Path("/out"), 5, model.inputs)


def test_models_of_the_back_ends() -> None:
    assert issubclass(CpuModel, SteppedModel)
    assert issubclass(GpuModel, SteppedModel)
    assert issubclass(CModel, Model)
    assert not issubclass(CModel, SteppedModel)
    with pytest.raises(TypeError, match="abstract"):
        Model(plan(True))  # type: ignore[abstract]
