"""Operators that TVM reads as something else than ONNX says, against onnxruntime."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tvm")

from tests.tvm_schedules.nets import Runner, run_onnx
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.frontend.onnx_reader import read

RNG = np.random.default_rng(0)


def model(
    op: str, inputs: dict[str, np.ndarray], result: int = TensorProto.FLOAT, opset: int = 19, rank: int | None = None,
    constants: dict[str, np.ndarray] | None = None, **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """One node, whose inputs are ``inputs`` and then ``constants``; an empty array of these is no input."""
    stored = {name: array for name, array in (constants or {}).items() if array is not None}
    names = [*inputs, *(name if name in stored else "" for name in constants or {})]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    rank = next(iter(inputs.values())).ndim if rank is None else rank
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="node", **attributes)], "g", infos,
        [helper.make_tensor_value_info("y", result, [None] * rank)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def agree(made: onnx.ModelProto, *inputs: np.ndarray) -> None:
    (ours,), (theirs,) = Runner(made)(*inputs), run_onnx(made, *inputs)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scales", "attributes"),
    [
        ((1, 1, 0.6, 0.7), {"mode": "linear"}),
        ((1, 1, 0.6, 2.3), {"mode": "cubic"}),
        ((1, 1, 0.5, 0.5), {"mode": "linear", "antialias": 1}),
        ((1, 1, 0.6, 0.5), {"mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5}),
        ((1, 1, 0.8, 2), {"mode": "cubic", "exclude_outside": 1}),
        ((1, 1, 2, 2), {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}),
        ((0.7, 1.6), {"mode": "linear", "axes": [3, 2]}),
    ],
)
def test_resize(scales: tuple[float, ...], attributes: dict[str, Any]) -> None:
    x = RNG.standard_normal((1, 3, 8, 7)).astype(np.float32)
    constants = {"roi": None, "scales": np.float32(scales)}
    agree(model("Resize", {"x": x}, constants=constants, **attributes), x)


def test_resize_of_a_region() -> None:
    x = RNG.standard_normal((1, 2, 6, 5)).astype(np.float32)
    constants = {"roi": np.float32([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.8]), "scales": None, "sizes": np.int64([1, 2, 4, 7])}
    agree(model("Resize", {"x": x}, constants=constants, coordinate_transformation_mode="tf_crop_and_resize",
                mode="linear"), x)  # fmt: skip


@pytest.mark.parametrize(
    "count", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
)
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize(
    "how", [{"scales": np.float32([1, 1, 1.7, 3.7])}, {"scales": np.float32([]), "sizes": np.int64([1, 3, 11, 4])}]
)
def test_resize_of_bytes(count: str, nearest: str, how: dict[str, np.ndarray]) -> None:
    x = RNG.integers(0, 256, (1, 3, 8, 7)).astype(np.uint8)
    given = {"coordinate_transformation_mode": count, "nearest_mode": nearest}
    agree(model("Resize", {"x": x}, TensorProto.UINT8, constants={"roi": None, **how}, **given), x)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_with_scales_without_elements(mode: str) -> None:
    x = RNG.standard_normal((1, 3, 8, 7)).astype(np.float32)
    constants = {"roi": np.float32([]), "scales": np.float32([]), "sizes": np.int64([1, 3, 16, 14])}
    agree(model("Resize", {"x": x}, constants=constants, mode=mode), x)


def test_upsample_of_bytes() -> None:
    x = RNG.integers(0, 256, (1, 3, 8, 7)).astype(np.uint8)
    made = model("Upsample", {"x": x}, TensorProto.UINT8, 9, constants={"scales": np.float32([1, 1, 2, 3])})
    agree(made, x)


@pytest.mark.parametrize(("below", "above"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_infinities_of_one_sign(below: int, above: int) -> None:
    x = np.float32([np.inf, -np.inf, np.nan, 3, -1e38])
    made = model("IsInf", {"x": x}, TensorProto.BOOL, detect_negative=below, detect_positive=above)
    np.testing.assert_array_equal(Runner(made)(x)[0], (np.isposinf(x) & bool(above)) | (np.isneginf(x) & bool(below)))


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [[1], [0], [0, 2], [0, 1, 2], [1, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_the_largest_of_infinities_is_infinite(op: str, axes: list[int], keepdims: int) -> None:
    x = RNG.standard_normal((3, 5, 4)).astype(np.float32)
    x[1], x[:, 2], x[:, :, 3] = -np.inf, np.inf, -np.inf
    rank = 3 if keepdims else 3 - len(axes)
    agree(model(op, {"x": x}, rank=rank, constants={"axes": np.int64(axes)}, keepdims=keepdims), x)


def test_the_largest_of_doubles() -> None:
    x = np.full((2, 3), -np.inf)
    agree(model("ReduceMax", {"x": x}, TensorProto.DOUBLE, rank=1, constants={"axes": np.int64([1])}, keepdims=0), x)


def test_pools_of_integers_are_no_quantized_numbers() -> None:
    x = RNG.integers(0, 200, (1, 2, 6, 6)).astype(np.uint8)
    agree(model("MaxPool", {"x": x}, TensorProto.UINT8, kernel_shape=[3, 3], pads=[1] * 4), x)


def test_operators_of_a_later_set_that_only_have_more_types() -> None:
    x = RNG.standard_normal((1, 8, 2, 3)).astype(np.float32)
    made, earlier = (model("DepthToSpace", {"x": x}, opset=opset, blocksize=2) for opset in (28, 19))
    np.testing.assert_array_equal(Runner(made)(x)[0], run_onnx(earlier, x)[0])
    words = np.uint8([1, 2, 3])
    changed = model("BitShift", {"x": words, "z": words}, TensorProto.UINT8, opset=28, direction="LEFT")
    with pytest.raises(UnsupportedOperatorError, match=r"operator BitShift .* since opset 26"):
        Runner(changed)


def test_a_node_that_tvm_does_not_lower_is_named() -> None:
    x = np.int64([[1, 2], [3, 4]])
    made = model("Pow", {"x": x, "z": x}, TensorProto.INT64)
    with pytest.raises(UnsupportedOperatorError, match="node 'node': operator Pow cannot be compiled"):
        Runner(made)


def test_normalization_in_training_mode_is_refused() -> None:
    x, ones = RNG.standard_normal((2, 3, 4)).astype(np.float32), np.ones(3, np.float32)
    made = model("BatchNormalization", {"x": x}, constants=dict.fromkeys("abcd", ones), training_mode=1)
    made.graph.node[0].output.extend(["mean", "variance"])
    with pytest.raises(UnsupportedOperatorError, match="node 'node': BatchNormalization is in training mode"):
        read(made)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("p", [1, 2])
def test_norms(p: int, axis: int) -> None:
    x = RNG.standard_normal((3, 5, 7)).astype(np.float32)
    x[:, 2], x[1], x[..., 3] = 0, 0, 0
    agree(model("LpNormalization", {"x": x}, p=p, axis=axis), x)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 8), (2, 7, 3)])
def test_cumulative_products(shape: tuple[int, ...], exclusive: int, reverse: int) -> None:
    x, axis = RNG.uniform(0.5, 1.5, shape).astype(np.float32), len(shape) // 2
    if reverse:
        x = np.flip(x, axis)
    wanted = np.cumprod(x, axis)
    if exclusive:
        first = np.ones_like(np.take(x, [0], axis))
        wanted = np.concatenate([first, np.delete(wanted, -1, axis)], axis)
    if reverse:
        x, wanted = np.ascontiguousarray(np.flip(x, axis)), np.flip(wanted, axis)
    made = model(
        "CumProd", {"x": x}, opset=26, constants={"axis": np.int64(axis)}, exclusive=exclusive, reverse=reverse
    )
    np.testing.assert_allclose(Runner(made)(x)[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("fed", [True, False])
@pytest.mark.parametrize(("time", "batch"), [(0, 1), (1, 0)])
def test_reversed_sequences(time: int, batch: int, fed: bool) -> None:
    x, lengths = RNG.standard_normal((4, 4, 3)).astype(np.float32), np.int64([1, 4, 2, 3])
    inputs, constants = ({"x": x, "lengths": lengths}, {}) if fed else ({"x": x}, {"lengths": lengths})
    made = model("ReverseSequence", inputs, constants=constants, time_axis=time, batch_axis=batch)
    agree(made, *inputs.values())


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 2, 3), (1, 1, 1.5, 1)])
def test_upsample(mode: str, scales: tuple[float, ...]) -> None:
    if mode == "linear" and scales[2] != scales[3] and scales[2] % 1:
        pytest.skip("onnxruntime takes both scales of an image")
    x = RNG.standard_normal((1, 3, 4, 5)).astype(np.float32)
    agree(model("Upsample", {"x": x}, opset=9, constants={"scales": np.float32(scales)}, mode=mode), x)


@pytest.mark.parametrize("shape", [(1, 2, 9), (2, 3, 6, 7), (1, 2, 4, 5, 6)])
@pytest.mark.parametrize("order", [0, 1])
def test_maxima_and_their_places(shape: tuple[int, ...], order: int) -> None:
    rank = len(shape) - 2
    x = RNG.permutation(math.prod(shape)).reshape(shape).astype(np.float32)
    options = {"kernel_shape": [3, 2, 3][:rank], "strides": [2] * rank, "pads": [1] * 2 * rank, "storage_order": order}
    made = model("MaxPool", {"x": x}, **options)
    made.graph.node[0].output.append("places")
    made.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, [None] * len(shape)))
    for ours, theirs in zip(Runner(made)(x), run_onnx(made, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def top(x: np.ndarray, count: int, **attributes: int) -> onnx.ModelProto:
    made = model("TopK", {"x": x}, helper.np_dtype_to_tensor_dtype(x.dtype), constants={"k": np.int64([count])},
                 **attributes)  # fmt: skip
    made.graph.node[0].output.append("places")
    made.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, [None] * x.ndim))
    return made


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_the_first_of_an_order(dtype: str, axis: int, largest: int) -> None:
    x = RNG.integers(-9, 9, (5, 20, 6)).astype(dtype)  # many are equal
    made = top(x, 4, axis=axis, largest=largest)
    for ours, theirs in zip(Runner(made)(x), run_onnx(made, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_first_of_infinities_and_what_is_no_number() -> None:
    x = np.float32([[1, np.nan, -np.inf, np.inf, 2, np.nan]])
    values, places = Runner(top(x, 6))(x)
    np.testing.assert_array_equal(places, [[1, 5, 3, 4, 0, 2]])
    np.testing.assert_array_equal(values, x[:, places[0]])


def test_an_order_of_very_many_is_refused_by_name() -> None:
    x = np.zeros((1, 20_000), np.float32)
    with pytest.raises(UnsupportedOperatorError, match="'node': operator TopK"):
        Runner(top(x, 3))


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
def test_root_mean_squares_of_several_axes(axis: int) -> None:
    x = RNG.standard_normal((3, 5, 7)).astype(np.float32)
    scale = RNG.standard_normal(x.shape[axis:]).astype(np.float32)
    agree(model("RMSNormalization", {"x": x}, opset=23, constants={"scale": scale}, axis=axis), x)
