"""Artifacts for graphics processors: export, verification, loading, and what happens where a device is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_schedules
from tern_lightning.cli import export as export_command
from tests.tvm_schedules.artifact_nets import conv_net
from tests.tvm_schedules.backends.gpu.runners import CudaOnCpu, GpuRunner, need_opencl
from tvm_schedules.artifact import load_samples
from tvm_schedules.backends.gpu import nvrtc
from tvm_schedules.backends.gpu.backend import BACKEND
from tvm_schedules.backends.gpu.compile import generate
from tvm_schedules.cli import inspect as inspect_command
from tvm_schedules.compat import gpu as compat
from tvm_schedules.errors import DeviceError, LinkError, ModelError, TargetError
from tvm_schedules.targets.registry import resolve

CHECK = Path(__file__).parents[4] / "examples" / "edge" / "check.py"


def need_cuda_compiler(*architectures: int) -> None:
    try:
        nvrtc.check(architectures)
    except LinkError as error:
        pytest.skip(str(error))


def test_opencl_artifact_is_verified_on_the_device(tmp_path: Path) -> None:
    need_opencl()
    artifact = tvm_schedules.build(conv_net(), tmp_path / "out", "opencl")
    assert artifact.report is not None
    assert "kernels of GpuModel" in artifact.report.where
    assert (tmp_path / "out" / "kernels.cl").is_file()
    inputs, outputs = load_samples(tmp_path / "out")
    for name in ("model.onnx", "samples.npz"):  # which a device needs not have
        (tmp_path / "out" / name).unlink()
    model = artifact.load()
    for given, want in zip(inputs, outputs, strict=True):
        np.testing.assert_allclose(model(*given), want[0], rtol=1e-4, atol=1e-4)
    assert model.device.name in repr(model)  # type: ignore[attr-defined]


def test_a_phone_needs_numpy_and_pyopencl_alone(tmp_path: Path) -> None:
    need_opencl()
    tvm_schedules.build(conv_net(), tmp_path / "out", "opencl")
    script = f"""
import sys
for name in ("tvm", "tvm_ffi", "onnx", "onnxruntime", "torch"):
    sys.modules[name] = None  # importing it fails
import tvm_schedules
model = tvm_schedules.load({str(tmp_path / "out")!r})
import numpy as np
samples = np.load({str(tmp_path / "out" / "samples.npz")!r})
np.testing.assert_allclose(model(samples["input0"][0]), samples["output0"][0], rtol=1e-4, atol=1e-4)
print("equal")
import runpy
sys.argv[1:] = [{str(tmp_path / "out")!r}]
runpy.run_path({str(CHECK)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    first, *_, compared, timed = done.stdout.splitlines()
    assert first == "equal"
    assert "8 samples, largest relative difference from onnxruntime" in compared
    assert timed.startswith("median ")


def _store_zero(e: compat.GpuEmitter, group: Any, t: Any, out: Any) -> None:
    e.store(out, 0, e.const(0.0, "float32"))


def test_more_groups_than_a_grid_counts_are_refused() -> None:
    kernel = compat.Kernel([compat.Argument("out", "float32", 1)], (1, 70000, 1), 32, _store_zero)
    with pytest.raises(ModelError, match="70000"):
        generate({"wide": kernel}, resolve("opencl"))


def test_steps_can_be_run_one_at_a_time() -> None:
    runner = GpuRunner(conv_net(), "opencl")
    x = np.random.default_rng(0).normal(size=(1, 16, 8, 8)).astype(np.float32)
    want = runner(x)[0]
    for step in range(len(runner.plan.steps)):
        runner.model.run_steps(step, step + 1)
    got = np.empty_like(want)
    runner.model.device.download(runner.model._out[0], got)
    np.testing.assert_array_equal(got, want)
    assert runner.model.seconds(2) > 0
    with pytest.raises(ValueError, match="0 <= begin <= end"):
        runner.model.run_steps(3, 1)


@pytest.mark.parametrize(("target", "images"), [("jetson-orin", ["sm_87"]), ("jetson-xavier", ["sm_72"])])
def test_cuda_artifact_without_a_device(
    tmp_path: Path, target: str, images: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    need_cuda_compiler(int(images[0][3:]))
    if BACKEND.unavailable(resolve(target)) is None:
        pytest.skip("this machine has a CUDA device")
    said: list[str] = []
    artifact = tvm_schedules.build(conv_net(), tmp_path / "out", target, progress=said.append)
    assert artifact.report is None
    assert any(line.startswith("NOT VERIFIED") for line in said)
    found = nvrtc.images((tmp_path / "out" / "kernels.fatbin").read_bytes())
    assert sorted(found) == sorted([*images, f"compute_{images[0][3:]}"])
    with pytest.raises(DeviceError, match="no CUDA driver"):
        artifact.load()
    assert inspect_command.main([str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert images[0] in shown
    assert "not verified: no CUDA driver" in " ".join(shown.split())


def test_export_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command each: verified where there is a device, said loudly where there is none."""
    need_opencl()
    need_cuda_compiler(87)
    (tmp_path / "model.onnx").write_bytes(conv_net().SerializeToString())
    for target in ("opencl", "sm_87"):
        arguments = [str(tmp_path / "model.onnx"), "--tvm-target", target, "--output", str(tmp_path / target)]
        assert export_command.main(arguments) == 0
        said = capsys.readouterr().out
        assert ("- verify" in said) == (target == "opencl" or BACKEND.unavailable(resolve(target)) is None)
        assert ("NOT VERIFIED, the kernels were not run" in said) == ("- verify" not in said)


def test_fat_binary_of_nvcc_holds_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is missing")
    monkeypatch.setattr(nvrtc, "_tools", lambda: None)
    content = nvrtc.fatbin('extern "C" __global__ void f(int* x) { *x = __dp4a(*x, 2, 3); }', [80, 87])
    assert sorted(nvrtc.images(content)) == ["compute_80", "sm_80", "sm_87"]


def test_errors_of_the_cuda_compiler_name_the_line() -> None:
    need_cuda_compiler(87)
    with pytest.raises(LinkError, match=r"kernels\.cu"):
        nvrtc.fatbin('extern "C" __global__ void f(int* x) { *x = unknown; }', [87])
    with pytest.raises(LinkError, match="sm_999"):
        nvrtc.fatbin("", [999])


def test_metal_and_webgpu_are_source(tmp_path: Path) -> None:
    metal = tvm_schedules.build(conv_net(), tmp_path / "metal", "metal")
    text = (tmp_path / "metal" / "kernels.metal").read_text()
    assert metal.report is None
    assert all(f"kernel void {kernel['name']}(" in text for kernel in metal.metadata["memory"]["kernels"])
    assert text.count("metal_stdlib") == 1
    with pytest.raises(DeviceError, match="exported as source"):
        metal.load()
    with pytest.raises(TargetError, match="WGSL"):
        tvm_schedules.build(conv_net(), tmp_path / "webgpu", "webgpu")
    web = tvm_schedules.build(conv_net(quantized=False, batch=1), tmp_path / "webgpu", "webgpu")
    text = (tmp_path / "webgpu" / "kernels.wgsl").read_text()
    kernels = web.metadata["memory"]["kernels"]
    assert all(f"fn {kernel['name']}(" in text for kernel in kernels)
    assert all(len(kernel["order"]) >= 2 for kernel in kernels)


def test_names() -> None:
    assert resolve("sm_86").tvm["sm"] == [86]
    assert resolve("mali").tvm["kind"] == "opencl"
    with pytest.raises(TargetError, match="sm_61"):
        resolve("sm_50")
    with pytest.raises(TargetError, match="not available in this TVM"):
        resolve("vulkan")


def test_arguments_are_in_the_order_of_the_source() -> None:
    runner = GpuRunner(conv_net(), "opencl")
    orders = [kernel.order for kernel in runner.plan.device.kernels]
    assert any(list(order) != sorted(order) for order in orders), "the trap is not there any more: simplify generate"


def test_slots_are_shared() -> None:
    launches = GpuRunner(conv_net(), "opencl").plan.device.launches
    written = [(launch.args[-1].kind, launch.args[-1].index) for launch in launches]
    assert len({place for place in written if place[0] == "slot"}) < len(written) - 1


def test_cuda_source_needs_no_header() -> None:
    source = GpuRunner(conv_net(), "cuda").compiled.source
    assert "#include" not in source
    assert "__dp4a" in source
    assert CudaOnCpu(source).kernel("repack_0_kernel")
