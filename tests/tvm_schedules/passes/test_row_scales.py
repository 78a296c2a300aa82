"""Layers whose inputs are rounded with a scale of every row read integers, and compute what onnxruntime does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import compilations, more_data
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.ir.graph import Graph, Linear
from tvm_schedules.pipeline import read_graph

F = np.float32
FORMS = ("quotient", "reciprocal", "step", "pair", "integers")


def scales(net: Net, x: str, form: str) -> str:
    """What rows are multiplied by before they are rounded (``step``: divided by)."""
    top = net.op("ReduceMax", net.op("Abs", x), net.const(np.array([-1])), keepdims=1)
    top = net.op("Clip", top, net.const(F(1e-5)))
    if form == "step":
        return net.op("Div", top, net.const(F(127)))
    if form == "reciprocal":
        return net.op("Mul", net.op("Reciprocal", top), net.const(F(127)))
    return net.op("Div", net.const(F(127)), top)


def rounded(net: Net, x: str, form: str, bounds: tuple[int, int] = (-128, 127)) -> tuple[str, str, str]:
    """Integers in a float tensor, their rows' scales, and the operator that takes these out again."""
    scale = scales(net, x, form)
    before, after = ("Div", "Mul") if form == "step" else ("Mul", "Div")
    y = net.op(before, x, scale)
    if form == "pair":
        return net.quantize(y, 1.0, 128), scale, after
    low, high = (net.const(F(bound)) for bound in bounds)
    if form == "step":
        return net.op("Round", net.op("Clip", y, low, high)), scale, after
    y = net.op("Clip", net.op("Round", y), low, high)
    if form == "integers":  # as layers with packed weights do it
        y = net.op("Cast", net.op("Cast", y, to=onnx.TensorProto.INT8), to=onnx.TensorProto.FLOAT)
    return y, scale, after


def layer(net: Net, x: str, weight: str, form: str, bias: str = "", gemm: bool = False) -> str:
    codes, scale, after = rounded(net, x, form)
    if form == "integers":
        y = net.op(after, net.op("MatMul", codes, weight), scale)
    else:
        operands = [net.op(after, codes, scale), weight]
        if gemm:
            return net.op("Gemm", *operands, *([bias] if bias else []))
        y = net.op("MatMul", *operands)
    return net.op("Add", y, bias) if bias else y


@dataclass(frozen=True)
class Case:
    form: str
    rows: tuple[int, ...]
    inputs: int
    outputs: int
    kind: str
    bias: bool
    gemm: bool


CASES = st.builds(
    Case,
    st.sampled_from(FORMS),
    st.sampled_from([(1,), (3,), (1, 5), (2, 3, 4), (19,), (2, 17)]),
    st.sampled_from([2, 7, 16, 33, 64, 130]),
    st.sampled_from([1, 5, 8, 17, 40]),
    st.sampled_from(["ternary", "two terms", "int8", "float"]),
    st.booleans(),
    st.booleans(),
)


def weight_of(net: Net, case: Case) -> str:
    shape = (case.inputs, case.outputs)
    if case.kind == "float":
        return net.const(net.rng.normal(size=shape).astype(F))
    if case.kind == "int8":
        return net.int8(net.rng.integers(-127, 128, shape).astype(np.int8), np.array([0.01]))
    terms = [ternary(net, *shape) for _ in range(2)]
    return terms[0] if case.kind == "ternary" else net.op("Add", *terms)


def ternary(net: Net, inputs: int, outputs: int) -> str:
    return net.ternary(net.codes((inputs, outputs), 0.5), net.rng.uniform(0.5, 1.5, outputs).astype(F), axis=1)


def linear(graph: Graph) -> list[Linear]:
    return [node for node in graph.nodes if isinstance(node, Linear)]


@compilations(24)
@given(CASES)
def test_layers_compute_what_onnxruntime_does(case: Case) -> None:
    net = Net((*case.rows, case.inputs))
    bias = net.bias(case.outputs) if case.bias else ""
    y = layer(net, "input_0", weight_of(net, case), case.form, bias, case.gemm and len(case.rows) == 1)
    model = net.model(y)
    (node,) = linear(read_graph(model))
    assert read_graph(model).values[node.inputs[0]].quant is not None
    x = np.random.default_rng(1).normal(size=(*case.rows, case.inputs)).astype(F)
    x *= np.float32(10.0) ** np.arange(x.size // case.inputs).reshape(*case.rows, 1) % 97  # rows of different sizes
    x.reshape(-1, case.inputs)[-1] = 0
    runner = Runner(model)
    for (data,) in more_data([x]):
        (ours,), (theirs,) = runner(data), run_onnx(model, data)
        # Terms may cancel out: a float's error is one of the terms' sum. Another integer is far beyond.
        atol = 1e-6 * np.abs(data).sum(axis=-1, keepdims=True)
        assert np.all(np.abs(ours - theirs) <= 2e-5 * np.abs(theirs) + atol + 1e-6)


def quantized(model: onnx.ModelProto) -> list[bool]:
    """Whether the input of each linear layer has 8 bits."""
    graph = read_graph(model)
    return [graph.values[node.inputs[0]].quant is not None for node in linear(graph)]


def compare(model: onnx.ModelProto, x: np.ndarray) -> None:
    (ours,), (theirs,) = Runner(model)(x), run_onnx(model, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("bounds", [(-8, 7), (0, 255), (0, 15), (-127, 127)])
def test_other_integers_of_8_bits(bounds: tuple[int, int]) -> None:
    net = Net((3, 20))
    codes, scale, after = rounded(net, "input_0", "quotient", bounds)
    model = net.model(net.op("MatMul", net.op(after, codes, scale), ternary(net, 20, 24)))
    assert quantized(model) == [True]
    compare(model, np.random.default_rng(0).normal(size=(3, 20)).astype(F))


def test_several_layers_read_one_tensor_and_something_else_does() -> None:
    net = Net((5, 24))
    codes, scale, after = rounded(net, "input_0", "reciprocal")
    x = net.op(after, codes, scale)
    left, right = (net.op("MatMul", x, ternary(net, 24, 24)) for _ in range(2))
    model = net.model(net.op("Add", net.op("Mul", left, right), x))
    assert quantized(model) == [True, True]
    assert [node.op for node in read_graph(model).nodes].count("QuantizeLinear") == 1
    compare(model, np.random.default_rng(0).normal(size=(5, 24)).astype(F))


@pytest.mark.parametrize("what", ["columns", "all", "no bounds", "many", "halves", "truncated", "computed weight"])
def test_other_factors_and_roundings_are_left_alone(what: str) -> None:
    net = Net((4, 24))
    scale = scales(net, "input_0", "quotient")
    if what == "columns":
        scale = net.op("Transpose", net.op("ReduceMax", net.op("Abs", "input_0"), net.const(np.array([0]))))
        scale = net.op("Transpose", scale)
    y = net.op("Mul", "input_0", scale)
    low, high = {"many": (-200, 200), "halves": (-3.5, 3.5)}.get(what, (-128, 127))
    y = y if what == "truncated" else net.op("Round", y)
    y = y if what == "no bounds" else net.op("Clip", y, net.const(F(low)), net.const(F(high)))
    if what == "truncated":
        y = net.op("Cast", net.op("Cast", y, to=onnx.TensorProto.INT8), to=onnx.TensorProto.FLOAT)
    y = net.op("Div", y, net.op("ReduceMax", scale) if what == "all" else scale)
    weight = ternary(net, 24, 8)
    if what == "computed weight":
        weight = net.op("Mul", weight, net.op("ReduceMax", scale, keepdims=0))
    model = net.model(net.op("MatMul", y, weight))
    assert quantized(model) == ([] if what == "computed weight" else [False])
    compare(model, np.random.default_rng(0).normal(size=(4, 24)).astype(F))


def test_one_level_for_all_channels() -> None:
    """Weights of b1.58 models have one scale a layer, whichever way round they are stored."""
    net = Net((3, 16))
    weight = net.ternary(net.codes((16, 40), 0.5), np.array([0.3], F))
    model = net.model(layer(net, "input_0", weight, "pair"))
    (node,) = linear(read_graph(model))
    assert node.weight is not None
    assert quantized(model) == [True]
    compare(model, np.random.default_rng(0).normal(size=(3, 16)).astype(F))
