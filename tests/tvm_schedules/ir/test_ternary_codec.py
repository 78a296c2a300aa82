"""Codes in files: read back by independent code, close to their entropy, safe against damage."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tvm_schedules.ir import ternary_codec as huffman
from tvm_schedules.ir.ternary_tensor import TernaryTensor


def codes_of(shape: tuple[int, ...], zeros: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.choice([-1, 0, 1], shape, p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2]).astype(np.int8)


def by_hand(data: bytes, terms: int, count: int) -> list[list[int]]:
    """The definition, weight by weight."""
    found: list[list[int]] = []
    for first in range(0, terms, 5):
        together = min(5, terms - first)
        streams, form, data = [], data[0], data[1:]
        for _ in range(1 + form):
            reader = zlib.decompressobj(-15)
            streams.append(reader.decompress(data))
            data = reader.unused_data
        symbols = []
        if form == 0:
            for byte in streams[0]:
                for _ in range({1: 5, 2: 2}.get(together, 1)):
                    symbols.append(byte % 3**together)
                    byte //= 3**together
        else:
            values = list(streams[0])
            for step in streams[1]:
                symbols += [0] * (254 if step == 255 else step - 1)
                if step < 255:
                    symbols.append(values.pop(0))
            symbols += [0] * (count - len(symbols))
        found += [[(symbol // 3**t % 3 + 1) % 3 - 1 for symbol in symbols[:count]] for t in range(together)]
    assert data == b""
    return found


@examples(150)
@given(st.integers(1, 7), st.integers(0, 900), st.floats(0, 1), st.integers(0, 99))
def test_codes_come_back(terms: int, count: int, zeros: float, seed: int) -> None:
    codes = codes_of((terms, count), zeros, seed)
    data = huffman.encode(codes)
    np.testing.assert_array_equal(huffman.decode(data, terms, count), codes)
    assert by_hand(data.tobytes(), terms, count) == codes.tolist()


@pytest.mark.parametrize("count", [253, 254, 255, 508, 509, 1000, 5000])
@pytest.mark.parametrize("last", [False, True])
def test_long_gaps(count: int, last: bool) -> None:
    codes = np.zeros((1, count), np.int8)
    codes[0, count - 1 if last else 0] = -1
    data = huffman.encode(codes)
    np.testing.assert_array_equal(huffman.decode(data, 1, count), codes)
    assert by_hand(data.tobytes(), 1, count) == codes.tolist()


@pytest.mark.parametrize("terms", [1, 2])
@pytest.mark.parametrize("zeros", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98])
def test_random_codes_take_little_more_than_their_entropy(zeros: float, terms: int) -> None:
    codes = codes_of((terms, 300_000), zeros)
    shares = np.unique(codes, axis=1, return_counts=True)[1] / codes.shape[1]
    bound = -(shares * np.log2(shares)).sum() * codes.shape[1] / 8
    assert bound <= len(huffman.encode(codes)) <= 1.07 * bound


def test_pruned_channels_take_almost_nothing() -> None:
    codes = codes_of((1, 64, 576), 0.5)
    whole = len(huffman.encode(codes))
    codes[:, ::2] = 0
    assert len(huffman.encode(codes)) < 0.6 * whole
    assert len(huffman.encode(np.zeros_like(codes))) < 10


@examples(300)
@given(st.integers(1, 2), st.sampled_from([0.4, 0.95]), st.integers(0, 2**32 - 1))
def test_damage_is_an_error_or_other_codes_and_nothing_else(terms: int, zeros: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = huffman.encode(codes_of((terms, 300), zeros)).copy()
    data[random.integers(len(data))] ^= 1 << random.integers(8)
    try:
        found = huffman.decode(data, terms, 300)
    except ValueError:
        return
    assert found.shape == (terms, 300)
    assert set(np.unique(found)) <= {-1, 0, 1}


@pytest.mark.parametrize("zeros", [0.4, 0.95])
def test_other_sizes_are_refused(zeros: float) -> None:
    data = huffman.encode(codes_of((1, 300), zeros))
    for bad, terms, count in (
        (data[:-1], 1, 300),
        (data[:0], 1, 300),
        (data, 1, 100),
        (np.append(data, data), 1, 300),
    ):
        with pytest.raises(ValueError, match="must be codes of"):
            huffman.decode(bad, terms, count)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_bomb_is_not_unpacked(count: int) -> None:
    bomb = bytes([0]) + zlib.compress(bytes(200_000_000), 9, -15)
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="end where it should"):
            huffman.decode(np.frombuffer(bomb, np.uint8), 1, count)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("terms", "count"), [(1, -1), (1, -5), (-1, 10), (-6, -1)])
@pytest.mark.parametrize("form", [0, 1])
def test_negative_counts_unpack_nothing(form: int, terms: int, count: int) -> None:
    """Zlib takes a largest size of zero, which -1 + 1 is, for none at all."""
    bomb = bytes([form]) + 2 * zlib.compress(bytes(50_000_000), 9, -15)
    import tracemalloc

    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="terms and count must be"):
            huffman.decode(np.frombuffer(bomb, np.uint8), terms, count)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [[], [1, -3, -4], [-1, 4], [1, 2**32, 2**32]])
def test_shapes_that_no_weight_has(shape: list[int]) -> None:
    """The product of the last is zero in 64 bits."""
    data = huffman.encode(np.zeros((1, 0), np.int8))
    with pytest.raises((ValueError, MemoryError)):
        TernaryTensor.from_stored({"codes": data}, shape)


def test_the_most_weights_of_a_term() -> None:
    nothing = np.zeros(0, np.uint8)
    assert huffman.decode(nothing, 0, 2**40).shape == (0, 2**40)
    with pytest.raises(ValueError, match="terms and count must be"):
        huffman.decode(nothing, 0, 2**40 + 1)
