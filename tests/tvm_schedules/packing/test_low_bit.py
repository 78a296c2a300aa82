"""Masks for bit planes, read as kernels read them: what they count is the product with the codes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.tvm_schedules.packing.codes import random_codes
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.packing import bitplanes, popcount_linear


@given(st.integers(0, 1000), st.integers(1, 2), st.integers(1, 5), st.integers(1, 19), st.sampled_from([0.2, 0.9, 1.0]))
def test_masks_have_a_bit_for_every_code(seed: int, terms: int, rows: int, fan: int, zeros: float) -> None:
    codes = random_codes(np.random.default_rng(seed), (terms, rows, fan, 2, 3), zeros)
    plus, minus = bitplanes.masks_of(codes)
    assert plus.shape == minus.shape == (terms, rows, -(-fan // 8), 6)
    for t, o, channel, tap in np.ndindex(terms, rows, plus.shape[2] * 8, 6):
        added, taken = (int(part[t, o, channel // 8, tap]) >> channel % 8 & 1 for part in (plus, minus))
        assert added - taken == (codes[t, o, channel].flat[tap] if channel < fan else 0)
        assert added + taken < 2


@given(
    st.integers(0, 1000), st.integers(1, 2), st.integers(1, 2), st.integers(1, 19), st.sampled_from([1, 3, 15]),
    st.sampled_from([1, 4, 1000]), st.sampled_from([0.2, 0.9, 1.0]),
)  # fmt: skip
def test_words_add_up_to_a_convolution(
    seed: int, terms: int, groups: int, fan: int, top: int, limit: int, zeros: float
) -> None:
    rng = np.random.default_rng(seed)
    rows, dims, words, planes = 4, (1, 5, 6), -(-fan // 8), top.bit_length()
    window = Window((1, 3, 2), (1, 2, 1), ((0, 0), (1, 0), (1, 1)), (1, 1, 2), groups)
    x = Halo(1, fan * groups, dims, "uint8", (8, 12), (0, 1, 1), (0, 1, 1), window.strides, fill=9.0)
    packed = bitplanes.planes_of(x, groups, top)
    assert (packed.channels, packed.fill, packed.pitch) == (groups * words * planes, 0.0, x.pitch)
    image = rng.integers(0, top + 1, (groups, fan, *dims))
    bits = np.zeros((groups, words * 8, planes, *dims), np.int64)
    bits[:, :fan] = image[:, :, None] >> np.arange(planes)[:, None, None, None] & 1
    eights = (bits.reshape(groups, words, 8, planes, *dims) << np.arange(8)[:, None, None, None, None]).sum(2)
    memory = packed.pack(eights.reshape(1, -1, *dims).astype(np.uint8))
    codes = random_codes(rng, (terms, rows, fan, *window.kernel), zeros)
    levels = rng.uniform(0.5, 2, (terms, rows)).astype(np.float32)
    found = bitplanes.pack(codes, levels, window, packed, planes, limit)
    assert {name: array.dtype.name for name, array in found.items()} == {
        "offsets": "int32", "masks": "uint32", "bounds": "int32", "row": "int32", "level": "float32",
    }  # fmt: skip
    offsets, bounds, row = found["offsets"], found["bounds"], found["row"]
    masks = found["masks"].view(np.uint8).reshape(-1, 2, 4)
    assert (masks == masks[:, :, :1]).all()
    assert len(offsets) == len(masks) == bounds[-1] + 1
    assert (row[0], row[-1], bounds[0], len(bounds)) == (0, len(found["level"]), 0, len(found["level"]) + 1)

    # Output pixel (0, 0, 0), from the image itself.
    seen = np.pad(image, ((0, 0), (0, 0), *window.pads))[:, :, :1, :3, :3:2]
    weight = (codes * levels[:, :, None, None, None, None]).sum(0).reshape(groups, rows // groups, *codes.shape[2:])
    have = np.zeros(rows)
    for o in range(rows):
        for segment in range(row[o], row[o + 1]):
            places = offsets[bounds[segment] : bounds[segment + 1]]
            assert len(places) <= limit
            assert (np.diff(places) >= 0).all()
            for place, (plus, minus) in zip(places, masks[bounds[segment] :, :, 0].tolist(), strict=False):
                assert plus | minus
                for plane in range(planes):
                    byte = int(memory[place + plane * packed.phases * packed.plane])
                    count = (byte & plus).bit_count() - (byte & minus).bit_count()
                    have[o] += found["level"][segment] * (count << plane)
        parts = codes[:, o].reshape(terms, fan, -1) != 0
        used = [np.add.reduceat(part, np.arange(0, fan, 8), axis=0).astype(bool).sum() for part in parts]
        pieces = [-(-int(count) // limit) for count in used]
        assert row[o + 1] - row[o] == max(1, pieces[0]) + sum(pieces[1:])
    np.testing.assert_allclose(have, np.einsum("gofdhw,gfdhw->go", weight, seen).ravel(), rtol=1e-5, atol=1e-5)


@given(
    st.integers(0, 1000), st.integers(1, 2), st.integers(1, 19), st.integers(1, 150), st.sampled_from([4, 8]),
    st.sampled_from([1, 2]), st.sampled_from([0.2, 0.95, 1.0]),
)  # fmt: skip
def test_masks_of_linear_layers(
    seed: int, terms: int, outputs: int, inputs: int, vector: int, tile: int, zeros: float
) -> None:
    codes = random_codes(np.random.default_rng(seed), (terms, outputs, inputs), zeros)
    blocks = -(-outputs // (vector * tile))
    found = popcount_linear.pack(codes, vector, tile)
    masks, eights, bounds = found["masks"], found["inputs"], found["bounds"]
    assert (masks.dtype, eights.dtype, bounds.dtype) == (np.uint8, np.int32, np.int32)
    assert masks.shape == (bounds[-1], tile, 2, vector)
    assert (bounds[0], len(bounds), len(eights)) == (0, blocks * terms + 1, bounds[-1] + 1)
    assert masks.any((1, 2, 3)).all()
    assert popcount_linear.groups_of(inputs) == -(-inputs // 64) * 8
    have = np.zeros((terms, blocks * vector * tile, -(-inputs // 64) * 64), np.int64)
    for block, t in np.ndindex(blocks, terms):
        steps = slice(bounds[block * terms + t], bounds[block * terms + t + 1])
        assert (np.diff(eights[steps]) > 0).all()
        for eight, mask in zip(eights[steps], masks[steps], strict=True):
            for part, place, bit in np.ndindex(tile, vector, 8):
                # Bytes alternate between the halves of a vector's outputs, bits are eight inputs apart.
                o = (block * tile + part) * vector + place % 2 * (vector // 2) + place // 2
                plus, minus = (int(mask[part, sign, place]) >> bit & 1 for sign in (0, 1))
                have[t, o, eight // 8 * 64 + bit * 8 + eight % 8] = plus - minus
                assert plus + minus < 2
    want = np.zeros_like(have)
    want[:, :outputs, :inputs] = codes
    np.testing.assert_array_equal(have, want)
