"""The CUDA device layer and the runner over it, against a driver that runs kernels on the CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tvm_schedules.artifact_nets import conv_net
from tests.tvm_schedules.compiling import compile_gpu
from tvm_schedules.targets.registry import resolve
from tvm_schedules.verify.reference import reference_outputs
from tvm_schedules.verify.samples import random_samples

HERE = Path(__file__).parents[1]

SCRIPT = """
import ctypes, json, sys
import numpy as np
folder = sys.argv[1]
ctypes.CDLL(f"{folder}/libcuda.so.1")  # found by its name from now on
from tvm_schedules.errors import DeviceError
from tvm_schedules.backends.gpu.devices.cuda import CudaDevice, capability
from tvm_schedules.backends.gpu.runtime import GpuModel
from tvm_schedules.ir.plan import Plan

assert capability() == 87
plan = Plan.from_json(json.load(open(f"{folder}/plan.json")))
data = np.load(f"{folder}/data.npz")
lines = [f"{kernel.name} {len(kernel.order)}" for kernel in plan.device.kernels]
device = CudaDevice("\\n".join([f"{folder}/kernels.so", *lines]).encode())
assert device.name == "CPU (sm_87)"
model = GpuModel(plan, data["constants"], device)
for x, want in zip(data["x"], data["want"]):
    np.testing.assert_allclose(model(x), want, rtol=1e-4, atol=1e-4)
assert model.seconds(2) > 0
try:
    device.kernel("none")
except DeviceError as error:
    assert "cuModuleGetFunction: named symbol not found (CUDA error 500)" in str(error), error
else:
    raise AssertionError("a missing kernel was found")
device.free(device.alloc(100))
print("equal")
"""


def test_network_over_the_driver_interface(tmp_path: Path) -> None:
    import json

    import numpy as np

    from tvm_schedules.packing.registry import expand

    if shutil.which("g++") is None:
        pytest.skip("g++ is missing")
    model = conv_net()
    compiled = compile_gpu(model, resolve("sm_87"))
    (tmp_path / "kernels.cpp").write_text(f'#include "{HERE / "cuda_on_cpu.h"}"\n{compiled.source}')
    gxx = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-fno-strict-aliasing"]
    subprocess.run([*gxx, "kernels.cpp", "-o", "kernels.so"], cwd=tmp_path, check=True)
    driver = [*gxx, str(HERE / "fake_driver.cpp"), "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "-ldl"]
    subprocess.run(driver, cwd=tmp_path, check=True)
    (tmp_path / "plan.json").write_text(json.dumps(compiled.plan.to_json()))
    runs = random_samples(model, 3)
    want = reference_outputs(model, runs)
    arrays = {"x": [next(iter(run.values())) for run in runs], "want": [outputs[0] for outputs in want]}
    memory = expand(compiled.plan.constants, compiled.plan.constant_bytes, compiled.arrays)
    np.savez(tmp_path / "data.npz", constants=memory, **arrays)
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "equal"
