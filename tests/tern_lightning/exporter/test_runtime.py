"""How far outputs are apart, by numbers that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tern_lightning.exporter.errors import ExportError, VerificationError
from tern_lightning.exporter.runtime import (
    FLOAT_TOLERANCE,
    ROUNDING_TOLERANCE,
    Comparison,
    compare,
    run_batches,
    run_onnx,
)
from tests.tvm_schedules.nets import Net


def test_distances_by_hand() -> None:
    found = compare([np.float32([3, 0])], [np.float32([4, 3])], 0.5, "relative_l2")
    assert found.cosine == pytest.approx(12 / (3 * 5))
    assert found.max_abs == 3
    assert found.max_relative == pytest.approx(3 / 4)
    assert found.relative_l2 == pytest.approx(math.sqrt(10) / 5)
    assert found.top1 is None
    assert (found.tolerance, found.measure) == (0.5, "relative_l2")


def test_the_worst_output_counts() -> None:
    near, far = (np.float32([1, 2]), np.float32([1, 2.02])), (np.float32([1, 0]), np.float32([0, 4]))
    for pairs in ((near, far), (far, near)):
        found = compare([a for a, _ in pairs], [b for _, b in pairs], 0.0, "max_relative")
        assert found.cosine == 0
        assert found.max_abs == 4
        assert found.max_relative == 1
        assert found.relative_l2 == pytest.approx(math.sqrt(17) / 4)


@pytest.mark.parametrize(
    ("actual", "expected", "distances"),
    [
        ([], [], (1, 0, 0, 0)),
        ([0, 0], [0, 0], (1, 0, 0, 0)),
        ([0, 3], [0, 0], (0, 3, 3, 3)),
        ([0, 0], [3, 4], (0, 4, 1, 1)),
        ([-3, -4], [3, 4], (-1, 8, 2, 2)),
    ],
)
def test_zeros(actual: list[float], expected: list[float], distances: tuple[float, ...]) -> None:
    found = compare([np.float32(actual)], [np.float32(expected)], 0.0, "max_relative")
    assert (found.cosine, found.max_abs, found.max_relative, found.relative_l2) == pytest.approx(distances)


def test_classes_that_agree() -> None:
    actual, expected = np.float32([[1, 2], [3, 1], [0, 1], [5, 2]]), np.float32([[0, 9], [1, 2], [0, 3], [7, 1]])
    assert compare([actual, actual], [expected, actual], 0.0, "max_relative").top1 == 0.75
    assert compare([actual[:, :1]], [expected[:, :1]], 0.0, "max_relative").top1 is None
    assert compare([actual[None]], [expected[None]], 0.0, "max_relative").top1 is None


def test_other_shapes_are_refused() -> None:
    with pytest.raises(VerificationError, match="shapes"):
        compare([np.zeros(2)], [np.zeros((2, 1))], 0.0, "max_relative")
    with pytest.raises(VerificationError, match="shapes"):
        compare([np.zeros(2)], [np.zeros(2)] * 2, 0.0, "max_relative")


@pytest.mark.parametrize(("measure", "passed"), [("max_relative", True), ("relative_l2", False)])
def test_the_measure_is_held_against_the_tolerance(measure: str, passed: bool) -> None:
    assert Comparison(1.0, 9.0, 0.1, 0.2, None, 0.1, measure).passed is passed
    assert not Comparison(1.0, 0.0, math.nan, math.nan, None, 0.1, measure).passed


def test_what_it_says() -> None:
    found = Comparison(0.5, 9.0, 0.125, 0.25, 0.75, 0.1, "max_relative")
    assert str(found) == "cosine 0.500000, max abs 9, top-1 agreement 75.0%, max relative 0.125 (tolerance 0.1)"
    assert "top-1" not in str(Comparison(0.5, 9.0, 0.125, 0.25, None, 0.1, "max_relative"))
    free = Comparison(0.5, 9.0, 0.125, 0.25, None, math.inf, "max_relative")
    assert str(free) == "cosine 0.500000, max abs 9, max relative 0.125"


def test_tolerances() -> None:
    assert FLOAT_TOLERANCE == 1e-4
    # Rounding to 8 bits, uniform noise of a step of a 255th, in a tensor whose peak is 18 times its root mean square.
    assert pytest.approx(18 / 255 / math.sqrt(12), abs=4e-4) == ROUNDING_TOLERANCE


def test_tensors_inside_and_inputs() -> None:
    net = Net((2, 3), (2, 3))
    middle = net.op("Add", "input_0", "input_1")
    model = net.model(net.op("Mul", middle, "input_0"))
    a, b = np.float32([[1, 2, 3], [4, 5, 6]]), np.float32([[6, 5, 4], [3, 2, 1]])
    assert [array.tolist() for array in run_onnx(model, [a, b])] == [(7 * a).tolist()]
    found = run_onnx(model, [a, b], [middle, "input_1", "input_0"])
    assert [array.tolist() for array in found] == [(a + b).tolist(), b.tolist(), a.tolist()]
    twice = list(run_batches(model, [(a, b), (b, b)]))
    assert [array.tolist() for (array,) in twice] == [(7 * a).tolist(), (2 * b * b).tolist()]
    with pytest.raises(ExportError, match="onnxruntime does not run"):
        run_onnx(model, [a, b[:1, :2]])
    with pytest.raises(ExportError, match="onnxruntime does not run"):
        run_onnx(model, [a])
