import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tern_lightning import TernaryTensor


@st.composite
def tensors(draw, max_terms=3):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    count = draw(st.integers(1, max_terms))
    axis = draw(st.integers(0, 1))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = random.choice([-1, 0, 1], size=(count, *shape), p=draw(st.sampled_from([(0.2, 0.6, 0.2), (0.5, 0, 0.5)])))
    levels = random.uniform(0.1, 2, size=(2, count, draw(st.sampled_from([1, shape[axis]])))).astype(np.float32)
    if draw(st.booleans()):
        levels[1] = levels[0]
    return TernaryTensor(
        torch.from_numpy(codes.astype(np.int8)), torch.from_numpy(levels[0]), torch.from_numpy(levels[1]), axis
    )


def brute(t):
    """W by one loop over all weights and terms."""
    w = np.zeros(t.shape)
    for index in np.ndindex(*t.codes.shape):
        channel = index[t.channel_axis + 1] if t.positive.shape[1] > 1 else 0
        code = int(t.codes[index])
        level = t.positive[index[0], channel] if code > 0 else -t.negative[index[0], channel] if code < 0 else 0.0
        w[index[1:]] += float(level)
    return w


@given(tensors())
def test_dequantize_and_statistics(t):
    w = brute(t)
    assert t.shape == w.shape
    assert t.terms == len(t.codes)
    assert t.bits() == 2 * t.terms
    np.testing.assert_allclose(t.dequantize().numpy(), w, rtol=1e-6, atol=1e-6)
    assert t.sparsity() == pytest.approx((t.dequantize().numpy() == 0).mean())
    assert t.term_sparsity() == pytest.approx([(np.asarray(c) == 0).mean() for c in t.codes])
    _, counts = np.unique(t.codes.numpy().reshape(t.terms, -1), axis=1, return_counts=True)
    share = counts / counts.sum()
    assert t.entropy() == pytest.approx(-(share * np.log2(share)).sum(), abs=1e-9)
    assert t.entropy() <= t.terms * math.log2(3) + 1e-9
    assert torch.equal(t.per_channel.dequantize(), t.dequantize())
    assert t.per_channel.positive.shape == (t.terms, t.shape[t.channel_axis])


@given(tensors(), st.data())
def test_scale_channels(t, data):
    scale = torch.tensor(
        data.draw(st.lists(st.sampled_from([-2.5, -1.0, 0.0, 0.5, 3.0]), min_size=t.channels, max_size=t.channels))
    )
    scaled = t.scale_channels(scale)
    shape = [1] * len(t.shape)
    shape[t.channel_axis] = -1
    np.testing.assert_allclose(
        scaled.dequantize().numpy(), brute(t) * scale.numpy().reshape(shape), rtol=1e-5, atol=1e-6
    )
    assert (scaled.positive > 0).all()
    assert (scaled.negative > 0).all()
    gone = scaled.codes.movedim(t.channel_axis + 1, 0)[scale == 0]
    assert not gone.any()
    assert (scaled.positive[:, scale == 0] == 1).all()


@given(tensors())
def test_pack_is_two_bit_twos_complement_least_significant_first(t):
    packed = t.pack()
    assert packed.dtype == torch.uint8
    for row, codes in zip(packed.tolist(), t.codes.flatten(1).tolist(), strict=True):
        assert len(row) == -(-len(codes) // 4)
        bits = "".join(format(byte, "08b")[::-1] for byte in row)
        values = [int(bits[2 * i]) - 2 * int(bits[2 * i + 1]) for i in range(len(bits) // 2)]
        assert values == codes + [0] * (len(values) - len(codes))
    levels = t.positive.numel() * (1 if torch.equal(t.positive, t.negative) else 2)
    assert t.nbytes() == packed.numel() + 4 * levels


def test_pack_agrees_with_onnx():
    helper = pytest.importorskip("onnx.helper")
    onnx = pytest.importorskip("onnx")
    codes = torch.tensor([[[1, -1, 0], [0, 1, -1]]], dtype=torch.int8)
    t = TernaryTensor(codes, torch.ones(1, 1), torch.ones(1, 1))
    raw = bytes(t.pack()[0].tolist())
    tensor = helper.make_tensor("w", onnx.TensorProto.INT2, [2, 3], raw, raw=True)
    assert onnx.numpy_helper.to_array(tensor).astype(np.int8).tolist() == codes[0].tolist()


@given(tensors(max_terms=1))
def test_from_values_recognizes_every_single_term(t):
    found = TernaryTensor.from_values(t.dequantize(), t.channel_axis)
    assert torch.equal(found.dequantize(), t.dequantize())
    assert torch.equal(found.codes, t.codes)
    assert (found.positive > 0).all()
    assert (found.negative > 0).all()
    assert found.nbytes() <= t.nbytes()


@pytest.mark.parametrize(
    "weight",
    [
        torch.tensor([[1.0, 0.0, 0.5]]),
        torch.tensor([[-1.0, 0.0, -0.5]]),
        torch.tensor([[1.0, float("nan"), 0.0]]),
        torch.tensor([[float("inf"), 0.0]]),
        torch.tensor([[1, 0, -1]]),
        torch.zeros(0, 3),
        torch.tensor(1.0),
    ],
)
def test_from_values_says_none(weight):
    assert TernaryTensor.from_values(weight) is None


def test_from_values_along_the_axis_of_the_channels():
    weight = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [0.0, -3.0]])
    assert TernaryTensor.from_values(weight, 0) is None
    found = TernaryTensor.from_values(weight, 1)
    assert found.positive.tolist() == [[1.0, 2.0]]
    assert found.negative.tolist() == [[1.0, 3.0]]
    assert TernaryTensor.from_values(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), 1) is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(1, 2, 2), torch.ones(1, 1), torch.ones(1, 1)), TypeError, "codes must be int8"),
        ((torch.zeros(4, dtype=torch.int8), torch.ones(1, 1), torch.ones(1, 1)), ValueError, "codes must be"),
        (
            (torch.zeros(1, 2, 2, dtype=torch.int8), torch.ones(1, 3), torch.ones(1, 3)),
            ValueError,
            "positive must have",
        ),
        ((torch.zeros(1, 2, 2, dtype=torch.int8), torch.ones(1, 1), torch.ones(1, 2)), ValueError, "one shape"),
        ((torch.zeros(1, 2, 2, dtype=torch.int8), torch.ones(1, 1).double(), torch.ones(1, 1)), TypeError, "float32"),
        ((torch.zeros(1, 2, 2, dtype=torch.int8), torch.ones(1, 1), torch.ones(1, 1), 2), ValueError, "channel_axis"),
    ],
)
def test_wrong_fields(arguments, error, words):
    with pytest.raises(error, match=words):
        TernaryTensor(*arguments)


def test_wrong_scale():
    t = TernaryTensor(torch.zeros(1, 2, 3, dtype=torch.int8), torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"shape \[2\], got \(3,\)"):
        t.scale_channels(torch.ones(3))
