"""The codes of ternary weights in C tables, read back by independent code."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_schedules.backends.c.codes import encode, gaps, trits


def decode_trits(data: np.ndarray, n: int) -> list[list[int]]:
    width = -(-n // 5)
    rows = []
    for start in range(0, len(data), width):
        row = []
        for byte in data[start : start + width].tolist():
            for _ in range(5):
                byte *= 3
                row.append((byte >> 8) - 1)
                byte &= 255
        rows.append(row[:n])
    return rows


def test_trits_hold_every_byte() -> None:
    rows = np.array(np.meshgrid(*[[-1, 0, 1]] * 5)).reshape(5, -1).T.astype(np.int8)
    assert decode_trits(trits(rows), 5) == rows.tolist()
    assert decode_trits(trits(rows[:, :3]), 3) == rows[:, :3].tolist()


@pytest.mark.parametrize("n", [1, 254, 255, 256, 257, 510, 511, 1000])
def test_gaps_of_any_length(n: int) -> None:
    for at in (0, n - 1):
        row = np.zeros((1, n), np.int8)
        row[0, at] = -1
        data, place, sign, found = iter(gaps(row).tolist()), -1, 1, []
        for byte in data:
            further = byte or next(data)
            place += further
            if byte:
                found.append((place, sign))
            elif not further:
                place, sign = -1, sign - 2
        assert found == [(at, -1)]
        assert sign == -3


def test_gaps_are_taken_up_to_a_quarter_longer() -> None:
    rng = np.random.default_rng(0)
    for zeros, is_gaps in ((0.3, False), (0.7, False), (0.78, True), (0.9, True), (1.0, True)):
        rows = (rng.choice([-1, 1], (20, 500)) * (rng.random((20, 500)) >= zeros)).astype(np.int8)
        data, found = encode(rows)
        assert found == is_gaps
        assert len(data) == len(gaps(rows) if is_gaps else trits(rows))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_byte_decides(rows: int) -> None:
    """Around the number of weights from which the codes differ by a quarter, where every gap takes one byte."""
    taken = []
    for nonzero in range(116, 127):
        row = np.zeros((rows, 500), np.int8)
        row[:, :nonzero] = 1
        data, is_gaps = encode(row)
        assert is_gaps == (rows * (nonzero + 4) <= rows * 125)
        assert len(data) == rows * (nonzero + 4 if is_gaps else 100)
        taken.append(is_gaps)
    assert taken == [True] * 6 + [False] * 5
