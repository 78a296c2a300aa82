"""Products of integers, as onnxruntime's dynamic quantization makes them, against integers of numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import tvm_schedules
from tests.properties import compilations
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Runner, run_onnx
from tvm_schedules.artifact import store
from tvm_schedules.frontend.plain_operators import with_plain_operators
from tvm_schedules.targets.registry import resolve
from tvm_schedules.verify.reference import reference_outputs

OWN = "com.microsoft"


def model(nodes: list[Any], inputs: dict[str, np.ndarray], constants: dict[str, Any], out: Any) -> onnx.ModelProto:
    """A model of nodes whose last output is the array ``out``'s."""
    kinds = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(one.dtype), one.shape)
        for name, one in {**inputs, nodes[-1].output[0]: out}.items()
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", kinds[:-1], kinds[-1:], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(OWN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@compilations(10)
@given(
    rows=st.sampled_from([(3,), (2, 5), (1, 1)]), fan=st.integers(1, 70), columns=st.integers(1, 19),
    signed=st.booleans(), shift=st.sampled_from(["", "one", "each"]),
    zero=st.sampled_from(["", "constant", "computed"]), constant=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_products(
    rows: tuple[int, ...], fan: int, columns: int, signed: bool, shift: str, zero: str, constant: bool, seed: int
) -> None:
    rng, kind = np.random.default_rng(seed), np.int8 if signed else np.uint8
    edge = np.iinfo(kind)
    a = rng.integers(0, 256, (*rows, fan)).astype(np.uint8)
    b = rng.integers(edge.min, edge.max + 1, (fan, columns)).astype(kind)
    inputs, constants = {"a": a}, {}
    (constants if constant else inputs)["b"] = b
    shifts = {"": 0, "one": kind(3), "each": rng.integers(0, 100, columns).astype(kind)}[shift]
    if shift:
        constants["bz"] = shifts
    if zero:
        (constants if zero == "constant" else inputs)["az"] = np.array(117, np.uint8)
    wanted = (a.astype(np.int64) - (117 if zero else 0)) @ (b.astype(np.int64) - np.asarray(shifts, np.int64))
    names = ["a", "b", "az" if zero else "", "bz" if shift else ""]
    while not names[-1]:
        names.pop()
    made = model([helper.make_node("MatMulInteger", names, ["y"])], inputs, constants, wanted.astype(np.int32))
    np.testing.assert_array_equal(Runner(made)(*inputs.values())[0], wanted)
    np.testing.assert_array_equal(reference_outputs(made, [inputs])[0][0], wanted)  # onnxruntime's own may saturate


def test_rows_with_zero_points_of_their_own() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (4, 9)).astype(np.uint8), rng.integers(-128, 128, (9, 4)).astype(np.int8)
    zeros = np.uint8([0, 7, 128, 255])
    wanted = (a.astype(np.int32) - zeros[:, None]) @ b.astype(np.int32)
    made = model([helper.make_node("MatMulInteger", ["a", "b", "az"], ["y"])], {"a": a}, {"b": b, "az": zeros}, wanted)
    np.testing.assert_array_equal(Runner(made)(a)[0], wanted)


def test_computed_zero_points_of_unknown_number_are_left_alone() -> None:
    """Four zero points are rows', and would pass for columns' where there are as many of these."""
    a, b, zeros = np.zeros((4, 9), np.uint8), np.zeros((9, 4), np.int8), np.zeros(4, np.uint8)
    node = helper.make_node("MatMulInteger", ["a", "b", "az"], ["y"])
    made = model([node], {"a": a, "az": zeros}, {"b": b}, np.zeros((4, 4), np.int32))
    assert [one.op_type for one in with_plain_operators(made).graph.node] == ["MatMulInteger"]


@pytest.mark.parametrize("shift", [5, (5, -3, 0, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_are_padded_with_zero_points(stride: int, shift: int | tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x, w = rng.integers(0, 256, (1, 3, 6, 7)).astype(np.uint8), rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    padded = np.pad(x.astype(np.int32) - 131, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    zero = np.array(shift, np.int8)
    real = w - zero.astype(np.int32).reshape(-1, 1, 1, 1)
    wanted = np.einsum("nchwij,ocij->nohw", windows, real).astype(np.int32)
    node = helper.make_node("ConvInteger", ["x", "w", "xz", "wz"], ["y"], pads=[1] * 4, strides=[stride] * 2)
    made = model([node], {"x": x}, {"w": w, "xz": np.uint8(131), "wz": zero}, wanted)
    np.testing.assert_array_equal(Runner(made)(x)[0], wanted)


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (2.0, 5.0), (-4.0, -1.0), (0.0, 0.0)])
def test_bytes_with_a_scale_of_the_moment(low: float, high: float) -> None:
    """Bytes, scale and zero point are onnxruntime's to the bit, also where zero is not between the ends."""
    x = np.random.default_rng(2).uniform(low, high, (3, 50)).astype(np.float32)
    wanted = {"q": x.astype(np.uint8), "s": np.float32(0), "z": np.uint8(0)}
    for name in wanted:
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            helper.make_node("Identity", [name], ["y"]),
        ]
        made = model(nodes, {"x": x}, {}, wanted[name])
        np.testing.assert_array_equal(Runner(made)(x)[0], run_onnx(made, x)[0])


@pytest.mark.parametrize("op", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
@pytest.mark.parametrize("bias", [False, True])
def test_products_with_scales(op: str, bias: bool) -> None:
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(5, 40)).astype(np.float32), rng.integers(-60, 61, (40, 7)).astype(np.int8)
    constants = {"w": w, "ws": rng.uniform(0.01, 0.02, 7).astype(np.float32), "wz": np.zeros(7, np.int8)}
    constants |= {"b": rng.normal(size=7).astype(np.float32)} if bias else {}
    real = w * constants["ws"].astype(np.float64)
    end = ["b"] if bias else []
    if op == "DynamicQuantizeMatMul":
        inputs, names = {"x": x}, ["x", "w", "ws", "wz", *end]
        step = (x.max() - x.min()) / 255
        wanted = (np.rint(x / step) * step) @ real
    else:
        inputs = {"x": rng.integers(0, 256, (5, 40)).astype(np.uint8)}
        names = ["x", "w", "xs", "ws", "xz", "wz", *end]
        constants |= {"xs": np.float32(0.03), "xz": np.uint8(99)}
        wanted = (inputs["x"].astype(np.float64) - 99) * 0.03 @ real
    wanted = (wanted + constants.get("b", 0)).astype(np.float32)
    made = model([helper.make_node(op, names, ["y"], domain=OWN)], inputs, constants, wanted)
    found = Runner(made)(*inputs.values())[0]
    np.testing.assert_allclose(found, wanted, atol=1e-4 if op == "MatMulIntegerToFloat" else 0.01)
    kernels = {layer.kernel for layer in compile_model(made, resolve("host")).plan.layers}
    assert any(kernel.startswith("linear") for kernel in kernels)


def test_a_network_that_was_quantized_dynamically(tmp_path: Path) -> None:
    """It builds, is verified, and is near the network in float."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rng = np.random.default_rng(4)
    sizes = ((48, 96), (96, 64), (64, 10))
    weights = {f"w{i}": rng.normal(scale=a**-0.5, size=(a, b)).astype(np.float32) for i, (a, b) in enumerate(sizes)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]), helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["c"]), helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("MatMul", ["t", "w2"], ["y"]),
    ]  # fmt: skip
    x = rng.normal(size=(6, 48)).astype(np.float32)
    floats = model(nodes, {"x": x}, weights, np.zeros((6, 10), np.float32))
    onnx.save(floats, tmp_path / "floats.onnx")
    quantize_dynamic(tmp_path / "floats.onnx", tmp_path / "bytes.onnx", weight_type=QuantType.QInt8)
    assert sum(node.op_type == "MatMulInteger" for node in onnx.load(tmp_path / "bytes.onnx").graph.node) == 3
    tvm_schedules.build(tmp_path / "bytes.onnx", tmp_path / "artifact", "host")
    kernels = [step["kernel"] for step in store.read_metadata(tmp_path / "artifact")["steps"]]
    assert sum(kernel.startswith("linear") for kernel in kernels) == 3
    (wanted,) = run_onnx(floats, x)
    found = np.asarray(tvm_schedules.load(tmp_path / "artifact", threads=1)(x))
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()
