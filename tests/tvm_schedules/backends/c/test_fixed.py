"""The epilogue in whole numbers against the float formula, computed by numpy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tvm_schedules.backends.c.fixed import LEFT, Fixed, fixed


def floats(scale: np.ndarray, bias: np.ndarray, factor: float, sums: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Bytes by the float formula: both steps exact in float64 but for what float32 rounds."""
    y = (sums.astype(np.float64) * scale.astype(np.float64) + bias.astype(np.float64)).astype(np.float32)
    y = (residual.astype(np.float64) * np.float32(factor) + y.astype(np.float64)).astype(np.float32)
    return np.clip(np.rint(y), 0, 255).astype(np.int64)


def whole(found: Fixed, sums: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bytes as source/finish_fixed.c computes them, and which of them are left to floats."""
    table = found.table.astype(np.int64)
    lower = (sums & (1 << found.shift) - 1) * table[:, :1]
    upper = (sums >> found.shift) * table[:, :1] + table[:, 1:]
    whole = table[:, 1:] == LEFT
    p = upper + (lower >> found.shift) + np.where(whole, 0, residual * found.residual)
    for number in (lower, upper, p):
        assert number.min() >= -(2**31)
        assert number.max() < 2**31
    rest = p & ((1 << found.bits) - 1)
    left = (rest <= found.near) | (rest >= (1 << found.bits) - found.near)
    return np.clip(p >> found.bits, 0, 255), left


@examples(200)
@given(
    seed=st.integers(0, 2**31),
    largest=st.integers(1, 3_000_000),
    reach=st.floats(0.01, 600),
    beyond=st.sampled_from([1.0, 1.0, 30.0, 1e5]),
    middle=st.floats(-300, 300),
    factor=st.sampled_from([0.0, 0.004, 0.7, -1.3]),
)
def test_same_bytes_where_floats_do_not_decide(
    seed: int, largest: int, reach: float, beyond: float, middle: float, factor: float
) -> None:
    """One of five channels may reach further than the others."""
    rng = np.random.default_rng(seed)
    most = rng.integers(1, largest, 5, endpoint=True)
    scale = (rng.uniform(-1, 1, 5) * reach / largest).astype(np.float32)
    scale[3] *= np.float32(beyond)
    bias = rng.uniform(middle - 50, middle + 50, 5).astype(np.float32)
    sums = rng.integers(-most[:, None], most[:, None], (5, 400), endpoint=True)
    residual = rng.integers(0, 256, (5, 400)) if factor else np.zeros((5, 400), np.int64)
    found = fixed(scale, bias, float(np.float32(factor)), most)
    assert found is not None
    ours, left = whole(found, sums, residual)
    theirs = floats(scale[:, None], bias[:, None], factor, sums, residual)
    np.testing.assert_array_equal(ours[~left], theirs[~left])
    exact = scale[:, None].astype(float) * sums + bias[:, None] + np.float32(factor).astype(float) * residual
    edges = abs(exact - np.floor(exact) - 0.5)
    kept = found.table[:, 1] != LEFT
    assert {*np.flatnonzero(~kept).tolist()} <= ({3} if beyond > 1 else set())
    assert (edges[kept][left[kept]] <= 2 * found.near / 2.0**found.bits).all()


def test_few_are_left_to_floats_in_a_usual_layer() -> None:
    rng = np.random.default_rng(0)
    found = fixed(rng.uniform(0.005, 0.02, 64), rng.uniform(-20, 20, 64), 0.0, np.full(64, 58 * 255))
    assert found is not None
    assert 2 * found.near < 0.02 * 2**found.bits


def test_middles_between_two_bytes_are_left_to_floats() -> None:
    """2.5 rounds to 2 and 3.5 to 4: halves of bytes are no business of whole numbers."""
    scale, bias = np.float32([0.5]), np.float32([0])
    found = fixed(scale, bias, 0.0, np.array([400]))
    assert found is not None
    _, left = whole(found, np.arange(400)[None], np.zeros((1, 400), np.int64))
    assert left[0, 1::2].all()
    assert not left[0, ::2].any()


def test_a_channel_out_of_reach_leaves_the_others_in_whole_numbers() -> None:
    scale, most = np.full(64, 0.01, np.float32), np.full(64, 58 * 255)
    scale[[7, 30]] = 10
    found = fixed(scale, np.zeros(64, np.float32), 0.0, most)
    assert found is not None
    assert np.flatnonzero(found.table[:, 1] == LEFT).tolist() == [7, 30]
    assert 2 * found.near < 0.02 * 2**found.bits


def test_many_bits_of_sums_leave_as_little_to_floats() -> None:
    """Sums of a dense layer; their lower bits are not left away."""
    found = fixed(np.full(8, 0.004, np.float32), np.zeros(8, np.float32), 0.0, np.full(8, 200_000))
    assert found is not None
    assert 2 * found.near < 0.005 * 2**found.bits


def test_numbers_out_of_reach_are_left_to_floats() -> None:
    assert fixed(np.float32([1e4]), np.float32([0]), 0.0, np.array([30_000])) is None
    assert fixed(np.float32([np.inf]), np.float32([0]), 0.0, np.array([1])) is None
    assert fixed(np.float32([]), np.float32([]), 0.0, np.array([], np.int64)) is None
