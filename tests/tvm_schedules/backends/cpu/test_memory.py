"""Memory safety and determinism: guard pages around every buffer, the same numbers for any number of threads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.guarded import Guarded
from tests.tvm_schedules.nets import Net, Runner, few_bits, resnet


def nets() -> dict[str, tuple[object, tuple[int, ...]]]:
    conv = Net((1, 5, 13, 11))
    x = conv.quantize("input_0", 0.03, 17)
    x = conv.quantize(
        conv.op("Conv", x, conv.weight((7, 5, 5, 3), 0.5), conv.bias(7), pads=[2, 1, 2, 1], strides=[2, 1]), 0.03, 9
    )
    x = conv.quantize(conv.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 0.03, 9)
    plain = Net((2, 6, 9))
    y = plain.op("Conv", "input_0", plain.weight((9, 6, 4), 0.4, terms=2), plain.bias(9), pads=[3, 2])
    straight = Net((2, 6, 13, 11))
    q = straight.op("Conv", "input_0", straight.weight((30, 6, 3, 3), 0.9), straight.bias(30), pads=[1] * 4)
    q = straight.op("Conv", straight.op("Relu", q), straight.weight((9, 30, 3, 2), 0.9, terms=2), pads=[0, 1, 2, 1])
    panel = Net((1, 130, 14, 14))
    p = panel.op("Conv", panel.quantize("input_0", 0.03, 7), panel.weight((64, 130, 3, 3), 0.8), pads=[1] * 4)
    shared = Net((1, 90, 14, 13))
    s = shared.op(
        "Conv", shared.quantize("input_0", 0.03, 7), shared.weight((42, 90, 3, 3), 0.6, shared=4), pads=[1] * 4
    )
    dense = Net((1, 3, 21, 25))
    d = dense.op("Conv", dense.quantize("input_0", 0.03, 7), dense.weight((9, 3, 5, 5), None, int8=True), pads=[2] * 4)
    d = dense.quantize(dense.op("Relu", d), 0.03, 0)
    d = dense.op("MaxPool", d, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    lanes = Net((2, 70, 7, 7))
    v = lanes.op(
        "Conv", lanes.quantize("input_0", 0.03, 7), lanes.weight((40, 70, 3, 3), None, int8=True), pads=[1] * 4
    )
    few = Net((2, 45))
    f = few.op("Gemm", few.quantize("input_0", 0.03, 128), few.weight((33, 45), 0.6), few.bias(33), transB=1)
    floats = Net((3, 45))
    g = floats.op("Gemm", "input_0", floats.weight((35, 45), 0.6, terms=2), floats.bias(35), transB=1)
    image = Net((2, 3, 13, 11))
    h = image.op("GlobalAveragePool", image.op("MaxPool", "input_0", kernel_shape=[3, 3], strides=[2, 2]))
    rows = Net((37, 50))
    z = rows.op("Gemm", rows.quantize("input_0", 0.03, 128), rows.weight((33, 50), 0.6), rows.bias(33), transB=1)
    return {
        "residual": (resnet([(16, 1), (24, 2)], 15, 0.7), (1, 3, 15, 15)),
        "convolution and pooling": (conv.model(x), (1, 5, 13, 11)),
        "float, one dimension": (plain.model(y), (2, 6, 9)),
        "straight-line code": (straight.model(q), (2, 6, 13, 11)),
        "few bits": (few_bits(), (1, 24, 11, 13)),
        "panel": (panel.model(panel.quantize(p, 0.03, 9)), (1, 130, 14, 14)),
        "patterns": (shared.model(shared.quantize(s, 0.03, 9)), (1, 90, 14, 13)),
        "dense, pooling of rows": (dense.model(dense.quantize(d, 0.03, 0)), (1, 3, 21, 25)),
        "dense, small image": (lanes.model(lanes.quantize(v, 0.03, 9)), (2, 70, 7, 7)),
        "rows": (rows.model(z), (37, 50)),
        "few rows": (few.model(f), (2, 45)),
        "few rows of floats": (floats.model(g), (3, 45)),
        "float images": (image.model(h), (2, 3, 13, 11)),
        "bytes": (bytes_in(8, 8), (8, 8)),
        "bytes that are an output too": (bytes_out(8, 8), (8, 8)),
    }


def bytes_in(batch: int, inputs: int) -> onnx.ModelProto:
    """A linear layer whose input is the network's, in 8 bits."""
    net = Net((batch, inputs))
    net.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    x = net.op("DequantizeLinear", "input_0", net.const(np.float32(0.03)), net.const(np.uint8(7)))
    return net.model(net.op("Gemm", x, net.weight((40, inputs), 0.6), net.bias(40), transB=1))


def bytes_out(batch: int, inputs: int) -> onnx.ModelProto:
    """A linear layer whose input is an output of the network, in 8 bits."""
    net = Net((batch, inputs))
    params = [net.const(np.float32(0.03)), net.const(np.uint8(7))]
    x = net.op("Gemm", "input_0", net.weight((inputs, inputs), 0.6), transB=1)
    q = net.op("QuantizeLinear", x, *params)
    y = net.op("Gemm", net.op("DequantizeLinear", q, *params), net.weight((40, inputs), 0.6), net.bias(40), transB=1)
    model = net.model(y)
    model.graph.output.append(onnx.helper.make_tensor_value_info(q, onnx.TensorProto.UINT8, (batch, inputs)))
    return model


@pytest.mark.parametrize("name", list(nets()))
def test_nothing_outside_the_buffers_is_touched(name: str) -> None:
    model, shape = nets()[name]
    runner = Runner(model)
    x = np.random.default_rng(0).normal(size=shape).astype(runner.plan.inputs[0].dtype)
    wanted = runner(x)
    memory = [
        x,
        *(np.zeros(o.shape, o.dtype) for o in runner.plan.outputs),
        runner.arena.numpy(),
        runner.constants.numpy(),
    ]
    guarded = [Guarded(a) for a in memory]
    runner.function(*(g.tensor() for g in guarded), 0, len(runner.plan.steps))
    for want, have in zip(wanted, guarded[1:], strict=False):
        np.testing.assert_array_equal(have.array, want)
    np.testing.assert_array_equal(guarded[-1].array, memory[-1])


def test_number_of_threads_does_not_change_a_bit() -> None:
    import tvm

    model = resnet([(16, 1), (32, 2)], 33, 0.6)
    x = np.random.default_rng(1).normal(size=(1, 3, 33, 33)).astype(np.float32)
    runner = Runner(model)
    configure = tvm.get_global_func("runtime.config_threadpool")
    results = []
    try:
        for threads in (1, 2, 4):
            configure(1, threads)
            results.append(runner(x)[0])
    finally:
        configure(1, 2)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
