"""Which tensors have 8 bits, and where QuantizeLinear and DequantizeLinear go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Graph, Node, Quant, Value
from tvm_schedules.passes import quantized

ZERO = {"uint8": np.uint8(3), "int8": np.int8(-5)}


class Small:
    """A graph by hand: every tensor is ``[1, 2, 4, 4]`` unless a shape is given."""

    def __init__(self, dtype: str = "float32", inputs: int = 1) -> None:
        names = [f"x{i}" for i in range(inputs)]
        values = {name: Value(name, (1, 2, 4, 4), dtype) for name in names}
        constants = {"scale": np.array(0.5, np.float32)}
        constants |= {f"zero_{kind}": np.array(number) for kind, number in ZERO.items()}
        self.graph = Graph("net", [], values, constants, names, [])

    def op(self, op: str, *inputs: str, dtype: str = "float32", shape: Any = None, outputs: int = 1) -> str:
        name = f"{op}{len(self.graph.nodes)}"
        names = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        for out in names:
            self.graph.values[out] = Value(out, shape or (1, 2, 4, 4), dtype)
        self.graph.nodes.append(Node(f"node_{name}", op, list(inputs), names))
        return name

    def quantize(self, x: str, dtype: str = "uint8") -> str:
        return self.op("QuantizeLinear", x, "scale", f"zero_{dtype}", dtype=dtype)

    def dequantize(self, x: str, dtype: str = "uint8") -> str:
        return self.op("DequantizeLinear", x, "scale", f"zero_{dtype}")

    def run(self, *outputs: str) -> Graph:
        self.graph.outputs = list(outputs)
        quantized.run(self.graph)
        return self.graph


def ops(graph: Graph) -> list[str]:
    """Operators in order; each must stand behind those that it reads."""
    known = {*graph.inputs, *graph.constants}
    for node in graph.nodes:
        assert {name for name in node.inputs if name} <= known, node.name
        known.update(node.outputs)
    assert set(graph.outputs) <= known
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("op", ["MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"])
def test_rounding_goes_before_what_moves_values(op: str) -> None:
    small = Small()
    graph = small.run(small.op("Exp", small.dequantize(small.quantize(small.op(op, "x0")))))
    assert ops(graph) == ["QuantizeLinear", op, "DequantizeLinear", "Exp"]
    quantize, moved, dequantize, _ = graph.nodes
    assert quantize.inputs == ["x0", "scale", "zero_uint8"]
    assert moved.inputs == quantize.outputs
    assert dequantize.inputs[0] == moved.outputs[0]
    assert {graph.values[node.outputs[0]].quant for node in (quantize, moved)} == {Quant(0.5, 3)}
    assert {graph.values[node.outputs[0]].dtype for node in (quantize, moved)} == {"uint8"}
    assert graph.values[dequantize.outputs[0]].quant is None


@pytest.mark.parametrize("op", ["MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity"])
def test_dequantizing_goes_behind_what_moves_values(op: str) -> None:
    small = Small()
    graph = small.run(small.op("Exp", small.op(op, small.dequantize(small.quantize("x0")))))
    assert ops(graph)[:1] + ops(graph)[-3:] == ["QuantizeLinear", op, "DequantizeLinear", "Exp"]
    moved = next(node for node in graph.nodes if node.op == op)
    assert moved.inputs[0] == graph.nodes[0].outputs[0]
    assert graph.values[moved.outputs[0]].quant == Quant(0.5, 3)


def test_several_in_a_row() -> None:
    small = Small()
    x = small.op("Flatten", small.op("MaxPool", small.op("Reshape", "x0")))
    x = small.op("Reshape", small.op("Identity", small.dequantize(small.quantize(x))))
    graph = small.run(small.op("Exp", x))
    graph.prune()
    assert ops(graph) == [
        "QuantizeLinear", "Reshape", "MaxPool", "Flatten", "Identity", "Reshape", "DequantizeLinear", "Exp",
    ]  # fmt: skip
    assert [graph.values[node.outputs[0]].quant == Quant(0.5, 3) for node in graph.nodes] == [True] * 6 + [False] * 2


def test_other_operators_stay_where_they_are() -> None:
    small = Small()
    x = small.dequantize(small.quantize(small.op("Exp", "x0")))
    graph = small.run(small.op("Transpose", x))
    assert ops(graph) == ["Exp", "QuantizeLinear", "DequantizeLinear", "Transpose"]


@pytest.mark.parametrize("why", ["two readers", "an output", "indices", "integers", "open numbers"])
def test_rounding_stays_behind(why: str) -> None:
    small = Small("int32" if why == "integers" else "float32", inputs=2)
    x = small.op("MaxPool", "x0", outputs=2 if why == "indices" else 1)
    more = [small.op("Exp", x)] if why == "two readers" else [x] if why == "an output" else []
    q = small.op("QuantizeLinear", x, "x1" if why == "open numbers" else "scale", "zero_uint8", dtype="uint8")
    before = ops(small.graph)
    graph = small.run(small.dequantize(q), *more)
    assert ops(graph) == [*before, "DequantizeLinear"]
    assert graph.nodes[0].inputs == ["x0"]


@pytest.mark.parametrize("why", ["indices", "open numbers", "a constant"])
def test_dequantizing_stays_before(why: str) -> None:
    small = Small(inputs=2)
    q = small.quantize("x0")
    if why == "a constant":
        small.graph.constants["fixed"], q = np.zeros((1, 2, 4, 4), np.uint8), "fixed"
    x = small.op("DequantizeLinear", q, "x1" if why == "open numbers" else "scale", "zero_uint8")
    y = small.op("MaxPool", x, outputs=2 if why == "indices" else 1)
    graph = small.run(y)
    assert ops(graph) == ["QuantizeLinear", "DequantizeLinear", "MaxPool"]


def test_what_is_rounded_again_needs_no_second_move() -> None:
    small = Small()
    graph = small.run(small.dequantize(small.quantize(small.op("MaxPool", small.dequantize(small.quantize("x0"))))))
    assert ops(graph).count("MaxPool") == 1
    assert ops(graph).count("DequantizeLinear") == 2
    pool = next(node for node in graph.nodes if node.op == "MaxPool")
    assert graph.values[pool.inputs[0]].quant == graph.values[pool.outputs[0]].quant == Quant(0.5, 3)


@pytest.mark.parametrize(
    ("scale", "zero", "found"),
    [
        (np.float32(0.25), np.uint8(7), Quant(0.25, 7)),
        (np.float32([0.25]), np.int8([-7]), Quant(0.25, -7)),
        (np.float32(0.25), None, Quant(0.25, 0)),
        (np.float32([0.25, 0.5]), np.uint8([7, 7]), None),
        (np.float32(0.25), np.uint16(7), None),
        (None, np.uint8(7), None),
        (np.float32(0.25), "open", None),
    ],
)
def test_numbers_of_a_tensor(scale: Any, zero: Any, found: Quant | None) -> None:
    constants = {"x": np.zeros(1)}
    if scale is not None:
        constants["s"] = np.asarray(scale)
    if zero is not None and not isinstance(zero, str):
        constants["z"] = np.asarray(zero)
    graph = Graph("net", [], {}, constants, [], [])
    assert (
        quantized.parameters(graph, Node("", "QuantizeLinear", ["y", "s", *(["z"] if zero is not None else [])], ["q"]))
        == found
    )
    if zero is None:
        assert quantized.parameters(graph, Node("", "QuantizeLinear", ["y", "s", ""], ["q"])) == found


@pytest.mark.parametrize(
    ("high", "top"),
    [
        (4.0, 11),
        (3.9, 11),
        (3.7, 10),
        (200.0, 255),
        (-100.0, 0),
        (126.0, 255),
        (125.5, 254),
        (None, 255),
        ("open", 255),
    ],
)
@pytest.mark.parametrize("between", [[], ["MaxPool"], ["Identity", "Flatten"]])
def test_the_largest_integer(high: Any, top: int, between: list[str]) -> None:
    small = Small(inputs=2)
    small.graph.constants["low"] = np.array(-1, np.float32)
    bounds = ["low"]
    if high == "open":
        bounds.append("x1")
    elif high is not None:
        small.graph.constants["high"] = np.array(high, np.float32)
        bounds.append("high")
    x = small.op("Clip", "x0", *bounds)
    for op in between:
        x = small.op(op, x)
    q = small.quantize(x)
    graph = small.run(small.dequantize(q))
    first = next(node for node in graph.nodes if node.op == "QuantizeLinear")
    assert graph.values[first.outputs[0]].quant == Quant(0.5, 3, top)
    assert graph.values[q].quant == Quant(0.5, 3, top)


def test_nothing_is_known_of_what_no_clip_has_made() -> None:
    for op in (None, "Relu"):
        small = Small()
        q = small.quantize("x0" if op is None else small.op(op, "x0"))
        assert small.run(small.dequantize(q)).values[q].quant == Quant(0.5, 3, 255)


@pytest.mark.parametrize("readers", [0, 1, 2])
def test_inputs_of_eight_bits(readers: int) -> None:
    small = Small("uint8")
    outputs = [small.dequantize("x0") for _ in range(readers)] or [small.op("Cast", "x0")]
    graph = small.run(*outputs)
    assert graph.values["x0"].quant == (Quant(0.5, 3) if readers == 1 else None)
    small = Small("int8")
    graph = small.run(small.dequantize("x0", "int8"))
    assert graph.values["x0"].quant is None


@pytest.mark.parametrize("reader", ["DequantizeLinear", "MaxPool", "Cast", "output"])
def test_signed_integers_become_unsigned_where_nobody_sees_it(reader: str) -> None:
    small = Small()
    q = small.quantize("x0", "int8")
    if reader == "MaxPool":
        pooled = small.op("MaxPool", q, dtype="int8")
        out = small.dequantize(pooled, "int8")
    else:
        out = q if reader == "output" else small.op(reader, q, "scale", "zero_int8")
    graph = small.run(out)
    if reader in ("Cast", "output"):
        assert graph.values[q] == Value(q, (1, 2, 4, 4), "int8")
        return
    assert graph.values[q] == Value(q, (1, 2, 4, 4), "uint8", Quant(0.5, 123))
    if reader == "MaxPool":
        assert graph.values[pooled] == Value(pooled, (1, 2, 4, 4), "uint8", Quant(0.5, 123))


def test_the_integers_behind_a_float() -> None:
    small = Small(inputs=2)
    q = small.quantize("x0")
    x = small.dequantize(q)
    y = small.op("Exp", x)
    other = small.op("DequantizeLinear", q, "x1", "zero_uint8")
    graph = small.run(y, other)
    producers = graph.producers()
    assert quantized.resolve(graph, producers, x) == q
    assert [quantized.resolve(graph, producers, name) for name in ("x0", y, other, "scale")] == [
        "x0",
        y,
        other,
        "scale",
    ]
    small = Small("uint8")  # of bytes that are no numbers there is nothing to resolve
    both = [small.dequantize("x0"), small.dequantize("x0")]
    graph = small.run(*both)
    assert quantized.resolve(graph, graph.producers(), both[0]) == both[0]


def exported(graph: Graph) -> Any:
    """The graph as an ONNX model."""
    from onnx import TensorProto, helper, numpy_helper

    def info(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, graph.values[name].shape)

    nodes = [helper.make_node(n.op, n.inputs, n.outputs, name=n.name, **n.attrs) for n in graph.nodes]
    tensors = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    made = helper.make_graph(nodes, "net", [info(n) for n in graph.inputs], [info(n) for n in graph.outputs], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_nothing_changes_in_onnxruntime(order: int) -> None:
    net = Net((2, 3, 8, 8))
    x = net.op("Clip", "input_0", net.const(np.float32(-1.2)), net.const(np.float32(1.3)))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]) if order % 2 else x
    x = net.quantize(x, 0.01, 120)
    x = net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = net.op("Reshape", x, net.const(np.int64([2, 3, -1])))
    x = net.quantize(x, 0.02, 60) if order // 2 else x
    y = net.op("Unsqueeze", x, net.const(np.int64([1])))
    model = net.model(net.op("Exp", y), net.op("Flatten", x))
    graph = read(model)
    quantized.run(graph)
    data = np.random.default_rng(2).normal(size=(2, 3, 8, 8)).astype(np.float32)
    for have, want in zip(run_onnx(exported(graph), data), run_onnx(model, data), strict=True):
        np.testing.assert_array_equal(have, want)
