from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_schedules.ir.ternary_tensor import TernaryTensor, pack_int2

dims = st.lists(st.integers(1, 4), min_size=2, max_size=4)


@st.composite
def tensors(draw: st.DrawFn, max_terms: int = 3) -> TernaryTensor:
    shape, terms = draw(dims), draw(st.integers(1, max_terms))
    axis = draw(st.integers(0, 1))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    channels = draw(st.sampled_from([1, shape[axis]]))
    codes = random.integers(-1, 2, (terms, *shape)).astype(np.int8)
    positive, negative = (random.uniform(0.1, 2, (terms, channels)).astype(np.float32) for _ in range(2))
    return TernaryTensor(codes, positive, positive if draw(st.booleans()) else negative, axis)


def by_hand(tensor: TernaryTensor) -> np.ndarray:
    """The definition, weight by weight."""
    result = np.zeros(tensor.shape, np.float32)
    for index in np.ndindex(*tensor.shape):
        total = np.float32(0)
        for t in range(tensor.terms):
            c = index[tensor.channel_axis] % tensor.positive.shape[1]
            code = tensor.codes[(t, *index)]
            total += {1: tensor.positive[t, c], 0: np.float32(0), -1: -tensor.negative[t, c]}[int(code)]
        result[index] = total
    return result


@given(tensors())
def test_dequantize_and_statistics_follow_the_definition(tensor: TernaryTensor) -> None:
    values = by_hand(tensor)
    np.testing.assert_allclose(tensor.dequantize(), values, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(tensor.per_channel.dequantize(), tensor.dequantize())
    count = Counter(tuple(column) for column in tensor.codes.reshape(tensor.terms, -1).T.tolist())
    total = sum(count.values())
    assert tensor.entropy() == pytest.approx(-sum(n / total * math.log2(n / total) for n in count.values()), abs=1e-9)
    assert tensor.sparsity() == pytest.approx(float((tensor.dequantize() == 0).mean()))
    assert tensor.term_sparsity() == pytest.approx([float((term == 0).mean()) for term in tensor.codes])


@given(tensors(), st.data())
def test_scale_channels_scales_and_keeps_levels_positive(tensor: TernaryTensor, data: st.DataObject) -> None:
    factors = st.floats(-2, 2, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
    scale = np.array(data.draw(st.lists(factors, min_size=tensor.channels, max_size=tensor.channels)), np.float32)
    scaled = tensor.scale_channels(scale)
    shape = [1] * len(tensor.shape)
    shape[tensor.channel_axis] = -1
    np.testing.assert_allclose(scaled.dequantize(), tensor.dequantize() * scale.reshape(shape), rtol=1e-5, atol=1e-6)
    assert (scaled.positive > 0).all()
    assert (scaled.negative > 0).all()


@given(dims, st.integers(0, 2**32 - 1))
def test_packing_is_onnx_int2(shape: list[int], seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, shape).astype(np.int8)
    packed = pack_int2(codes)
    proto = onnx.helper.make_tensor("w", onnx.TensorProto.INT2, shape, packed.tobytes(), raw=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(proto).astype(np.int8), codes)


@given(tensors())
def test_what_is_stored_comes_back(tensor: TernaryTensor) -> None:
    tensor = TernaryTensor(tensor.codes, tensor.positive[:, :1], tensor.negative[:, :1])
    found = TernaryTensor.from_stored(tensor.stored, tensor.codes.shape)
    np.testing.assert_array_equal(found.codes, tensor.codes)
    if tensor.terms == 1 and tensor.is_symmetric:
        assert set(tensor.stored) == {"codes"}
        assert found.positive.tolist() == found.negative.tolist() == [[1.0]]
    else:
        np.testing.assert_array_equal(found.positive, tensor.positive)
        np.testing.assert_array_equal(found.negative, tensor.negative)


@given(tensors(max_terms=1))
def test_values_are_recognized(tensor: TernaryTensor) -> None:
    found = TernaryTensor.from_values(tensor.dequantize(), tensor.channel_axis)
    assert found is not None
    np.testing.assert_array_equal(found.dequantize(), tensor.dequantize())
    np.testing.assert_array_equal(found.codes, tensor.codes)


@pytest.mark.parametrize("weight", [[[0.5, 0.25, 0.0]], [[0.5, np.nan]], [[np.inf, 0.0]]])
def test_other_values_are_not(weight: list[list[float]]) -> None:
    assert TernaryTensor.from_values(np.array(weight, np.float32)) is None


def test_bad_fields_are_refused() -> None:
    codes, level = np.ones((1, 2, 3), np.int8), np.ones((1, 2), np.float32)
    with pytest.raises(TypeError, match="codes must be int8"):
        TernaryTensor(codes.astype(np.int32), level, level)
    for factor in (2, -2):
        with pytest.raises(ValueError, match="codes must be -1, 0 or"):
            TernaryTensor(np.int8([[[factor, 0, 0], [0, 1, -1]]]), level, level)
    with pytest.raises(ValueError, match=r"positive must have shape \[1, 1\] or \[1, 2\]"):
        TernaryTensor(codes, np.ones((1, 3), np.float32), level)
    with pytest.raises(TypeError, match="negative must be float32"):
        TernaryTensor(codes, level, level.astype(np.float64))
    with pytest.raises(ValueError, match="channel_axis"):
        TernaryTensor(codes, level, level, 2)


def test_twin_agrees_with_the_torch_side() -> None:
    torch = pytest.importorskip("torch")
    from tern_lightning.ternary_tensor import TernaryTensor as TorchTensor

    random = np.random.default_rng(0)
    codes = random.integers(-1, 2, (2, 4, 3, 3)).astype(np.int8)
    positive, negative = (random.uniform(0.1, 1, (2, 4)).astype(np.float32) for _ in range(2))
    ours, theirs = (
        TernaryTensor(codes, positive, negative),
        TorchTensor(*map(torch.from_numpy, (codes, positive, negative))),
    )
    np.testing.assert_array_equal(ours.dequantize(), theirs.dequantize().numpy())
    np.testing.assert_array_equal(np.stack([pack_int2(term) for term in codes]), theirs.pack().numpy())
    assert (ours.sparsity(), ours.nbytes()) == (theirs.sparsity(), theirs.nbytes())
    assert ours.entropy() == pytest.approx(theirs.entropy())
