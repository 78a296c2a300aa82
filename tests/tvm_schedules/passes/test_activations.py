"""Activation functions behind layers: found however they are written, computed as onnxruntime does, or left alone."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import numpy as np
import pytest

from tests.tvm_schedules.guarded import guarded
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.ir.graph import Fused
from tvm_schedules.passes.activations import split
from tvm_schedules.pipeline import read_graph

Write = Callable[[Net, str], str]


def number(net: Net, value: float) -> str:
    return net.const(np.float32(value))


def gelu_of_erf(net: Net, x: str) -> str:
    inner = net.op("Erf", net.op("Div", x, number(net, sqrt(2))))
    return net.op("Mul", net.op("Mul", x, net.op("Add", inner, number(net, 1))), number(net, 0.5))


def gelu_of_tanh(net: Net, x: str) -> str:
    cubic = net.op("Mul", net.op("Pow", x, number(net, 3)), number(net, 0.044715))
    inner = net.op("Tanh", net.op("Mul", net.op("Add", x, cubic), number(net, sqrt(2 / pi))))
    return net.op("Mul", net.op("Mul", x, number(net, 0.5)), net.op("Add", inner, number(net, 1)))


def hard_swish(net: Net, x: str) -> str:
    bounded = net.op("Clip", net.op("Add", x, number(net, 3)), number(net, 0), number(net, 6))
    return net.op("Div", net.op("Mul", x, bounded), number(net, 6))


WRITTEN: dict[str, tuple[str, Write]] = {
    "operator": ("gelu", lambda net, x: net.op("Gelu", x)),
    "operator, tanh": ("gelu_tanh", lambda net, x: net.op("Gelu", x, approximate="tanh")),
    "of erf": ("gelu", gelu_of_erf),
    "of tanh": ("gelu_tanh", gelu_of_tanh),
    "two nodes": ("silu", lambda net, x: net.op("Mul", x, net.op("Sigmoid", x))),
    "scaled": (
        "gelu_sigmoid",
        lambda net, x: net.op("Mul", x, net.op("Sigmoid", net.op("Mul", x, number(net, 1.702)))),
    ),
    "hard": ("hardswish", lambda net, x: net.op("HardSwish", x)),
    "hard, four nodes": ("hardswish", hard_swish),
    "hard gate": ("hardsigmoid", lambda net, x: net.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
    "gate": ("sigmoid", lambda net, x: net.op("Sigmoid", x)),
    "tanh": ("tanh", lambda net, x: net.op("Tanh", x)),
}


def network(write: Write, out: bool, image: bool = False) -> tuple[object, tuple[int, ...]]:
    shape = (1, 20, 9, 7) if image else (1, 37, 20)
    net = Net(shape)
    x = net.quantize("input_0", 0.03, 110)
    if image:
        y = net.op("Conv", x, net.weight((33, 20, 3, 3), 0.5), net.bias(33), pads=[1] * 4)
    else:
        y = net.op(
            "Add", net.op("MatMul", x, net.op("Transpose", net.weight((33, 20), 0.5), perm=[1, 0])), net.bias(33)
        )
    y = write(net, y)
    return net.model(net.quantize(y, 0.02, 20) if out else y), shape


def activations_of(model: object) -> list[str | None]:
    return [node.activation for node in read_graph(model).nodes if isinstance(node, Fused)]


@pytest.mark.parametrize("name", WRITTEN)
def test_layers_compute_what_follows_them(name: str) -> None:
    kind, write = WRITTEN[name]
    model, shape = network(write, True, image=name in ("hard", "two nodes"))
    assert activations_of(model) == [kind]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 2
    (want,), (have,) = run_onnx(model, x), guarded(model, x)
    steps = np.abs(want - have) / 0.02
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.01


@pytest.mark.parametrize(
    ("name", "image"), [("of erf", False), ("of erf", True), ("of tanh", False), ("two nodes", True)]
)
def test_floats_behind_a_function(name: str, image: bool) -> None:
    model, shape = network(WRITTEN[name][1], False, image)
    runner = Runner(model)
    assert "fallback" not in [step.kernel for step in runner.plan.steps]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(runner(x)[0], run_onnx(model, x)[0], rtol=2e-5, atol=1e-6)


def test_rows_with_more_axes_are_rows() -> None:
    """Gemm takes matrices alone: tokens of a batch become rows before it, and tokens again behind it."""
    net = Net((1, 37, 20))
    x = net.op("Reshape", net.quantize("input_0", 0.03, 110), net.const(np.array([37, 20])))
    y = net.op("Gemm", x, net.weight((33, 20), 0.5), net.bias(33), transB=1)
    y = gelu_of_tanh(net, net.op("Reshape", y, net.const(np.array([1, 37, 33]))))
    model = net.model(net.quantize(net.op("Add", y, y), 0.02, 20))
    assert activations_of(model) == ["gelu_tanh"]
    x = np.random.default_rng(0).normal(size=(1, 37, 20)).astype(np.float32)
    assert np.abs(Runner(model)(x)[0] - run_onnx(model, x)[0]).max() < 0.0201


def leaky(net: Net, x: str) -> str:
    return net.op("LeakyRelu", x)


def other_scale(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", net.op("Mul", x, number(net, 1.5))))


def read_twice(net: Net, x: str) -> str:
    return net.op("Concat", net.op("Sigmoid", x), x, axis=1)


def half(net: Net, x: str) -> str:
    """The gate of a SiLU is read by another node, too."""
    gate = net.op("Sigmoid", x)
    return net.op("Concat", net.op("Mul", x, gate), gate, axis=1)


@pytest.mark.parametrize("write", [leaky, other_scale, read_twice, half])
def test_others_stay_nodes(write: Write) -> None:
    model, shape = network(write, True)
    assert activations_of(model) == [None]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.abs(Runner(model)(x)[0] - run_onnx(model, x)[0]).max() < 0.0201


def more_axes(net: Net, x: str) -> str:
    """A number with six axes gives its results six."""
    factor = net.const(np.full((1,) * 6, 1.702, np.float32))
    return net.op("Mul", x, net.op("Sigmoid", net.op("Mul", x, factor)))


def test_functions_keep_the_axes_of_an_image() -> None:
    model, shape = network(more_axes, False, image=True)
    assert activations_of(model) == [None]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(Runner(model)(x)[0], run_onnx(model, x)[0], rtol=2e-5, atol=1e-6)


def gated(net: Net, x: str) -> str:
    """Squeeze-and-excitation: planes times numbers that come from all of their pixels."""
    x = net.op("HardSwish", x)
    return net.op("Mul", net.op("Sigmoid", net.op("GlobalAveragePool", x)), x)


@pytest.mark.parametrize("out", [True, False])
def test_planes_are_multiplied_where_they_are(out: bool) -> None:
    model, shape = network(gated, out, image=True)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 2
    (want,), (have,) = run_onnx(model, x), guarded(model, x)
    products = [step for step in Runner(model).plan.steps if "Mul" in step.info["op"]]
    assert [step.kernel for step in products] == ["pool"]
    assert np.abs(want - have).max() < (0.0201 if out else 1e-4)


def test_gates_are_nodes_elsewhere() -> None:
    graph = read_graph(network(gated, True, image=True)[0])
    ops = [node.op for node in split(graph, lambda node: False).nodes if "Linear" not in node.op]
    assert ops == ["Conv", "HardSwish", "GlobalAveragePool", "Sigmoid", "Mul"]


def per_row(net: Net, x: str) -> str:
    """A factor for every row of pixels is none for every plane."""
    x = net.op("HardSwish", x)
    return net.op("Mul", x, net.op("ReduceMean", x, net.const(np.array([3])), keepdims=1))


def test_other_products_stay_nodes() -> None:
    model, shape = network(per_row, True, image=True)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.abs(Runner(model)(x)[0] - run_onnx(model, x)[0]).max() < 0.0201


def test_back_ends_without_them_get_nodes() -> None:
    """The same graph serves all back ends; those whose kernels have no such epilogue lower the operators."""
    graph = read_graph(network(gelu_of_erf, True)[0])
    before = list(graph.nodes)
    plain = split(graph, lambda node: False)
    assert graph.nodes == before
    assert [node.op for node in plain.nodes if "Linear" not in node.op] == ["MatMul", "Div", "Erf", "Add", "Mul", "Mul"]
    made = next(node for node in plain.nodes if isinstance(node, Fused))
    assert made.activation is None
    assert made.outputs == plain.nodes[plain.nodes.index(made) + 1].inputs[:1]
