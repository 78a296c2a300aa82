"""Instructions that libraries execute on the emulated board: exact numbers, so that a budget is a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.arm import count, models, tools
from tests.arm import board

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(tools.missing() is not None, reason=str(tools.missing())),
]

ZEROS = 0.8
SHARES = {"a72": 0.25, "a76": 0.6}
"""Of onnxruntime's instructions at most, without and with dot products."""


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    """The board, or a skip where its packages cannot be fetched."""
    try:
        board.prepare()
    except board.BoardError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("target", ["a72", "a76"])
def test_layer_takes_a_share_of_the_instructions_of_onnxruntime(target: str, tmp_path: Path) -> None:
    found = count.layer("conv3x3", ZEROS, target, tmp_path)
    ours, theirs = found["tern"].counts, found["onnxruntime"].counts
    one = models.LAYERS["conv3x3"]
    products = one.rows * one.fan * one.kernel**2 * one.size**2
    # The counter sees what is known to be there: 8 products an instruction, 16 with dot products.
    assert (theirs["dot"] if target == "a76" else theirs["mla"]) >= products // (16 if target == "a76" else 8)
    assert ours["all"] == sum(ours[kind] for kind in ("ldst", "simd", "branch", "scalar"))
    assert ours["all"] <= SHARES[target] * theirs["all"]
    # Two additions and half a load for 16 pixels of a tap, one vector in 17 for the halo, and little else.
    taps = products * (1 - ZEROS) / 16
    assert 2 * taps < ours["simd"] < 2.6 * taps
    assert ours["all"] < 3.6 * taps


def test_counts_are_the_same_in_every_run(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    runs = [count.layer("conv3x3-8", ZEROS, "a72", tmp_path / name, peer=False) for name in ("first", "second")]
    first, second = (run["tern"].counts for run in runs)
    assert first["simd"] == pytest.approx(second["simd"], rel=1e-3)
    assert first["all"] == pytest.approx(second["all"], rel=5e-3)


def test_resnet20_takes_a_share_of_the_instructions_of_onnxruntime(tmp_path: Path) -> None:
    found = count.network(models.resnet20(ZEROS), "a72", tmp_path)
    assert found["tern"].counts["all"] <= SHARES["a72"] * found["onnxruntime"].counts["all"]
    steps = sum(step["region"].counts["all"] for step in found["steps"])
    assert found["tern"].counts["all"] == pytest.approx(steps, rel=0.01)
