"""Lists of patterns, read as the kernel reads them: what they sum is the product with the codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.tvm_schedules.packing.codes import random_codes
from tvm_schedules.packing import pattern_lists
from tvm_schedules.packing.pattern_lists import END, digits


def shared_codes(rng: np.random.Generator, rows: int, taps: int, zeros: float, shared: int) -> np.ndarray:
    kept = np.repeat(rng.random((-(-rows // shared), taps)) >= zeros, shared, axis=0)[:rows]
    return (rng.choice([-1, 1], (rows, taps)) * kept).astype(np.int8)


@given(
    st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40), st.sampled_from([2, 3, 4]),
    st.sampled_from([1, 2, 5, 1000]), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([1, 2, 4]),
    st.sampled_from(["uint16", "int32"]),
)  # fmt: skip
def test_lists_add_up_to_a_product(
    seed: int, rows: int, taps: int, size: int, limit: int, zeros: float, shared: int, index: str
) -> None:
    rng = np.random.default_rng(seed)
    codes = shared_codes(rng, rows, taps, zeros, shared)
    assume(codes.any())
    address = rng.permutation(3 * taps)[:taps]
    groups = pattern_lists.members(codes, size)
    found = pattern_lists.pack(codes[None], np.ones((1, rows)), address, groups, limit, index)
    offsets, starts, first = (found[name] for name in ("offsets", "starts", "first"))
    assert (offsets.dtype, starts.dtype, first.dtype) == (index, np.int32, np.int32)
    assert sorted(groups.ravel()[:rows].tolist()) == list(range(rows))
    patterns = pattern_lists.used(codes[None], groups)
    pixels = rng.integers(0, 256, 3 * taps)
    have = np.zeros((len(groups), size), np.int64)
    joins = lists = added = 0
    for g in range(len(groups)):
        for segment in range(first[g], first[g + 1]):
            place, counts = int(starts[segment]), np.zeros((2, size), np.int64)
            for pattern in patterns:
                code, before = np.array(digits(pattern, size)), added
                for sign in (1, -1):
                    own = []
                    while offsets[place] != END[index]:
                        own.append(int(offsets[place]))
                        place += 1
                    place += 1
                    assert own == sorted(own)
                    have[g] += sign * code * pixels[own].sum()
                    counts += len(own) * np.stack([sign * code > 0, sign * code < 0])
                    lists, added = lists + bool(own), added + len(own)
                joins += np.count_nonzero(code) if added > before else 0
            assert counts.max() <= limit
            assert place == (starts[segment + 1] if segment + 1 < len(starts) else len(offsets))
    want = codes.astype(np.int64) @ pixels[address]
    np.testing.assert_array_equal(have, want[groups])
    assert pattern_lists.work(codes[None][..., np.argsort(address)], groups, limit) == (added, joins, lists)


@given(
    st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40), st.sampled_from([2, 3, 4]),
    st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_lists_with_bounds_add_up_to_a_product(
    seed: int, rows: int, taps: int, size: int, zeros: float, shared: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = shared_codes(rng, rows, taps, zeros, shared)
    assume(codes.any())
    address, pixels = rng.permutation(3 * taps)[:taps], rng.integers(0, 256, 3 * taps)
    groups = pattern_lists.members(codes, size)
    found = pattern_lists.pack_bounded(codes, address, groups, "uint16")
    bounds, patterns = found["bounds"], pattern_lists.used(codes[None], groups)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, len(found["offsets"]), 2 * len(patterns) * len(groups) + 1)
    sums = [pixels[found["offsets"][a:b]].sum() for a, b in itertools.pairwise(bounds)]
    parts = np.array(sums, np.int64).reshape(len(groups), len(patterns), 2)
    signs = np.array([digits(pattern, size) for pattern in patterns])
    have = (parts[:, :, 0] - parts[:, :, 1]) @ signs
    np.testing.assert_array_equal(have, (codes.astype(np.int64) @ pixels[address])[groups])
    np.testing.assert_array_equal(found["members"], groups.ravel())


def test_digits_are_all_patterns_up_to_the_sign() -> None:
    for size in (2, 3, 4):
        most = (3**size - 1) // 2
        assert len({digits(pattern, size) for pattern in range(-most, most + 1)}) == 3**size
        for pattern in range(1, most + 1):
            assert digits(-pattern, size) == tuple(-digit for digit in digits(pattern, size))


@pytest.mark.parametrize("size", [2, 4])
def test_channels_that_share_their_zeros_are_found_wherever_they_are(size: int) -> None:
    rng = np.random.default_rng(0)
    codes = shared_codes(rng, 16, 60, 0.7, size)
    patterns = 2 ** (size - 1)
    for order in (np.arange(16), rng.permutation(16)):
        groups = pattern_lists.members(codes[order], size)
        assert len(pattern_lists.used(codes[None, order], groups)) == patterns
        work = pattern_lists.work(codes[None, order], groups, 1000)
        assert work.taps * size == np.count_nonzero(codes)
    # Nothing is shared: neighbors stay together.
    groups = pattern_lists.members(random_codes(rng, (7, 50), 0.0), size)
    assert groups.ravel()[:7].tolist() == list(range(7))
    assert set(groups.ravel()[7:].tolist()) == {6}


def test_channels_of_a_grouped_convolution_stay_in_their_part() -> None:
    rng = np.random.default_rng(1)
    codes = rng.permutation(shared_codes(rng, 8, 60, 0.7, 2))
    codes = np.concatenate([codes, rng.permutation(codes)])
    groups = pattern_lists.members(codes, 2, parts=2)
    assert (groups // 8 == groups[:, :1] // 8).all()
    assert (np.sort(groups.ravel()) == np.arange(16)).all()
    assert ((codes[groups] != 0).any(1) == (codes[groups] != 0).all(1)).all()
