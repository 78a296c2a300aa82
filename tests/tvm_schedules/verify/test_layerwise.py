"""Every 8-bit tensor within one step of onnxruntime's, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.nets import Net, Runner, resnet
from tvm_schedules.verify import outputs
from tvm_schedules.verify.layerwise import compare_layers, only_amplified


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


def two_layers() -> onnx.ModelProto:
    net = Net((1, 4, 9, 9))
    x = net.quantize("input_0", 0.03, 128)
    first = net.quantize(net.op("Conv", x, net.weight((8, 4, 3, 3), 0.5), pads=[1] * 4))
    return net.model(net.quantize(net.op("Conv", first, net.weight((8, 8, 3, 3), 0.5), pads=[1] * 4)))


def test_right_layers_excuse_outputs_that_differ() -> None:
    model = two_layers()
    runs = [{"input_0": np.random.default_rng(seed).normal(size=(1, 4, 9, 9)).astype(np.float32)} for seed in range(2)]
    own = [list(runner(model)(*run.values())) for run in runs]
    assert only_amplified(model, runs, own, runner) == 3
    other = [
        [array + np.float32(array.max()) * (np.arange(9) == 3).astype(array.dtype) for array in run] for run in own
    ]
    assert only_amplified(model, runs, other, runner) is None  # the library is not what was looked at


@pytest.mark.parametrize("change", ["two steps", "many elements", "error"])
def test_wrong_layers_excuse_nothing(change: str) -> None:
    model = two_layers()
    x = np.random.default_rng(0).normal(size=(1, 4, 9, 9)).astype(np.float32)

    def make(probe: onnx.ModelProto) -> Any:
        own = runner(probe)

        def run(*inputs: np.ndarray) -> tuple[np.ndarray, ...]:
            if change == "error":
                raise RuntimeError("it cannot be compiled")
            result = [array.copy() for array in own(*inputs)]
            inner = next(array for array in result[1:] if array.dtype == np.uint8 and array.shape[1] == 8)
            if change == "two steps":
                inner[0, 0, 0, 0] += 2 if inner[0, 0, 0, 0] < 200 else -2
            else:
                inner[0, :, :2] ^= 1
            return tuple(result)

        return run

    assert only_amplified(model, [{"input_0": x}], [list(runner(model)(x))], make) is None


def test_a_report_says_what_decided() -> None:
    entry = outputs.compare("y", np.float32([1.0, 2.0]), np.float32([1.0, 1.0]), None, True)
    report = outputs.Report((entry,), 1, "library", True)
    assert not report.passed
    assert "MISMATCH y" in report.text()
    excused = outputs.Report((entry,), 1, "library", True, layers=7)
    assert excused.check().passed
    assert "amplified y" in excused.text()
    assert "each of the 7 8-bit tensors" in excused.text()
    assert outputs.Report.from_dict(excused.to_dict()) == excused
    old = {key: value for key, value in report.to_dict().items() if key != "layers"}
    assert outputs.Report.from_dict(old) == report
