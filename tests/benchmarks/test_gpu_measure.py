"""The measuring script for graphics processors: its checks through OpenCL, its report, a machine without a device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import kernels, measure, peers
from tvm_schedules.backends.gpu.devices.opencl import devices
from tvm_schedules.errors import DeviceError
from tvm_schedules.targets.registry import resolve

kernels_seconds = kernels.seconds


def need_opencl() -> None:
    try:
        devices()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(1, 5000, 103), (3, 301, 45), (9, 644, 33)])
def test_products_equal_numpy(batch: int, inputs: int, outputs: int) -> None:
    need_opencl()
    target = resolve("opencl")
    spec = kernels.spec_of(batch, inputs, outputs, target)
    data = kernels.layer(batch, inputs, outputs)
    assert kernels.verify(spec, data, target) < measure.TOLERANCE
    data.codes[0, -1] = -data.codes[0, -1] or 1
    assert kernels.verify(spec, data, target) > measure.TOLERANCE, "a wrong weight is not noticed"


def test_variants_and_bandwidth_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    need_opencl()
    monkeypatch.setattr(kernels, "COLD_BYTES", 1 << 16)
    monkeypatch.setattr(kernels, "seconds", lambda device, launches: kernels_seconds(device, launches, 1e-3))
    target = resolve("opencl")
    specs = list(kernels.variants(kernels.spec_of(1, 512, 64, target)))
    assert len(specs) == len(set(specs)) >= 9
    for cold in (True, False):
        assert all(0 < t < 10 for t in kernels.measure(specs[:3], kernels.layer(1, 512, 64), target, cold))
    assert kernels.bandwidth(target, 1 << 20) > 1e5


def test_a_machine_without_a_device_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "find_target", lambda: (None, ["CUDA: no driver", "OpenCL: no device"]))
    monkeypatch.setattr(peers, "missing", lambda: "PyTorch is not installed")
    assert measure.main(["--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().out
    assert "missing: CUDA: no driver" in said
    assert "no times" in said
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert len(found["missing"]) == 4
    assert "- OpenCL: no device" in (tmp_path / "out" / "gpu.md").read_text()
    assert set(peers.measure(1, 64, 64, True).values()) == {"not measured: PyTorch is not installed"}


def test_report() -> None:
    row = {"outputs": 4096, "inputs": 4096, "batch": 1, "weights_from_memory": True, "seconds": 2e-6}
    others = dict.fromkeys(peers.PEERS, "not measured: none") | {"torch fp16 (cuBLAS)": 8e-6}
    row |= {"best_seconds": 1e-6, "best": "1 row", "weight_bytes": 4 << 20, "peers": others}
    result = {"device": "D", "when": "W", "machine": "M", "missing": [], "bandwidth": 4.2e12, "products": [row]}
    result |= {"checks": [{"what": "k", "against": "numpy", "error": 1.0, "passed": False}]}
    result |= {"resnet18": [{"batch": 1, "seconds": 1e-3, "torch float16": 2e-3, "torch bfloat16": "not measured: x"}]}
    fast = row | {"seconds": 1.2e-6, "outputs": 8192}
    result["products"] = [row, fast, row | {"batch": 4}, row | {"weights_from_memory": False}, row | {"inputs": 64}]
    result["aims"] = measure.aims(result["products"], result["bandwidth"])
    text = measure.markdown(result)
    assert [aim["met"] for aim in result["aims"]] == [False, True]
    assert "- 4096 x 4096: 4.00 times, 50%: NOT met" in text
    assert "- 8192 x 4096: 6.67 times, 83%: met" in text
    assert "0 right, 1 wrong" in text
    assert "| **2.00** | 50% | 1.00 (1 row) | 8.00 (4.0) |" in text
    assert "| 1 | **1.000** | 2.00 | not measured: x |" in text
