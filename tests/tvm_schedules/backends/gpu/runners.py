"""Where kernels run in the tests: OpenCL through PoCL, and CUDA source on the CPU through a small C++ header."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.compiling import compile_gpu
from tvm_schedules.backends.gpu.devices.opencl import OpenClDevice, devices
from tvm_schedules.backends.gpu.runtime import GpuModel
from tvm_schedules.errors import DeviceError
from tvm_schedules.packing.registry import expand
from tvm_schedules.targets.registry import TargetSpec, resolve

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
MOST_ARGUMENTS = 14


def need_opencl() -> None:
    """Skips a test where there is no OpenCL device."""
    try:
        devices()
    except DeviceError as error:
        pytest.skip(str(error))


class CudaOnCpu:
    """The runner's device layer over CUDA source compiled as C++."""

    name = "CUDA source on the CPU"

    def __init__(self, source: str) -> None:
        if shutil.which("g++") is None:
            pytest.skip("g++ is missing: CUDA source is run on the CPU as C++")
        folder = Path(tempfile.gettempdir()) / f"cuda-on-cpu-{hashlib.sha256(source.encode()).hexdigest()[:24]}"
        folder.mkdir(exist_ok=True)
        (folder / "kernels.cpp").write_text(f'#include "{HEADER}"\n{source}')
        command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-fno-strict-aliasing", "kernels.cpp"]
        done = subprocess.run([*command, "-o", "kernels.so"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        self._library = ctypes.CDLL(str(folder / "kernels.so"))
        shutil.rmtree(folder)

    def alloc(self, nbytes: int) -> Any:
        # Aligned as device memory is, and filled with garbage: what is not written must not matter.
        raw = np.random.default_rng(nbytes).integers(0, 256, nbytes + 256).astype(np.uint8)
        return raw[-raw.ctypes.data % 256 :][:nbytes]

    def free(self, buffer: Any) -> None:
        pass

    def upload(self, buffer: Any, array: np.ndarray) -> None:
        buffer[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def download(self, buffer: Any, array: np.ndarray) -> None:
        array.reshape(-1).view(np.uint8)[:] = buffer[: array.nbytes]

    def kernel(self, name: str) -> Any:
        return getattr(self._library, name)

    def launch(self, kernel: Any, grid: tuple[int, int, int], threads: int, buffers: list[Any]) -> None:
        assert len(buffers) <= MOST_ARGUMENTS
        pointers = (ctypes.c_void_p * MOST_ARGUMENTS)(*[b.ctypes.data for b in buffers])
        self._library.launch_on_cpu(kernel, *grid, threads, pointers)

    def record(self, launches: list[Any]) -> Callable[[], None]:
        return lambda: [self.launch(*launch) for launch in launches] and None

    def finish(self) -> None:
        pass


def open_device(target: TargetSpec, source: str) -> Any:
    """A device for a target's source; skips where there is none."""
    if target.tvm["kind"] == "cuda":
        return CudaOnCpu(source)
    need_opencl()
    return OpenClDevice(source)


class GpuRunner:
    """Compiles a model and runs it; like ``tests.tvm_schedules.nets.Runner``, outputs in a list."""

    def __init__(self, model: Any, target: str) -> None:
        spec = resolve(target)
        self.compiled = compile_gpu(model, spec)
        self.plan = self.compiled.plan
        device = open_device(spec, self.compiled.source)
        memory = expand(self.plan.constants, self.plan.constant_bytes, self.compiled.arrays)
        self.model = GpuModel(self.plan, memory, device)

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        result = self.model(*inputs)
        return list(result) if isinstance(result, tuple) else [result]
