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


@given(
    st.integers(0, 1000), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.integers(1, 2), st.integers(1, 20),
    st.sampled_from([1, 3, 1000]), st.sampled_from([0.0, 0.6, 0.95]),
)  # fmt: skip
def test_terms_and_parts_add_up_to_a_product(
    seed: int, terms: int, parts: int, size: int, taps: int, limit: int, zeros: float
) -> None:
    """Every term has its levels, and the channels of a part read its own pixels."""
    rng, rows, shift = np.random.default_rng(seed), 4 * parts, 100
    codes = np.stack([shared_codes(rng, rows, taps, zeros, 2) for _ in range(terms)])
    assume(codes.any())
    levels = rng.uniform(0.5, 2, (terms, rows)).astype(np.float32)
    address = rng.permutation(3 * taps)[:taps]
    groups = pattern_lists.members(np.abs(codes).max(0), size, parts)
    found = pattern_lists.pack(codes, levels, address, groups, limit, "int32", shift, parts)
    offsets, starts, first = (found[name] for name in ("offsets", "starts", "first"))
    assert {name: array.dtype.name for name, array in found.items()} == {
        "offsets": "int32", "starts": "int32", "first": "int32", "members": "int32", "levels": "float32",
    }  # fmt: skip
    assert (first[0], first[-1], len(first)) == (0, len(starts), len(groups) + 1)
    assert len(found["levels"]) == len(starts) * size
    np.testing.assert_array_equal(found["members"], groups.ravel())
    patterns = pattern_lists.used(codes, groups)
    pixels = rng.integers(0, 256, parts * shift)
    have = np.zeros((len(groups), size))
    for g in range(len(groups)):
        for segment in range(first[g], first[g + 1]):
            place, sums = int(starts[segment]), np.zeros(size)
            for pattern in patterns:
                for sign in (1, -1):
                    while offsets[place] != END["int32"]:
                        sums += sign * np.array(digits(pattern, size)) * pixels[offsets[place]]
                        place += 1
                    place += 1
            have[g] += sums * found["levels"][segment * size : (segment + 1) * size]
    of_part = pixels.reshape(parts, shift)[np.arange(rows) // (rows // parts)][:, address]
    want = (codes * levels[:, :, None] * of_part).sum((0, 2))
    np.testing.assert_allclose(have, want[groups], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("limit", "many"), [(1000, 1), (2, 3), (1, 5)])
def test_a_first_term_has_a_segment_and_others_only_those_that_they_need(limit: int, many: int) -> None:
    codes = np.zeros((2, 6, 7), np.int8)
    codes[0, :2, :5] = 1  # the first group has codes in one term, the second in both, the third in none
    codes[0, 2, 6] = codes[1, 3, :5] = -1
    groups, address = np.arange(6).reshape(3, 2), np.arange(7)
    found = pattern_lists.pack(codes, np.ones((2, 6)), address, groups, limit, "int32")
    assert found["first"].tolist() == [0, many, 2 * many + 1, 2 * many + 2]
    assert pattern_lists.work(codes, groups, limit) == (11, 2 * many + 1 + many, 2 * many + 1)


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


def test_channels_that_share_their_zeros_with_another_part_alone_stay_in_theirs() -> None:
    one, other = np.tile(np.int8([1, 0]), 30), np.tile(np.int8([0, 1]), 30)
    codes = np.stack([one if name == "a" else other for name in "ababaabababa"])
    groups = pattern_lists.members(codes, 2, parts=2)
    assert (groups // 6 == groups[:, :1] // 6).all()
    assert sorted(groups.ravel().tolist()) == list(range(12))
    assert (
        int((codes[groups] != 0).any(1).sum()) == 5 * 30 + 60
    )  # three of a kind in the second part leave a pair of two
