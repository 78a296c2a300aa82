"""The C form on emulated Cortex-M boards, in every variant of the code: the host's numbers, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.mcu import count
from benchmarks.mcu.cores import CORES
from tests.tvm_schedules.backends.c.test_memory import sanitized_nets
from tests.tvm_schedules.nets import Net, resnet

pytestmark = pytest.mark.skipif(count.missing() is not None, reason=str(count.missing()))


def two_terms() -> onnx.ModelProto:
    """Two terms, unequal levels, a float tensor between, many taps of one sign, a row of gaps that no byte holds."""
    net = Net((1, 40, 7, 9), seed=3)
    x = net.quantize("input_0", 0.02, 7)
    codes = np.ones((6, 40, 3, 3), np.int8)
    codes[1], codes[2, 1:39] = -1, 0
    y = net.op("Conv", x, net.ternary(codes, np.full(6, 2e-3)), pads=[1] * 4)
    y = net.op("Conv", net.quantize(y, 0.1, 100), net.weight((9, 6, 3, 3), 0.5, 2), net.bias(9), strides=[2, 2])
    y = net.op("Add", net.op("Conv", net.quantize(y, 0.05, 120), net.weight((9, 9, 1, 1), 0.4)), y)
    y = net.quantize(net.op("MaxPool", net.quantize(y, 0.05, 120), kernel_shape=[2, 2]), 0.05, 120)
    return net.model(net.op("Gemm", net.op("Flatten", y), net.weight((5, 54), 0.5, 2), net.bias(5), transB=1))


def lines() -> onnx.ModelProto:
    """Linear layers: lists, every weight, dense with a rest of outputs and inputs; several rows; outputs in 8 bits."""
    net = Net((3, 1203), seed=4)
    x = net.quantize("input_0", 0.03, 128)
    for inputs, outputs, zeros in ((1203, 37, 0.99), (37, 318, 0.4), (318, 11, None), (11, 6, 0.8)):
        x = net.op("Gemm", x, net.weight((outputs, inputs), zeros, int8=True), net.bias(outputs), transB=1)
        x = net.quantize(net.op("Relu", x), 0.02, 3)
    return net.model(x)


def separable() -> onnx.ModelProto:
    """Pointwise layers between depthwise ones, narrow and wide: rows are moved apart and together."""
    net = Net((1, 4, 9, 21), seed=5)
    x = net.quantize("input_0", 0.02, 128)
    for channels, stride in ((8, 1), (12, 2)):
        x = net.op("Conv", x, net.weight((channels, 4 if channels == 8 else 8, 1, 1), 0.4), net.bias(channels))
        x = net.quantize(net.op("Relu", x), 0.02)
        weight = net.weight((channels, 1, 3, 3), None, int8=True)
        x = net.op("Conv", x, weight, net.bias(channels), pads=[1] * 4, strides=[stride] * 2, group=channels)
        x = net.quantize(net.op("Relu", x), 0.02)
    wide = net.op("Conv", x, net.weight((6, 12, 3, 3), 0.5), pads=[1] * 4, strides=[2, 2])
    x = net.op("Add", net.op("Conv", x, net.weight((6, 12, 1, 1), 0.5), strides=[2, 2]), wide)
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", x))))


def encoder() -> onnx.ModelProto:
    """A layer of a transformer: attention of two heads over bytes, normalization, GELU."""
    net = Net((1, 7, 12), seed=6)
    x = net.op("Reshape", net.quantize("input_0", 0.03, 128), net.const(np.array([7, 12])))
    parts = [net.op("Gemm", x, net.weight((12, 12), 0.5), net.bias(12), transB=1) for _ in range(3)]
    shape = net.const(np.array([7, 2, 6]))
    q, k, v = (net.op("Reshape", net.quantize(part, 0.05, 128), shape) for part in parts)
    q, v, k = *(net.op("Transpose", one, perm=[1, 0, 2]) for one in (q, v)), net.op("Transpose", k, perm=[1, 2, 0])
    scores = net.op("Softmax", net.op("Mul", net.op("MatMul", q, k), net.const(np.float32(0.4))))
    y = net.op("Transpose", net.op("MatMul", scores, v), perm=[1, 0, 2])
    y = net.op("Add", net.op("Reshape", y, net.const(np.array([7, 12]))), x)
    y = net.op("LayerNormalization", y, *(net.const(np.ones(12, np.float32) * f) for f in (1.5, 0.1)))
    y = net.op("Gelu", net.op("Gemm", net.quantize(y, 0.03, 128), net.weight((9, 12), 0.5), net.bias(9), transB=1))
    return net.model(net.op("Gemm", net.quantize(y, 0.02, 20), net.weight((4, 9), 0.5), net.bias(4), transB=1))


def shared_zeros() -> onnx.ModelProto:
    """Rows that are sums of shared lists, by fours and by pairs, and pools of bytes."""
    return sanitized_nets()["shared zeros and pools"]


def activated() -> onnx.ModelProto:
    """Activation functions behind sums of every type, some in phases and with rows that are moved; a gate."""
    net = Net((1, 3, 13, 11), seed=7)
    x = net.quantize("input_0", 0.02, 128)
    x = net.op("Conv", x, net.weight((8, 3, 3, 3), None, int8=True), net.bias(8), pads=[1] * 4)
    x = net.quantize(net.op("HardSwish", x), 0.02, 19)
    weight = net.weight((8, 1, 3, 3), None, int8=True)
    x = net.op("Conv", x, weight, net.bias(8), pads=[1] * 4, strides=[2, 2], group=8)
    x = net.quantize(net.op("Mul", x, net.op("Sigmoid", x)), 0.02, 14)
    x = net.op("Conv", x, net.weight((16, 8, 3, 3), 0.6, 2), net.bias(16))
    x = net.quantize(net.op("Gelu", x), 0.03, 8)
    gate = net.quantize(net.op("GlobalAveragePool", x), 0.01, 60)
    gate = net.op("HardSigmoid", net.op("Conv", gate, net.weight((16, 16, 1, 1), 0.3)), alpha=1 / 6)
    x = net.quantize(net.op("Mul", x, gate), 0.02, 30)
    x = net.op("Conv", x, net.weight((12, 16, 1, 1), 0.5, shared=4), net.bias(12))
    x = net.quantize(net.op("Tanh", x), 0.01, 128)
    return net.model(net.op("Conv", x, net.weight((3, 12, 1, 1), 0.5)))


NETWORKS = {
    "activated": activated,
    "shared zeros": shared_zeros,
    "separable": separable,
    "encoder": encoder,
    "resnet": lambda: resnet([(16, 1), (24, 2), (24, 1)], 13, 0.8),
    "many zeros": lambda: resnet([(16, 1), (24, 2)], 9, 0.95, int8=False),
    "two terms": two_terms,
    "lines": lines,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_core_has_the_hosts_numbers(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    samples = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    count.prepare(model, samples, tmp_path / "model", verify=False)
    for core in CORES:
        if count.missing(core) is None:
            assert count.count(tmp_path / "model", core).instructions > 1000


def test_a_core_with_more_instructions_takes_fewer(tmp_path: Path) -> None:
    """That the variants are chosen at all."""
    count.prepare(NETWORKS["resnet"](), np.ones((1, 3, 13, 13), np.float32), tmp_path / "model", verify=False)
    m0, m3, m4, m55 = (count.count(tmp_path / "model", core).instructions for core in ("m0+", "m3", "m4", "m55"))
    assert m55 < 0.6 * m4
    assert m4 < 0.6 * m3
    assert m3 < m0
    for core in ("m4", "m55"):  # hot loops stay fast where the rest of a firmware is compiled for size
        small = count.count(tmp_path / "model", core, ("-Os",)).instructions
        assert small < 1.05 * (m4 if core == "m4" else m55)
        assert count.count(tmp_path / "model", core, ("-Os", "-DTERN_AS_COMPILED")).instructions > small
