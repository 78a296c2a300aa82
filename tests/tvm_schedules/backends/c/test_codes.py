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


@pytest.mark.parametrize("n", [1, 253, 254, 255, 256, 508, 509, 1000])
def test_gaps_of_any_length(n: int) -> None:
    for at in (0, n - 1):
        row = np.zeros((1, n), np.int8)
        row[0, at] = -1
        data, place, sign = gaps(row).tolist(), -1, 1
        found = []
        for byte in data:
            if byte == 0:
                place, sign = -1, sign - 1
                continue
            place += 254 if byte == 255 else byte
            if byte != 255:
                found.append((place, sign))
        assert found == [(at, 0)]
        assert sign == -1


def test_the_shorter_code_is_taken() -> None:
    rng = np.random.default_rng(0)
    for zeros, is_gaps in ((0.3, False), (0.75, False), (0.9, True), (1.0, True)):
        rows = (rng.choice([-1, 1], (20, 500)) * (rng.random((20, 500)) >= zeros)).astype(np.int8)
        data, found = encode(rows)
        assert found == is_gaps
        assert len(data) == min(len(trits(rows)), len(gaps(rows)))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_byte_decides(rows: int) -> None:
    """Around the number of weights from which both codes are equally long, where every gap takes one byte."""
    taken = []
    for nonzero in range(90, 101):
        row = np.zeros((rows, 500), np.int8)
        row[:, 5 * np.arange(nonzero)] = 1
        data, is_gaps = encode(row)
        assert is_gaps == (rows * (nonzero + 2) < rows * 100)
        assert len(data) == rows * min(nonzero + 2, 100)
        taken.append(is_gaps)
    assert taken == [True] * 8 + [False] * 3
