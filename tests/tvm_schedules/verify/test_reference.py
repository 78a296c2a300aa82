"""onnxruntime as the reference: its 8-bit kernels must not saturate where the CPU has no VNNI."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime")

from tvm_schedules.verify.reference import reference_outputs


def large_bytes(zero_points: bool = True) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A dense 8-bit convolution whose pairs of products do not fit into 16 bits, and its input."""
    rng = np.random.default_rng(0)
    tensors = {
        "step": np.float32(1),
        "zero": np.uint8(128),
        "weight": rng.integers(-127, 128, (8, 32, 3, 3)).astype(np.int8),
        "level": np.full(8, 0.0005, np.float32),
        "middle": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "step", "zero"], ["data"]),
        helper.make_node("DequantizeLinear", ["weight", "level", "middle"][: 2 + zero_points], ["floats"], axis=0),
        helper.make_node("Conv", ["data", "floats"], ["sums"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["sums", "step", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, (1, 32, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, (1, 8, 8, 8))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {"x": rng.integers(150, 256, (1, 32, 8, 8)).astype(np.uint8)}


@pytest.mark.parametrize("zero_points", [True, False])
def test_both_ways_of_onnxruntime_agree_on_large_bytes(zero_points: bool) -> None:
    """Without zero points, as exports have it, onnxruntime cannot be told to be precise."""
    model, inputs = large_bytes(zero_points)
    ((plain,),), ((optimized,),) = (reference_outputs(model, [inputs], optimized) for optimized in (False, True))
    assert np.abs(plain.astype(int) - optimized.astype(int)).max() <= 1
    assert plain.min() < 100 < 156 < plain.max()
