"""Every 8-bit tensor within one step of onnxruntime's, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.nets import Net, Runner, resnet
from tvm_schedules.verify.layerwise import compare_layers


def runner(model: onnx.ModelProto) -> Any:
    own = Runner(model)
    return lambda *inputs: tuple(own(*inputs))


@pytest.mark.parametrize("zeros", [0.4, 0.8])
def test_every_layer_of_a_residual_network_is_within_one_step(zeros: float) -> None:
    model = resnet([(16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)], 24, zeros)
    rng = np.random.default_rng(0)
    layers = compare_layers(model, [{"input_0": rng.normal(size=(1, 3, 24, 24)).astype(np.float32)}] * 2, runner)
    assert len(layers) == 15
    assert max(s.steps for s in layers) <= 1
    # The last layer averages pixels: few elements, and now and then a tie.
    assert max(s.share for s in layers[:-1]) < 1e-3


def test_a_wrong_layer_is_named_and_the_others_are_not() -> None:
    net = Net((1, 4, 9, 9))
    x = net.quantize("input_0", 0.03, 128)
    first = net.quantize(net.op("Conv", x, net.weight((8, 4, 3, 3), 0.5), pads=[1] * 4))
    second = net.quantize(net.op("Conv", first, net.weight((8, 8, 3, 3), 0.5), pads=[1] * 4))
    model = net.model(second)

    def broken(probe: onnx.ModelProto) -> Any:
        changed = onnx.ModelProto()
        changed.CopyFrom(probe)
        weights = [t for t in changed.graph.initializer if t.data_type == onnx.TensorProto.INT2]
        weights[0].raw_data = bytes(len(weights[0].raw_data))
        return runner(changed)

    x_value = np.random.default_rng(0).normal(size=(1, 4, 9, 9)).astype(np.float32)
    layers = compare_layers(model, [{"input_0": x_value}], broken)
    assert [s.steps > 1 for s in layers] == [False, True, False]
