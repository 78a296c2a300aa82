"""OpenCL device layer, over pyopencl."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import DeviceError

__all__ = ["OpenClDevice", "devices"]

Array = npt.NDArray[Any]


def devices() -> list[Any]:
    """All OpenCL devices, graphics processors first.

    Raises:
        DeviceError: pyopencl is missing, or there is no OpenCL driver or device.
    """
    try:
        import pyopencl as cl
    except ImportError as error:
        raise DeviceError(
            f"OpenCL needs pyopencl ({error}); install it with: pip install 'tern-lightning[opencl]'"
        ) from None
    try:
        found = [device for platform in cl.get_platforms() for device in platform.get_devices()]
    except cl.Error as error:
        raise DeviceError(f"no OpenCL driver was found ({error}); {_HINT}") from error
    if not found:
        raise DeviceError(f"no OpenCL device was found; {_HINT}")
    return sorted(found, key=lambda device: not device.type & cl.device_type.GPU)


_HINT = "install the processor's driver, or PoCL for the CPU (Debian: pocl-opencl-icd)"


class OpenClDevice:
    """A device with a compiled program.

    Args:
        source: OpenCL C.
        index: Which of :func:`devices`; None takes ``TERN_OPENCL_DEVICE``, or the first.

    Raises:
        DeviceError: There is no such device, or its compiler refuses the program.
    """

    def __init__(self, source: str, index: int | None = None) -> None:
        found = devices()
        import pyopencl as cl

        given = os.environ.get("TERN_OPENCL_DEVICE", "0") if index is None else str(index)
        if not given.isdecimal() or int(given) >= len(found):
            known = ", ".join(f"{number}: {device.name.strip()}" for number, device in enumerate(found))
            raise DeviceError(f"TERN_OPENCL_DEVICE must be the number of a device ({known}), got {given!r}")
        chosen = int(given)
        self._cl = cl
        self._context = cl.Context([found[chosen]])
        self._queue = cl.CommandQueue(self._context)
        self.name = f"{found[chosen].name.strip()} ({found[chosen].platform.name})"
        try:
            self._program = cl.Program(self._context, source).build()
        except cl.Error as error:
            raise DeviceError(f"{self.name} cannot compile the kernels: {str(error)[-1500:]}") from error

    def alloc(self, nbytes: int) -> Any:
        """A buffer, filled with zeros."""
        buffer = self._cl.Buffer(self._context, self._cl.mem_flags.READ_WRITE, max(4, nbytes))
        self._cl.enqueue_fill_buffer(self._queue, buffer, np.uint8(0), 0, buffer.size)
        return buffer

    def free(self, buffer: Any) -> None:
        """Gives memory back."""
        buffer.release()

    def upload(self, buffer: Any, array: Array) -> None:
        """Copies a contiguous array to the start of a buffer."""
        if array.nbytes:
            self._cl.enqueue_copy(self._queue, buffer, array, is_blocking=True)

    def download(self, buffer: Any, array: Array) -> None:
        """Copies the start of a buffer into a contiguous array."""
        if array.nbytes:
            self._cl.enqueue_copy(self._queue, array, buffer, is_blocking=True)

    def kernel(self, name: str) -> Any:
        """A kernel of the program.

        Raises:
            DeviceError: There is none of that name.
        """
        try:
            return self._cl.Kernel(self._program, name)
        except self._cl.Error as error:
            raise DeviceError(f"the program has no kernel {name!r}: {error}") from error

    def launch(self, kernel: Any, grid: tuple[int, int, int], threads: int, buffers: list[Any]) -> None:
        """Starts a kernel."""
        kernel.set_args(*buffers)
        size = (grid[0] * threads, grid[1], grid[2])
        self._cl.enqueue_nd_range_kernel(self._queue, kernel, size, (threads, 1, 1))

    def record(self, launches: Sequence[tuple[Any, tuple[int, int, int], int, list[Any]]]) -> Callable[[], None]:
        """A function that starts all of them."""

        def start() -> None:
            for launch in launches:
                self.launch(*launch)

        return start

    def finish(self) -> None:
        """Waits for all work."""
        self._queue.finish()
