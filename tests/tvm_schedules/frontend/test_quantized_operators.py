"""Files with operators on 8-bit tensors, as onnxruntime's quantization makes them, against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvm_schedules
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Runner, run_onnx
from tvm_schedules.errors import ModelError
from tvm_schedules.frontend.plain_operators import with_plain_operators
from tvm_schedules.targets.registry import resolve


def floats(turned: bool = False) -> tuple[onnx.ModelProto, np.ndarray]:
    """Convolutions with a residual, poolings, a concatenation, a product and a classifier.

    The classifier's weight is stored transposed where that is asked for, as PyTorch does.
    """
    random = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "b0": (8,), "w1": (8, 8, 1, 1), "w2": (16, 12), "w3": (12, 5), "b3": (5,)}
    stored = {name: random.normal(scale=0.3, size=shape).astype(np.float32) for name, shape in shapes.items()}
    stored["shape"] = np.int64([2, 16])
    stored["w3"] = np.ascontiguousarray(stored["w3"].T) if turned else stored["w3"]
    nodes = [
        ("Conv", ["x", "w0", "b0"], "a", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Relu", ["a"], "r", {}),
        ("Conv", ["r", "w1"], "c", {"kernel_shape": [1, 1]}),
        ("Add", ["c", "r"], "d", {}),
        ("Sigmoid", ["d"], "s", {}),
        ("Concat", ["d", "s"], "e", {"axis": 1}),
        ("GlobalAveragePool", ["e"], "g", {}),
        ("Reshape", ["g", "shape"], "h", {}),
        ("MatMul", ["h", "w2"], "m", {}),
        ("LeakyRelu", ["m"], "l", {}),
        ("Gemm", ["l", "w3", "b3"], "y", {"transB": int(turned)}),
    ]
    graph = helper.make_graph(
        [helper.make_node(op, names, [out], name=out, **attributes) for op, names, out, attributes in nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made, random.normal(size=(2, 3, 8, 9)).astype(np.float32)


@pytest.mark.parametrize(
    ("per_channel", "signed", "turned"),
    [(False, False, False), (False, True, False), (True, False, False), (True, True, False), (True, True, True)],
)
def test_a_network_of_quantized_operators(tmp_path: Path, per_channel: bool, signed: bool, turned: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    model, x = floats(turned)

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": x}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    path = tmp_path / "quantized.onnx"
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    quantize_static(
        model, path, Samples(), quant_format=QuantFormat.QOperator, per_channel=per_channel, activation_type=kind,
        weight_type=QuantType.QInt8, reduce_range=True,  # onnxruntime's sums saturate on CPUs without dot products
    )  # fmt: skip
    made = onnx.load(path)
    used = {node.op_type for node in made.graph.node}
    assert {"QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearConcat", "QLinearGlobalAveragePool", "QGemm"} <= used
    plan = compile_model(made, resolve("host")).plan
    assert len([layer for layer in plan.layers if layer.kernel != "fallback"]) == 4
    (ours,), (theirs,) = Runner(made)(x), run_onnx(made, x)
    step = np.abs(theirs).max() / 64  # roundings of several layers
    np.testing.assert_allclose(ours, theirs, atol=step)
    assert np.abs(ours - theirs).mean() < step / 4


def _product(scales: tuple[int, int], opset: int = 21) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    random = np.random.default_rng(1)
    a, b = random.integers(0, 256, (4, 6)).astype(np.uint8), random.integers(-128, 128, (6, 5)).astype(np.int8)
    constants = {
        "as": random.uniform(0.01, 0.02, scales[0]).astype(np.float32).squeeze(),
        "az": np.full(scales[0], 113, np.uint8).squeeze(),
        "bs": random.uniform(0.01, 0.02, scales[1]).astype(np.float32).squeeze(),
        "bz": np.zeros(scales[1], np.int8).squeeze(),
        "ys": np.float32(0.05),
        "yz": np.uint8(128),
    }
    node = helper.make_node("QLinearMatMul", ["a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["y"], name="product")
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("a", TensorProto.UINT8, [4, 6]),
            helper.make_tensor_value_info("b", TensorProto.INT8, [6, 5]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [4, 5])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), [a, b]


@pytest.mark.parametrize("scales", [(1, 1), (1, 5)])
def test_a_product_of_computed_bytes(scales: tuple[int, int]) -> None:
    made, inputs = _product(scales)
    known = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in made.graph.initializer}
    a, b = (one.astype(np.float64) for one in inputs)
    product = ((a - known["az"]) * known["as"]) @ (b * known["bs"])
    wanted = np.clip(np.rint(product / known["ys"]) + known["yz"], 0, 255)
    np.testing.assert_array_equal(Runner(made)(*inputs)[0], wanted)  # onnxruntime's sums may saturate here too


def test_old_files_are_refused_by_name() -> None:
    made, _ = _product((1, 1), opset=11)
    assert with_plain_operators(made) is made
    with pytest.raises(ModelError, match="QLinearMatMul"):
        compile_model(made, resolve("host"))


@pytest.mark.parametrize("largest", [60, 127])
def test_an_export_is_verified_by_what_the_operators_are_by_definition(tmp_path: Path, largest: int) -> None:
    """One step of the output is no error; onnxruntime's own kernel stops sums at 32767 on CPUs with AVX2 alone."""
    random = np.random.default_rng(0)
    weight = random.integers(-largest, largest + 1, (8, 4, 3, 3)).astype(np.int8)
    stored = {"s": np.float32(0.05), "z": np.uint8(128), "w": weight, "ws": np.float32(0.01), "wz": np.int8(0)}
    stored["s2"] = np.float32(0.5)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s2", "z"], ["r"], pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["r", "s2", "z"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 4, 9, 9]), ("y", [1, 8, 9, 9]))
    ]
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    tvm_schedules.build(tmp_path / "model.onnx", tmp_path / "library", "host")
    x = 3 * random.normal(size=(1, 4, 9, 9)).astype(np.float32)
    whole = np.pad(np.clip(np.rint(x / stored["s"]), -128, 127), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(whole, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64))
    wanted = np.clip(np.rint(sums * 0.05 * 0.01 / 0.5), -128, 127) * 0.5
    found = tvm_schedules.load(tmp_path / "library")(x)
    np.testing.assert_allclose(found, wanted, atol=0.51)
    assert np.mean(found != wanted) < 0.01
