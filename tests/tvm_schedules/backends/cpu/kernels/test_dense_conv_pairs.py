"""Dense convolutions by pairs of products over a panel, on x86 without dot products; all memory is guarded."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from tests.tvm_schedules.guarded import guarded
from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.lowering.rules.dense_conv import JOBS, PANEL_BYTES
from tvm_schedules.lowering.schedule_config import ScheduleConfigs
from tvm_schedules.pipeline import read_graph
from tvm_schedules.targets.registry import resolve

AVX2 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}'
SSE = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}'

CASES = {
    "many parts of few pixels": ((1, 5, 7, 6), 70, (3, 3), 1, 1, True),
    "an odd number of taps": ((1, 3, 20, 13), 17, (3, 3), 2, 1, True),
    "groups": ((2, 6, 9, 11), 16, (1, 3), 1, 2, True),
    "one register block": ((1, 4, 9, 9), 2, (3, 3), 1, 1, False),
    "a panel that is too large": ((1, 500, 4, 4), 9, (3, 3), 1, 1, False),
}


@pytest.mark.skipif("avx2" not in resolve("host").features, reason="needs a CPU with AVX2")
@pytest.mark.parametrize("name", CASES)
def test_convolutions_agree_with_onnxruntime(name: str) -> None:
    shape, rows, kernel, stride, groups, panel = CASES[name]
    net = Net(shape)
    x = net.quantize(net.op("Relu", net.quantize("input_0", 0.03, 7)), 0.03, 3)
    weight = net.weight((rows, shape[1] // groups, *kernel), None, int8=True)
    sides = [kernel[0] // 2, kernel[1] // 2] * 2
    y = net.op("Conv", x, weight, net.bias(rows), pads=sides, strides=[stride] * 2, group=groups)
    model = net.model(net.quantize(net.op("Relu", y), 0.02, 0))
    lowering = CpuLowering(read_graph(model), resolve(AVX2), None)
    lowering.run()
    (spec,) = [step.spec for step in lowering.steps if step.kernel == "dense"]
    assert bool(spec.chunks) == panel
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 3
    (want,), (have,) = run_onnx(model, x), guarded(model, x, target=AVX2)
    steps = np.abs(want - have) / 0.02
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.002


@pytest.mark.parametrize("target", [AVX2, SSE])
@pytest.mark.parametrize(("size", "block"), [((13, 16), 4), ((9, 20), 6)])
@pytest.mark.parametrize("clipped", [False, True])
def test_four_vectors_together(
    target: str, size: tuple[int, int], block: int, clipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def knob(configs: ScheduleConfigs, name: str, what: str, value: int, allowed: list[int]) -> int:
        return {"block": block, "tile": 2}.get(what, value)

    monkeypatch.setattr(ScheduleConfigs, "knob", knob)
    net = Net((1, 3, *size))
    x = net.quantize("input_0", 0.03, 100)
    y = net.op("Conv", x, net.weight((6, 3, 3, 3), None, int8=True), net.bias(6), pads=[1] * 4)
    model = net.model(net.quantize(net.op("Relu", y) if clipped else y, 0.02, 128))
    lowering = CpuLowering(read_graph(model), resolve(target), None)
    lowering.run()
    (spec,) = [step.spec for step in lowering.steps if step.kernel == "dense"]
    assert (spec.sums, spec.block, spec.tile) == ("pairs", block, 2)
    image = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32) * 3
    (want,), (have,) = run_onnx(model, image), guarded(model, image, target=target)
    steps = np.abs(want - have) / 0.02
    assert steps.max() < 1.01
    assert (steps > 0.5).mean() < 0.002


@pytest.mark.parametrize(("size", "rows", "least"), [((6, 6), 64, 4), ((64, 64), 64, 1), ((6, 6), 8, 1)])
def test_threads_have_jobs_and_panels_fit(size: tuple[int, int], rows: int, least: int) -> None:
    net = Net((1, 8, *size))
    weight = net.weight((rows, 8, 3, 3), None, int8=True)
    y = net.op("Conv", net.quantize("input_0", 0.1, 3), weight, net.bias(rows), pads=[1] * 4)
    lowering = CpuLowering(read_graph(net.model(y)), resolve(AVX2), None)
    lowering.run()
    (spec,) = [step.spec for step in lowering.steps if step.kernel == "dense"]
    blocks = spec.pixels // spec.lanes // spec.block
    assert least <= spec.chunks <= rows // spec.tile // 2
    assert spec.chunks * blocks >= min(JOBS, blocks * (rows // spec.tile // 2))
    assert -(-8 * prod(spec.window.kernel) // 2) * spec.block * spec.vector <= PANEL_BYTES
