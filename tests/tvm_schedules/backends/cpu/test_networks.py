"""Whole networks against onnxruntime: our kernels, fallback operators, layouts and memory together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net, Runner, resnet, run_onnx
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.passes import prepare


def agree(model: object, *inputs: np.ndarray, close: float) -> Runner:
    wanted, runner = run_onnx(model, *inputs), Runner(model)
    got = runner(*inputs)
    for want, have in zip(wanted, got, strict=True):
        error = np.linalg.norm(have.astype(float) - want) / max(1e-9, np.linalg.norm(want))
        assert error < close, f"relative error {error:.4f}"
    for first, second in zip(got, runner(*inputs), strict=True):
        np.testing.assert_array_equal(first, second)
    return runner


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dims", [16, 17])
def test_residual_network(dims: int) -> None:
    runner = agree(resnet([(16, 1), (32, 2), (32, 1)], dims, 0.8), image(1, 3, dims, dims), close=0.03)
    kernels = [s.kernel for s in runner.plan.steps]
    assert "fallback" not in kernels
    assert kernels.count("sparse") == 7


def test_squeeze_and_excite_with_fallback_operators() -> None:
    net = Net((1, 8, 12, 12))
    x = net.op(
        "HardSwish",
        net.op("Conv", net.quantize("input_0", 0.03, 128), net.weight((16, 8, 3, 3), 0.85), net.bias(16), pads=[1] * 4),
    )
    gate = net.op("Conv", net.op("GlobalAveragePool", x), net.weight((16, 16, 1, 1), None), net.bias(16))
    y = net.op("Mul", x, net.op("HardSigmoid", gate))
    z = net.op("Conv", net.quantize(y, 0.02, 30), net.weight((8, 16, 1, 1), 0.85), net.bias(8))
    runner = agree(net.model(net.op("Softmax", z, axis=1), z), image(1, 8, 12, 12), close=0.02)
    assert {"sparse", "dense", "fallback"} <= {s.kernel for s in runner.plan.steps}


def test_mobile_block_float() -> None:
    net = Net((2, 8, 10, 10))
    x = net.op(
        "Clip",
        net.op("Conv", "input_0", net.weight((24, 8, 1, 1), 0.7), net.bias(24)),
        net.const(np.float32(0)),
        net.const(np.float32(6)),
    )
    x = net.op(
        "Clip",
        net.op("Conv", x, net.weight((24, 1, 3, 3), None), net.bias(24), group=24, pads=[1] * 4),
        net.const(np.float32(0)),
        net.const(np.float32(6)),
    )
    x = net.op("Conv", x, net.weight((8, 24, 1, 1), 0.7), net.bias(8))
    agree(net.model(net.op("Add", x, "input_0")), image(2, 8, 10, 10), close=1e-5)


def test_maximum_before_rounding_is_moved_behind_it() -> None:
    net = Net((1, 3, 20, 20))
    x = net.op(
        "Relu",
        net.op(
            "Conv",
            net.quantize("input_0", 0.03, 128),
            net.weight((16, 3, 7, 7), None, int8=True),
            net.bias(16),
            pads=[3] * 4,
            strides=[2, 2],
        ),
    )
    x = net.quantize(net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    y = net.op("Conv", x, net.weight((4, 16, 3, 3), 0.8), pads=[1] * 4)
    runner = agree(net.model(y), image(1, 3, 20, 20), close=0.02)
    fused = next(s.info["fused"] for s in runner.plan.steps if s.kernel.startswith("dense"))
    assert fused[-1].startswith("quantizelinear")


def test_transformer_block() -> None:
    net, width = Net((1, 20, 32)), 32
    ln = [net.const(np.ones(width, np.float32)), net.const(np.zeros(width, np.float32))]
    h = net.op("LayerNormalization", "input_0", *ln, axis=-1)

    def project(x: str, out: int) -> str:
        return net.op(
            "Add", net.op("MatMul", x, net.op("Transpose", net.weight((out, width), 0.5), perm=[1, 0])), net.bias(out)
        )

    def heads(x: str, perm: list[int]) -> str:
        return net.op("Transpose", net.op("Reshape", x, net.const(np.array([1, 20, 4, 8]))), perm=perm)

    q, k, v = (heads(project(h, width), p) for p in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    a = net.op("Softmax", net.op("MatMul", q, k), axis=-1)
    o = net.op(
        "Reshape", net.op("Transpose", net.op("MatMul", a, v), perm=[0, 2, 1, 3]), net.const(np.array([1, 20, width]))
    )
    y = net.op("Add", project(o, width), "input_0")
    agree(net.model(net.op("Gelu", y)), image(1, 20, 32), close=1e-4)


def test_inputs_that_are_outputs_and_several_outputs() -> None:
    net = Net((1, 4, 5, 5), (1, 4, 5, 5))
    x = net.op("Conv", "input_0", net.weight((4, 4, 3, 3), 0.5), pads=[1] * 4)
    s = net.op("Add", x, "input_1")
    agree(net.model(x, s, net.op("Relu", s), net.op("Flatten", s)), image(1, 4, 5, 5), image(1, 4, 5, 5), close=1e-5)


def test_dead_layer_and_one_pixel() -> None:
    net = Net((1, 6, 1, 1))
    x = net.quantize(
        net.op("Conv", net.quantize("input_0", 0.02, 99), net.weight((5, 6, 3, 3), 1.0), net.bias(5), pads=[1] * 4),
        0.02,
        50,
    )
    agree(net.model(net.op("Conv", x, net.weight((3, 5, 1, 1), 0.3), net.bias(3))), image(1, 6, 1, 1), close=0.02)


def test_transposed_convolution() -> None:
    net = Net((1, 6, 5, 5))
    codes = net.codes((6, 4, 4, 4), 0.5)
    weight = net.ternary(codes, np.full(4, 0.1), axis=1)
    y = net.op("ConvTranspose", "input_0", weight, net.bias(4), strides=[2, 2], pads=[1] * 4)
    agree(net.model(net.op("Sigmoid", y)), image(1, 6, 5, 5), close=1e-4)


def test_the_float_network_that_peers_run_has_its_biases_in_the_convolutions() -> None:
    from tvm_schedules.frontend.onnx_model import float_model

    net = Net((1, 3, 8, 8))
    added = net.const(np.random.default_rng(0).normal(size=(1, 5, 1, 1)).astype(np.float32))
    x = net.op("Conv", net.quantize("input_0", 0.03, 128), net.weight((5, 3, 3, 3), 0.5), pads=[1] * 4)
    model = net.model(net.op("Relu", net.op("Add", x, added)))
    plain = float_model(model, strip_activations=False)
    assert [n.op_type for n in plain.graph.node] == ["QuantizeLinear", "DequantizeLinear", "Conv", "Relu"]
    for want, have in zip(run_onnx(model, image(1, 3, 8, 8)), run_onnx(plain, image(1, 3, 8, 8)), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_a_maximum_of_an_8_bit_tensor_stays_in_8_bits() -> None:
    net = Net((1, 4, 10, 10))
    x = net.op("MaxPool", net.quantize("input_0", 0.05, 100), kernel_shape=[2, 2], strides=[2, 2])
    y = net.quantize(net.op("Conv", x, net.weight((8, 4, 3, 3), 0.5, 1), pads=[1] * 4), 0.05, 128)
    model = net.model(y)
    assert {node.op: node_dtype for node, node_dtype in _outputs(model)}["MaxPool"] == "uint8"
    agree(model, image(1, 4, 10, 10), close=0.02)


def _outputs(model: object) -> list[tuple[Any, str]]:
    graph = prepare(read(read_model(model)))
    return [(node, graph.values[node.outputs[0]].dtype) for node in graph.nodes]


@pytest.mark.parametrize("operator", ["Mul", "Add"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1), (2, 1, 1), (1, 2, 1, 1)])
def test_one_number_and_one_for_each_channel_become_part_of_the_layer(operator: str, shape: tuple[int, ...]) -> None:
    net = Net((1, 3, 5, 5))
    x = net.op("Conv", "input_0", net.weight((2, 3, 3, 3), 0.5))
    values = np.array([0.5, -1.5], np.float32)[: int(np.prod(shape))].reshape(shape)
    model = net.model(net.op(operator, x, net.const(values)))
    runner = agree(model, image(1, 3, 5, 5), close=1e-5)
    assert [step.info["op"] for step in runner.plan.steps if step.kernel != "repack"] == ["Conv"]


@pytest.mark.parametrize(("shape", "steps"), [((4,), 1), ((1, 1, 4), 1), ((1, 4, 1), 2), ((4, 1), 2)])
def test_channels_of_a_linear_layer_are_its_last_axis(shape: tuple[int, ...], steps: int) -> None:
    """Four tokens of four channels: one number for each token is none for each channel."""
    net = Net((1, 4, 4))
    weight = net.op("Transpose", net.weight((4, 4), 0.3), perm=[1, 0])
    x = net.op("MatMul", "input_0", weight)
    model = net.model(net.op("Add", x, net.const(np.arange(1, 5, dtype=np.float32).reshape(shape))))
    runner = agree(model, image(1, 4, 4), close=1e-5)
    assert len(runner.plan.steps) == steps


@pytest.mark.parametrize("bounds", [(500.0, 600.0), (127.0, 900.0), (-600.0, -500.0), (-900.0, -1.5)])
@pytest.mark.parametrize("op", ["Conv", "Gemm", "MaxPool"])
def test_bounds_beyond_what_eight_bits_hold(op: str, bounds: tuple[float, float]) -> None:
    """All values are the largest (or smallest) integer."""
    net = Net((3, 20)) if op == "Gemm" else Net((1, 4, 9, 9))
    x = net.quantize("input_0", 0.05, 100)
    if op == "MaxPool":
        y = net.op("MaxPool", x, kernel_shape=[2, 2])
    elif op == "Conv":
        y = net.op("Conv", x, net.weight((8, 4, 3, 3), 0.4), net.bias(8))
    else:
        y = net.op("Gemm", x, net.weight((8, 20), 0.4), net.bias(8), transB=1)
    y = net.op("Clip", y, *(net.const(np.float32(bound)) for bound in bounds))
    model = net.model(net.quantize(y, 0.5, 3))
    data = np.random.default_rng(0).normal(size=(3, 20) if op == "Gemm" else (1, 4, 9, 9)).astype(np.float32)
    want = run_onnx(model, data)[0]
    assert want.min() == want.max()
    np.testing.assert_array_equal(Runner(model)(data)[0], want)
