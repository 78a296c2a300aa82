"""CUDA device layer: a dozen functions of the driver's library, called through ctypes; no package is needed.

Written from the CUDA driver API reference. ``CUdevice`` is an int, ``CUdeviceptr`` 64 bits, handles are pointers; the
functions with a ``_v2`` name are what ``cuda.h`` maps the plain names to.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from tvm_schedules.errors import DeviceError

__all__ = ["CudaDevice", "capability"]

Array = npt.NDArray[Any]
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads do meanwhile is not in the way

_SIGNATURES: dict[str, list[Any]] = {
    "cuInit": [ctypes.c_uint],
    "cuDeviceGetCount": [ctypes.POINTER(ctypes.c_int)],
    "cuDeviceGet": [ctypes.POINTER(ctypes.c_int), ctypes.c_int],
    "cuDeviceGetName": [ctypes.c_char_p, ctypes.c_int, ctypes.c_int],
    "cuDeviceGetAttribute": [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int],
    "cuDevicePrimaryCtxRetain": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int],
    "cuCtxSetCurrent": [ctypes.c_void_p],
    "cuCtxSynchronize": [],
    "cuModuleLoadData": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p],
    "cuModuleGetFunction": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_char_p],
    "cuMemAlloc_v2": [ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t],
    "cuMemFree_v2": [ctypes.c_uint64],
    "cuMemsetD8_v2": [ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t],
    "cuMemcpyHtoD_v2": [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t],
    "cuMemcpyDtoH_v2": [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t],
    "cuStreamCreate": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint],
    "cuStreamBeginCapture_v2": [ctypes.c_void_p, ctypes.c_int],
    "cuStreamEndCapture": [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)],
    "cuGraphInstantiateWithFlags": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_ulonglong],
    "cuGraphLaunch": [ctypes.c_void_p, ctypes.c_void_p],
    "cuGraphDestroy": [ctypes.c_void_p],
    "cuLaunchKernel": [
        ctypes.c_void_p,
        *[ctypes.c_uint] * 7,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.c_void_p,
    ],
}


class _Driver:
    """The driver's library with the signatures of its functions; calls raise DeviceError where they fail."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceError(f"no CUDA driver on this machine ({error})") from error
        for name, types in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = types, ctypes.c_int
        self._library.cuGetErrorString.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
        self("cuInit", 0)

    def __call__(self, name: str, *args: Any) -> None:
        status = getattr(self._library, name)(*args)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise DeviceError(f"{name}: {(text.value or b'unknown error').decode()} (CUDA error {status})")


def _device(driver: _Driver) -> int:
    index = int(os.environ.get("TERN_CUDA_DEVICE", "0"))
    count, device = ctypes.c_int(), ctypes.c_int()
    driver("cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= index < count.value:
        raise DeviceError(f"CUDA device must be in [0, {count.value}), got {index}")
    driver("cuDeviceGet", ctypes.byref(device), index)
    return device.value


def _capability(driver: _Driver, device: int) -> int:
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    driver("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    return 10 * major.value + minor.value


def capability() -> int:
    """The architecture of this machine's processor, 87 for ``sm_87``.

    Raises:
        DeviceError: There is no driver or no device.
    """
    driver = _Driver()
    return _capability(driver, _device(driver))


class CudaDevice:
    """A device with a loaded program.

    All work goes to one stream, which waits for the copies (they are on the default stream) and they for it. Memory
    lives as long as the process: a network allocates once.

    Args:
        image: Fat binary, cubin or PTX.

    Raises:
        DeviceError: There is no driver or device, or none of the images fits it.
    """

    def __init__(self, image: bytes) -> None:
        self._driver = _Driver()
        device = _device(self._driver)
        name = ctypes.create_string_buffer(256)
        self._driver("cuDeviceGetName", name, len(name), device)
        self.capability = _capability(self._driver, device)
        self.name = f"{name.value.decode(errors='replace')} (sm_{self.capability})"
        # The primary context is what PyTorch and the CUDA runtime use too.
        self._context = ctypes.c_void_p()
        self._driver("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._driver("cuCtxSetCurrent", self._context)
        self._stream = ctypes.c_void_p()
        self._driver("cuStreamCreate", ctypes.byref(self._stream), 0)
        self._module = ctypes.c_void_p()
        self._driver("cuModuleLoadData", ctypes.byref(self._module), image)

    def _call(self, name: str, *args: Any) -> None:
        self._driver("cuCtxSetCurrent", self._context)  # the calling thread may be another one
        self._driver(name, *args)

    def alloc(self, nbytes: int) -> int:
        """Memory of the device, filled with zeros; its address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(4, nbytes))
        self._driver("cuMemsetD8_v2", address, 0, max(4, nbytes))
        return address.value

    def free(self, buffer: int) -> None:
        """Gives memory back."""
        self._call("cuMemFree_v2", buffer)

    def upload(self, buffer: int, array: Array) -> None:
        """Copies a contiguous array to the start of a buffer."""
        if array.nbytes:
            self._call("cuMemcpyHtoD_v2", buffer, array.ctypes.data, array.nbytes)

    def download(self, buffer: int, array: Array) -> None:
        """Copies the start of a buffer into a contiguous array; waits for the work before it."""
        if array.nbytes:
            self._call("cuMemcpyDtoH_v2", array.ctypes.data, buffer, array.nbytes)

    def kernel(self, name: str) -> Any:
        """A kernel of the program.

        Raises:
            DeviceError: There is none of that name.
        """
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        return function

    def launch(self, kernel: Any, grid: tuple[int, int, int], threads: int, buffers: list[int]) -> None:
        """Starts a kernel."""
        values = (ctypes.c_uint64 * len(buffers))(*buffers)
        first = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * len(buffers))(*(first + 8 * i for i in range(len(buffers))))
        self._driver("cuLaunchKernel", kernel, *grid, threads, 1, 1, 0, self._stream, pointers, None)

    def record(self, launches: Sequence[tuple[Any, tuple[int, int, int], int, list[int]]]) -> Callable[[], None]:
        """Makes one graph of launches; what it returns starts them all at once.

        Every kernel is started once before, for the driver loads its code then, which it cannot do while recording.
        """
        for launch in {launch[0].value: launch for launch in launches}.values():
            self.launch(*launch)
        self.finish()
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, _THREAD_LOCAL)
        try:
            for launch in launches:
                self.launch(*launch)
        finally:
            self._driver("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._driver("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        self._driver("cuGraphDestroy", graph)
        return lambda: self._call("cuGraphLaunch", executable, self._stream)

    def finish(self) -> None:
        """Waits for all work."""
        self._call("cuCtxSynchronize")
