"""Runs the plan of a network on a graphics processor: the same for all of them, over a thin device layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import ArtifactError
from tvm_schedules.ir.plan import Argument, Plan, TensorInfo
from tvm_schedules.runtime.model import SteppedModel

__all__ = ["Device", "GpuModel"]

Array = npt.NDArray[Any]
Launch = tuple[Any, tuple[int, int, int], int, list[Any]]


class Device(Protocol):
    """What the runner needs of a device; everything happens in order."""

    name: str

    def alloc(self, nbytes: int) -> Any:
        """Memory of the device, filled with zeros."""

    def free(self, buffer: Any) -> None:
        """Gives memory back."""

    def upload(self, buffer: Any, array: Array) -> None:
        """Copies a contiguous array to the start of a buffer; the array may change once this returns."""

    def download(self, buffer: Any, array: Array) -> None:
        """Copies the start of a buffer into a contiguous array, after all work before it."""

    def kernel(self, name: str) -> Any:
        """A kernel of the program that the device was opened with."""

    def launch(self, kernel: Any, grid: tuple[int, int, int], threads: int, buffers: list[Any]) -> None:
        """Starts a kernel."""

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """A function that starts all of them, at once if the device can."""

    def finish(self) -> None:
        """Waits for all work."""


class GpuModel(SteppedModel):
    """A network on a graphics processor, called with numpy arrays like every :class:`tvm_schedules.Model`.

    Attributes:
        device: Where it runs.
    """

    def __init__(self, plan: Plan, constants: Array, device: Device, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(plan, metadata)
        if plan.device is None:
            raise ArtifactError("the plan has no kernels for a graphics processor")
        self.device = device
        self.what = f"kernels of {self!r}"
        slack = plan.device.slack

        def tensor(entry: TensorInfo) -> Any:
            return device.alloc(prod(entry.shape) * np.dtype(entry.dtype).itemsize + slack)

        self._in = [tensor(entry) for entry in plan.inputs]
        self._out = [tensor(entry) for entry in plan.outputs]
        slots = [device.alloc(size + slack) for size in plan.device.slots]
        placed: dict[int, Any] = {}
        kernels = [device.kernel(kernel.name) for kernel in plan.device.kernels]

        def buffer(argument: Argument) -> Any:
            at = argument.index
            if argument.kind != "constant":
                return {"slot": slots, "input": self._in, "output": self._out}[argument.kind][at]
            if at not in placed:
                placed[at] = device.alloc(argument.nbytes)
                device.upload(placed[at], constants[at : at + argument.nbytes])
            return placed[at]

        self._launches: list[Launch] = []
        for launch in plan.device.launches:
            kernel = plan.device.kernels[launch.kernel]
            args = [buffer(launch.args[i]) for i in kernel.order]
            self._launches.append((kernels[launch.kernel], kernel.grid, kernel.threads, args))
        self._start = device.record(self._launches)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, on {self.device.name})"

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the network on inputs of the compiled shapes. The lock is held."""
        for buffer, array in zip(self._in, arrays, strict=True):
            self.device.upload(buffer, np.ascontiguousarray(array))
        self._start()
        results = [np.empty(entry["shape"], entry["dtype"]) for entry in self.outputs]
        for buffer, result in zip(self._out, results, strict=True):
            self.device.download(buffer, result)
        return results

    def run_steps(self, begin: int, end: int) -> None:
        """Start the steps ``begin <= i < end`` on what is in the device's memory; does not wait for them."""
        self._check_steps(begin, end)
        for kernel, grid, threads, buffers in self._launches[begin:end]:
            self.device.launch(kernel, grid, threads, buffers)

    def step_seconds(self, number: int = 20) -> list[float]:
        """Mean time of every step in ``number`` starts one after another, on what is in the device's memory."""
        taken = []
        for launch in self._launches:
            start = self.device.record([launch] * number)
            start()
            self.device.finish()
            started = time.perf_counter()
            start()
            self.device.finish()
            taken.append((time.perf_counter() - started) / number)
        return taken

    def seconds(self, number: int = 10, repeat: int = 1) -> float:
        """Mean time of a run in ``number * repeat`` of them, without copies to and from the host.

        ``number`` runs are started as one; they are the same work, on what is in the device's memory.
        """
        start = self.device.record(self._launches * number)
        start()
        self.device.finish()
        started = time.perf_counter()
        for _ in range(repeat):
            start()
        self.device.finish()
        return (time.perf_counter() - started) / (number * repeat)
