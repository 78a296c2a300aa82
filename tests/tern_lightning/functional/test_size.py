"""Bytes of ternary weights: formats that are really written, closed formulas, the entropy bound."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning.functional.size import FORMATS, code_bytes, compression, decode, encode, entropy_bytes, stored_bytes
from tests.properties import examples
from tests.tern_lightning.random_ternary import random_ternary

SHAPES = st.sampled_from([(7, 3), (4, 6, 3), (3, 5, 2, 2), (1, 1), (9, 17)])


@examples(40)
@given(SHAPES, st.floats(0, 1), st.integers(1, 3), st.integers(0, 1), st.integers(0, 99), st.sampled_from(FORMATS))
def test_formats_have_the_bytes_of_their_formulas_and_can_be_read(shape, zeros, terms, axis, seed, form):
    ternary = random_ternary(shape, zeros, seed, terms, axis)
    data = encode(ternary, form)
    assert len(data) == code_bytes(ternary, form)
    assert torch.equal(decode(data, shape, terms, form, axis), ternary.codes)


@pytest.mark.parametrize(("zeros", "bits"), [(0.3, 1.70), (0.5, 1.50), (0.8, 1.20), (0.95, 1.05)])
def test_closed_formulas_and_the_entropy_bound(zeros, bits):
    ternary = random_ternary((200, 500), zeros)
    n = 100_000
    s = ternary.sparsity()
    assert 8 * code_bytes(ternary, "mask_sign") / n == pytest.approx(bits, abs=0.02)
    assert 8 * code_bytes(ternary, "two_bit") / n == 2
    assert 8 * code_bytes(ternary, "trits") / n == pytest.approx(1.6)
    if zeros > 0.4:
        assert 8 * code_bytes(ternary, "csr") / n == pytest.approx(17 * (1 - s) + 16 * 201 / n, abs=1e-3)
    bound = 1 - s - s * math.log2(s) - (1 - s) * math.log2(1 - s)
    assert 8 * entropy_bytes(ternary) / n == pytest.approx(bound, abs=1e-3)
    assert all((code_bytes(ternary, form) or math.inf) >= entropy_bytes(ternary) * 0.999 for form in FORMATS)
    best = min(code_bytes(ternary, form) or math.inf for form in FORMATS)
    assert stored_bytes(ternary) == best + 4
    found = compression(ternary)
    assert found["packed"] == pytest.approx(4 * n / (n / 4 + 4))
    assert found["packed"] <= found["stored"] <= found["entropy"]
    if zeros == 0.3:
        assert code_bytes(ternary, "csr") is None
        with pytest.raises(ValueError, match="65535"):
            encode(ternary, "csr")
