"""Memory whose ends are guarded: whoever reads or writes outside of it ends the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import onnx

from tests.tvm_schedules.nets import Runner

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """Memory between two pages that may not be touched; ends (rounded up to 64 bytes) right before the second one."""

    def __init__(self, array: np.ndarray) -> None:
        size = -(-array.nbytes // 64) * 64
        whole = -(-size // PAGE) * PAGE
        self.map = mmap.mmap(-1, whole + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for page in (base, base + PAGE + whole):
            assert LIBC.mprotect(page, PAGE, 0) == 0
        at = PAGE + whole - size
        self.array = np.frombuffer(self.map, np.uint8, array.nbytes, at).view(array.dtype).reshape(array.shape)
        self.array[...] = array

    def tensor(self) -> object:
        import tvm

        return tvm.runtime.from_dlpack(self.array)


def guarded(model: onnx.ModelProto, *inputs: np.ndarray, target: str = "host") -> list[np.ndarray]:
    """A compiled network's outputs; all memory that it is given lies between guarded pages."""
    runner = Runner(model, target)
    memory = [
        *inputs,
        *(np.zeros(o.shape, o.dtype) for o in runner.plan.outputs),
        runner.arena.numpy(),
        runner.constants.numpy(),
    ]
    kept = [Guarded(array) for array in memory]
    runner.function(*(g.tensor() for g in kept), 0, len(runner.plan.steps))
    return [np.array(g.array) for g in kept[len(inputs) : -2]]
