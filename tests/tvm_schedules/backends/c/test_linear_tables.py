"""Tables of linear layers, read back by independent code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tvm_schedules.backends.c.codes import lists
from tvm_schedules.backends.c.kernels.common import linear_tables
from tvm_schedules.backends.c.program import CORES


def codes(outputs: int, inputs: int, zeros: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.choice([-1, 1], (outputs, inputs)) * (rng.random((outputs, inputs)) >= zeros)).astype(np.int8)


def read_lists(data: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    rows, at, data = np.zeros((outputs, inputs), np.int8), 0, data.astype(int)
    for row in rows:
        for start in range(0, inputs, 256):
            for sign in (1, -1):
                found = data[at + 1 : at + 1 + data[at]]
                assert not row[start + found].any()
                row[start + found] = sign
                at += 1 + data[at]
    assert at + 15 == len(data)
    return rows


@examples(60)
@given(st.integers(1, 5), st.integers(1, 700), st.floats(0.77, 1), st.integers(0, 99))
def test_lists_hold_every_place(outputs: int, inputs: int, zeros: float, seed: int) -> None:
    rows = codes(outputs, inputs, zeros, seed)
    tables, found = linear_tables.ternary(rows)
    assert found == (lists(rows) is not None)
    if found:
        assert all(np.array_equal(tables[core], tables["plain"]) for core in CORES)
        np.testing.assert_array_equal(read_lists(tables["plain"], outputs, inputs), rows)


def test_a_window_of_one_sign_is_no_list() -> None:
    rows = np.zeros((1, 4096), np.int8)
    rows[0, 256:511] = 1
    assert lists(rows) is not None
    rows[0, 511] = 1
    assert lists(rows) is None


@pytest.mark.parametrize("rows", [1, 3])
def test_a_byte_decides(rows: int) -> None:
    """Around the number of weights from which the codes differ by a quarter."""
    for nonzero in range(116, 127):
        row = np.zeros((rows, 500), np.int8)
        row[:, :nonzero] = 1
        assert (lists(row) is not None) == (nonzero + 4 <= 125)


@pytest.mark.parametrize("inputs", [1, 4, 16, 63, 64, 65, 130])
def test_two_bits_stand_where_the_cores_read_them(inputs: int) -> None:
    rows = codes(6, inputs, 0.3)
    tables, found = linear_tables.ternary(rows)
    assert not found
    plain, words = (tables[core].view("<u4").astype(int).reshape(-1, -(-inputs // 8), 2) for core in ("plain", "dsp"))
    vectors = tables["mve"].reshape(6, -1, 16)
    assert len(plain) == len(words) == 2, "fours of rows"
    for row in range(6):
        four, pair, odd = row // 4, row % 4 // 2, row % 2
        for i in range(inputs):
            assert plain[four, i // 8, pair] >> (2 * (i % 8) + 16 * odd) & 3 == rows[row, i] + 1
            word, (j, b) = words[four, i // 8, pair], divmod(i % 8, 4)
            half = np.array([(word >> 8 * j + 4 * (b % 2) | word << 32 - 8 * j - 4 * (b % 2)) >> 16 * (b // 2)])
            lane = (half & 0xC003).astype(np.int16)[0]  # as the core has it: a product takes a signed half
            assert (lane >> 14 == rows[row, i]) if odd else (lane & 3 == rows[row, i] + 1)
            assert vectors[row, i // 64, i % 16] >> 2 * (i % 64 // 16) & 3 == rows[row, i] + 1


@pytest.mark.parametrize(("outputs", "inputs"), [(4, 4), (4, 7), (9, 12), (11, 1), (3, 8)])
def test_four_dense_rows_stand_together(outputs: int, inputs: int) -> None:
    rows = np.random.default_rng(0).integers(-127, 128, (outputs, inputs)).astype(np.int8)
    tables, fours = linear_tables.dense(rows)
    assert np.array_equal(tables["plain"], rows)
    assert fours == (outputs >= 4)
    whole, width = outputs // 4 * 4, -(-inputs // 4) * 4
    if not fours:
        return
    data = tables["dsp"].tobytes()
    halves = np.frombuffer(data[: whole * width], "<i2").astype(int).reshape(-1, width // 4, 2, 2, 2)
    for row in range(whole):
        for i in range(inputs):
            both = halves[row // 4, i // 4, i % 2, row % 4 // 2, i % 4 // 2]
            odd = (both + 128) % 256 - 128
            assert (odd if row % 2 else (both - odd) // 256) == rows[row, i]
    rest = np.frombuffer(data[whole * width :], np.int8)[: (outputs - whole) * inputs]
    np.testing.assert_array_equal(rest.reshape(-1, inputs), rows[whole:])


def test_weights_that_no_half_holds_stay_apart() -> None:
    rows = np.full((4, 4), -128, np.int8)
    tables, fours = linear_tables.dense(rows)
    assert not fours
    assert all(tables[core] is rows for core in CORES)
