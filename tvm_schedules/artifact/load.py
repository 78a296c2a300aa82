"""Running an artifact: numpy and TVM's small runtime, nothing else, so that it works on a board."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.artifact import store, weights
from tvm_schedules.backends.cpu import libraries
from tvm_schedules.backends.cpu.threads import checked, default_threads, setter
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import ArtifactError, TernError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.buffers import ALIGNMENT, aligned, zeros
from tvm_schedules.runtime.samples import arguments, batch_size, describe, fill, pieces, room, share
from tvm_schedules.runtime.turns import take_turns
from tvm_schedules.targets import host_cpu as cpu

Array = npt.NDArray[Any]
TRIES = 5
"""How often an artifact may be replaced while it is being loaded."""


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


class Model:
    """A network ready to run: call it with numpy arrays.

    The arrays go in by position or by name, in the shapes and dtypes of ``inputs``; a single output comes back as an
    array, several as a tuple. Inputs whose first axis counts samples (those with ``"batch"``) take any number of them,
    also none: they run in pieces of the compiled size, beside each other in threads where that is faster. Outputs are
    the caller's own copies. Calls from several threads are safe and take turns, for they share the working memory; give
    each thread a ``copy.copy(model)`` to run at the same time, which shares the weights.

    A model that was loaded from an artifact can be pickled, as ``multiprocessing`` does: what is pickled is the path,
    and it is loaded again where it is unpickled.

    Attributes:
        inputs: Name, shape and dtype of every input; ``batch`` where its first axis counts samples.
        outputs: The same of every output.
        plan: Steps, layers and memory of the compiled network.
        metadata: The artifact's metadata; empty for a network that was not loaded from one.
        threads: Number of threads, from 1 to 128; None for the default. It may be set at any time.
        source: Directory of the artifact that it was loaded from, None where there is none.
    """

    source: Path | None = None
    _threads: int | None = None
    _only: tuple[Array, Array] | None = None
    _others: Mapping[int, Model] = MappingProxyType({})  # the same network, by other numbers of samples

    def __init__(
        self,
        plan: Plan,
        library: Any,
        constants: Array,
        threads: int | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self.inputs: list[dict[str, Any]] = [entry.to_json() for entry in plan.inputs]
        self.outputs: list[dict[str, Any]] = [entry.to_json() for entry in plan.outputs]
        self.metadata = metadata or {}
        self.threads = threads
        try:
            self._function = library["tern_main"]
        except AttributeError as error:
            raise ArtifactError("the library has no function tern_main: it is none of an artifact") from error
        self._use_threads = setter(library)
        self._lock = take_turns(self)
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

    @property
    def threads(self) -> int | None:
        """Number of threads, None for the default."""
        return self._threads

    @threads.setter
    def threads(self, count: int | None) -> None:
        self._threads = None if count is None else checked(count)
        for model in self._others.values():
            model._threads = self._threads

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Numbers of samples that there is compiled code for, in rising order; none where first axes do not count."""
        own = batch_size(self.inputs, self.outputs)
        return tuple(sorted({own, *self._others})) if own else ()

    def __repr__(self) -> str:
        return f"Model({describe(self.inputs)} -> {describe(self.outputs)})"

    def __copy__(self) -> Model:
        """Another one with memory of its own, so that both can run at the same time; the weights are shared."""
        made = Model(self.plan, self._library, self._constants, self._threads, self.metadata)
        made.source = self.source
        made._others = {size: copy(model) for size, model in self._others.items()}
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        """What is pickled: where the artifact lies, and which one it is.

        Raises:
            TypeError: The network was compiled in memory, there is no artifact.
        """
        if self.source is None:
            raise TypeError(f"{type(self).__name__} was not loaded from an artifact, so that it cannot be pickled")
        return _reload, (str(self.source), self._threads, self.metadata["sha256"])

    def __call__(self, *args: Array, **named: Array) -> Any:
        """Run the network.

        Args:
            *args: Inputs in order.
            **named: Inputs by name.

        Returns:
            The output, or a tuple of them.

        Raises:
            InputError: An input has the wrong name, shape or dtype, or is missing.
        """
        if self._only is not None and len(args) == 1 and not named:
            # As most calls are: loops over inputs and outputs would take as long as a small layer.
            array, (source, result) = args[0], self._only
            if array.__class__ is np.ndarray and array.dtype == source.dtype and array.shape == source.shape:
                with self._lock:
                    self._use_threads(self._threads)
                    source[...] = array
                    self._function(*self._whole)
                    return result.copy()
        arrays, count = arguments(self.inputs, args, named)
        if count is None:
            with self._lock:
                results = self._run(arrays)
        else:
            results = self._run_samples(arrays, count)
        return results[0] if len(results) == 1 else tuple(results)

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the network on inputs of the compiled shapes; the outputs are the caller's. The lock is held."""
        self._use_threads(self._threads)
        for buffer, array in zip(self._in, arrays, strict=True):
            buffer[...] = array
        self._function(*self._whole)
        return [buffer.copy() for buffer in self._out]

    def _run_samples(self, arrays: Sequence[Array], count: int) -> list[Array]:
        """Run the network on any number of samples: as many as fit by the largest batch, then by the next one."""
        results, start = room(self.outputs, count), 0
        models = {self.outputs[0]["shape"][0]: self, **self._others}
        for size in sorted(models, reverse=True):
            stop = count if size == min(models) else start + (count - start) // size * size
            if stop > start:
                with models[size]._lock:
                    models[size]._run_pieces(arrays, results, pieces(stop, size, start))
            start = stop
        return results

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
        """Run the steps ``begin <= i < end`` on the working memory as it is, for measuring one step at a time."""
        if not 0 <= begin <= end <= len(self.plan.steps):
            raise ValueError(f"steps must satisfy 0 <= begin <= end <= {len(self.plan.steps)}, got {begin}, {end}")
        self._use_threads(self._threads)
        self._function(*self._tensors, begin, end)


def plan_of(folder: Path, metadata: Mapping[str, Any]) -> Plan:
    """The plan of an artifact's network, without the list of constants, which lies with the weights.

    Raises:
        ArtifactError: The metadata do not hold a plan.
    """
    with reading(folder / store.METADATA, ArtifactError, "; export it again"):
        return Plan.from_json(metadata)


def constants_of(folder: Path, plan: Plan, content: bytes | None = None) -> Array:
    """The constant memory of an artifact's network, uint8 as the kernels read it.

    Args:
        folder: The artifact.
        plan: Of :func:`plan_of`.
        content: Bytes of the file of weights where they have been read.

    Raises:
        ArtifactError: The weights are damaged, or not those of the plan.
    """
    from tvm_schedules.packing.registry import expand

    with reading(folder / store.WEIGHTS, ArtifactError, "; export it again"):
        arrays, constants = weights.read(folder / store.WEIGHTS, content)
        return expand(constants, plan.constant_bytes, arrays)


def load(path: str | Path, *, threads: int | None = None, check_hashes: bool = True) -> Model:
    """Load an artifact and make it ready to run; one for a graphics processor is put on this machine's.

    One of C source is compiled by this machine's C compiler.

    On a board set ``TVM_USE_RUNTIME_LIB=1`` before Python starts: TVM then loads its 3 MB runtime instead of its
    compiler.

    Args:
        path: The artifact's directory. The model stays as it is when another artifact takes this place.
        threads: Number of threads, from 1 to 128; None takes ``TVM_NUM_THREADS`` or all cores.
        check_hashes: Compare the SHA-256 of every file with the recorded one first.

    Raises:
        TypeError, ValueError: ``threads`` is no integer, or not one from 1 to 128.
        ArtifactError: Not an artifact, of another version, or damaged.
        CpuFeatureError: Built for instructions that this CPU does not have.
        DeviceError: Built for a graphics processor, and its driver or the device is missing.
        LinkError: C source, and there is no C compiler.
    """
    folder = user_path(path)
    threads = None if threads is None else checked(threads)
    for _ in range(TRIES):
        before = store.stamp(folder)
        try:
            with reading(folder, ArtifactError, "; export it again", "cannot be loaded"):
                model = _load(folder, threads, check_hashes)
        except TernError:
            if store.stamp(folder) == before:
                raise
        else:
            if store.stamp(folder) == before:
                model.source = Path(os.path.abspath(folder))
                return model
    raise ArtifactError(f"{folder} was replaced {TRIES} times while it was being loaded")


def _reload(source: str, threads: int | None, digest: str) -> Model:
    """A pickled model.

    Raises:
        ArtifactError: Another artifact has taken the place of the one that was pickled; or as :func:`load`.
    """
    model = load(source, threads=threads)
    if model.metadata["sha256"] != digest:
        raise ArtifactError(f"{source} holds another artifact by now than the one of the model that was pickled")
    return model


def _load(folder: Path, threads: int | None, check_hashes: bool) -> Model:
    """Load what is in a directory that nobody replaces meanwhile; arguments and errors as those of :func:`load`."""
    model = _load_one(folder, threads, check_hashes)
    others: dict[int, Model] = {}
    for name, digest in model.metadata.get("batches", {}).items():
        if not store.BATCH.fullmatch(name):
            raise ArtifactError(f"{folder / store.METADATA} names {name!r}, which is no directory of an artifact")
        if not (folder / name).exists():  # left out on a device
            continue
        other = _load_one(folder / name, threads, check_hashes)
        if other.metadata["sha256"] != digest:
            raise ArtifactError(f"{folder / name} is damaged: it is not the one that was exported with {folder}")
        others[other.outputs[0]["shape"][0]] = other
    model._others = others
    return model


def _load_one(folder: Path, threads: int | None, check_hashes: bool) -> Model:
    """Load the network of one directory."""
    metadata = store.read_metadata(folder, check_hashes, (store.LIBRARY, store.WEIGHTS))
    plan = plan_of(folder, metadata)
    batch_size(metadata["inputs"], metadata["outputs"])  # which is an error where the two do not agree
    if metadata["target"]["tvm"].get("kind") == "c":
        from tvm_schedules.backends.c.runtime import HostModel

        return HostModel(folder, plan, metadata)
    is_gpu = bool(metadata.get("code"))
    if not is_gpu:
        cpu.check_cpu(folder, metadata["target"], f"this machine ({cpu.name()})", cpu.architecture(), cpu.features())
    constants = constants_of(folder, plan, store.content(folder, metadata, store.WEIGHTS, check_hashes))
    if is_gpu:
        from tvm_schedules.backends.gpu.artifact import load as load_gpu

        return load_gpu(folder, metadata, plan, constants, check_hashes)
    library = libraries.load_content(store.content(folder, metadata, store.LIBRARY, check_hashes))
    return Model(plan, library, constants, threads, metadata)
