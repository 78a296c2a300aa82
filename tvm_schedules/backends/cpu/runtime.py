"""Runs a library: numpy and TVM's small runtime, nothing else, so that it works on a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends.cpu.threads import default_threads, setter
from tvm_schedules.errors import ArtifactError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.buffers import ALIGNMENT, aligned, zeros
from tvm_schedules.runtime.model import SteppedModel
from tvm_schedules.runtime.samples import fill, share
from tvm_schedules.runtime.stateful import Stateful
from tvm_schedules.runtime.turns import take_turns

__all__ = ["CpuModel", "CpuStateful", "Memory"]

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
        ArtifactError: The library has no such function, the constants are not as long as the plan says, or an output
            cannot have the memory of the input that the plan names.
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
        _check_in_place(plan)
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
        return super().__call__(*args, **named)

    def stateful(self, state: Mapping[str, str]) -> CpuStateful:
        """See :class:`~tvm_schedules.runtime.model.Model`."""
        return CpuStateful(self, state)

    def new_memory(self) -> Memory:
        """Memory for calls beside those of this model."""
        return Memory(self.plan, self._constants)

    def run_on(self, tensors: Sequence[Any], first: int = 0) -> None:
        """Run the network from a step on, with arguments that only the caller has."""
        self._use_threads(self._threads)
        self._function(*tensors, first, len(self.plan.steps))

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


class CpuStateful(Stateful):
    """See :class:`~tvm_schedules.runtime.stateful.Stateful`.

    An output that the plan says is its input apart from a few elements has the memory of that input. Any other has a
    second buffer, and the two change places after every call.
    """

    _model: CpuModel

    def __init__(self, model: CpuModel, state: Mapping[str, str]) -> None:
        super().__init__(model, state)
        self._lock = take_turns(self)

    def _begin(self) -> None:
        import tvm

        plan, memory = self._model.plan, self._model.new_memory()
        self._memory, count = memory, len(plan.inputs)
        outputs = list(memory.outputs)
        same = [o for o, i in self._pairs.items() if plan.outputs[o].in_place == plan.inputs[i].name]
        for output in same:
            outputs[output] = memory.inputs[self._pairs[output]]
        self.in_place = tuple(plan.inputs[self._pairs[output]].name for output in same)
        carried = [o for o, entry in enumerate(plan.outputs) if entry.in_place is not None]
        # The first steps copy what is carried: with memory in common they are left out, all of them.
        self._first = len(carried) if same else 0
        inputs = {entry.name: i for i, entry in enumerate(plan.inputs)}
        self._copied = [(o, inputs[str(plan.outputs[o].in_place)]) for o in carried if same and o not in same]
        self._turn, self._ends = 0, []
        for turn in range(2):
            ends = [list(memory.inputs), list(outputs)]
            for output, given in self._pairs.items() if turn else ():
                if output not in same:
                    ends[0][given], ends[1][output] = memory.outputs[output], memory.inputs[given]
            self._ends.append(ends)
        rest = memory.tensors[count + len(outputs) :]
        self._arguments = [[*map(tvm.runtime.from_dlpack, (*ends[0], *ends[1])), *rest] for ends in self._ends]

    @property
    def state(self) -> dict[str, Array]:
        """See :class:`~tvm_schedules.runtime.stateful.Stateful`."""
        entries = self._model.plan.inputs
        return {entries[i].name: self._ends[self._turn][0][i] for i in self._pairs.values()}

    def _run(self, arrays: list[Array]) -> list[Array]:
        inputs, outputs = self._ends[self._turn]
        given = [array for i, array in enumerate(inputs) if i not in self._pairs.values()]
        with self._lock:
            for buffer, array in zip(given, arrays, strict=True):
                buffer[...] = array
            for output, source in self._copied:
                np.copyto(outputs[output], inputs[source])
            self._model.run_on(self._arguments[self._turn], self._first)
            self._turn = 1 - self._turn
            return [array.copy() for i, array in enumerate(outputs) if i not in self._pairs]


def _check_in_place(plan: Plan) -> None:
    """Raise ArtifactError where an output cannot have the memory of the input that a plan names."""
    inputs = {entry.name: (entry.shape, entry.dtype) for entry in plan.inputs}
    carried = [entry for entry in plan.outputs if entry.in_place is not None]
    for entry in carried:
        if inputs.get(str(entry.in_place)) != (entry.shape, entry.dtype) or len(carried) > len(plan.steps):
            raise ArtifactError(f"output {entry.name!r} cannot have the memory of input {entry.in_place!r}")
