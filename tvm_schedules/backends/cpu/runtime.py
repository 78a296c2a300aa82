"""Runs a library: numpy and TVM's small runtime, nothing else, so that it works on a board."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends.cpu.threads import default_threads, setter
from tvm_schedules.errors import ArtifactError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.buffers import ALIGNMENT, aligned, zeros
from tvm_schedules.runtime.model import SteppedModel
from tvm_schedules.runtime.samples import fill, share

__all__ = ["CpuModel", "Memory"]

Array = npt.NDArray[Any]


class Memory:
    """What a call writes to: buffers of inputs and outputs, and the working memory; one call at a time has it.

    Attributes:
        inputs: Arrays that the network reads.
        outputs: Arrays that it writes.
        tensors: Arguments of the compiled function: these, the working memory, and the constants.
    """

    def __init__(self, plan: Plan, constants: Array) -> None:
        import tvm

        self.inputs = [zeros(entry.shape, entry.dtype) for entry in plan.inputs]
        self.outputs = [zeros(entry.shape, entry.dtype) for entry in plan.outputs]
        size = plan.arena_bytes or 0
        arrays = [*self.inputs, *self.outputs, aligned(max(1, size))[:size], constants]
        self.tensors = [tvm.runtime.from_dlpack(array) for array in arrays]


class CpuModel(SteppedModel):
    """A network in a library, which threads may share.

    Args:
        plan: Of the network.
        library: ``tvm.runtime.Module`` with the function ``tern_main``.
        constants: uint8, the constant memory.
        threads: See :class:`~tvm_schedules.runtime.model.Model`.
        metadata: The artifact's, None for a network that was compiled in memory.

    Raises:
        ArtifactError: The library has no such function, or the constants are not as long as the plan says.
    """

    _only: tuple[Array, Array] | None = None

    def __init__(
        self,
        plan: Plan,
        library: Any,
        constants: Array,
        threads: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(plan, metadata, threads)
        try:
            self._function = library["tern_main"]
        except AttributeError as error:
            raise ArtifactError("the library has no function tern_main: it is none of an artifact") from error
        self._use_threads = setter(library)
        if constants.size != plan.constant_bytes:
            raise ArtifactError(f"constants take {constants.size} bytes, the plan says {plan.constant_bytes}")
        self._library = library
        self._constants = constants
        if not constants.size or constants.ctypes.data % ALIGNMENT:
            self._constants = aligned(max(1, constants.size))[: constants.size]
            self._constants[:] = constants
        memory = Memory(plan, self._constants)
        self._memories = [memory]  # more of them where samples run beside each other
        self._in, self._out, self._tensors = memory.inputs, memory.outputs, memory.tensors
        self._whole = (*self._tensors, 0, len(plan.steps))
        if len(self._in) == len(self._out) == 1:
            self._only = self._in[0], self._out[0]

    def __call__(self, *args: Array, **named: Array) -> Any:
        """See :class:`~tvm_schedules.runtime.model.Model`."""
        if self._only is not None and len(args) == 1 and not named:
            # As most calls are: loops over inputs and outputs would take as long as a small layer.
            array, (source, result) = args[0], self._only
            if array.__class__ is np.ndarray and array.dtype == source.dtype and array.shape == source.shape:
                with self._lock:
                    self._use_threads(self._threads)
                    source[...] = array
                    self._function(*self._whole)
                    return result.copy()
        return self._call(args, named)

    def _twin(self) -> CpuModel:
        """Another one with memory of its own; the weights are shared."""
        return CpuModel(self.plan, self._library, self._constants, self._threads, self.metadata)

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the network on inputs of the compiled shapes; the outputs are the caller's. The lock is held."""
        self._use_threads(self._threads)
        for buffer, array in zip(self._in, arrays, strict=True):
            buffer[...] = array
        self._function(*self._whole)
        return [buffer.copy() for buffer in self._out]

    def _run_pieces(self, arrays: Sequence[Array], results: Sequence[Array], parts: Sequence[slice]) -> None:
        """Run the network on some of the samples. The lock is held."""
        threads = default_threads() if self._threads is None else self._threads
        whole = len(self.plan.steps)

        def run(part: slice, number: int, inside: int) -> None:
            memory = self._memories[number]
            self._use_threads(inside)
            fill(self.inputs, memory.inputs, arrays, part)
            self._function(*memory.tensors, 0, whole)
            for result, buffer in zip(results, memory.outputs, strict=True):
                result[part] = buffer[: part.stop - part.start]

        def alone(number: int, part: slice) -> None:
            run(part, number, 1)

        def ready(number: int) -> None:
            self._memories += [Memory(self.plan, self._constants) for _ in range(number - len(self._memories))]

        share(parts, threads, lambda part: run(part, 0, threads), alone, ready)

    def run_steps(self, begin: int, end: int) -> None:
        """See :class:`~tvm_schedules.runtime.model.SteppedModel`."""
        self._check_steps(begin, end)
        self._use_threads(self._threads)
        self._function(*self._tensors, begin, end)
