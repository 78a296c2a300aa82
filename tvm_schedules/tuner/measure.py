"""Times candidates: all of a layer in one small library, in turns, on this machine or on a board."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tvm_schedules import compat
from tvm_schedules.backends import toolchain as linking
from tvm_schedules.backends.cpu.compile import grain
from tvm_schedules.common.files import temporary_folder
from tvm_schedules.lowering.memory import assign_arena, lifetimes
from tvm_schedules.targets.registry import TargetSpec
from tvm_schedules.tuner.alone import Alone

__all__ = ["Device", "Library", "LocalDevice", "RemoteDevice", "WrittenLibrary", "library"]

Array = npt.NDArray[Any]
FUNCTION = "tune_main"
CALL = 50e-6
"""Seconds that a measurement takes at least, by repetition: shorter ones measure the clock."""

BEHIND = 4.0
"""How much slower than the best one a candidate is at the first look to be given up."""


class Library:
    """Candidates in one module: ``tune_main(arena, constants, which)``; ``which`` past the last one does nothing.

    Attributes:
        module: The module that TVM built.
        arena: uint8, the memory of inputs and outputs, filled with small floats.
        constants: uint8, the weights of all candidates.
        count: The number of candidates.
    """

    def __init__(self, module: Any, arena: Array, constants: Array, count: int) -> None:
        self.module: Any = module
        self.arena: Array = arena
        self.constants: Array = constants
        self.count: int = count

    def write(self, path: Path, target: TargetSpec) -> None:
        """Link it as an artifact's library is, with threads of its own.

        Raises:
            LinkError: No linker for the target, or it failed.
        """
        linking.export_library(self.module, path, target.triple)


class WrittenLibrary(Library):
    """One that another process has linked."""

    def __init__(self, path: Path, arena: Array, constants: Array, count: int) -> None:
        super().__init__(None, arena, constants, count)
        self.path = path

    def write(self, path: Path, target: TargetSpec) -> None:
        """See :class:`Library`."""
        shutil.copyfile(self.path, path)


def library(found: Sequence[Alone], target: TargetSpec, own_threads: bool = False) -> Library:
    """Compile candidates; for ``own_threads`` see :func:`tvm_schedules.backends.cpu.compile.compile_graph`."""
    functions: dict[Any, tuple[Any, Any]] = {}
    memory: list[Array] = []
    starts, arena = [], 64
    for alone in found:
        arena = max(arena, assign_arena(lifetimes(alone.steps), alone.largest_read))
        starts.append(sum(part.size for part in memory))
        memory.append(alone.constants.content())
        for step in alone.steps:
            key = (step.kernel, step.spec)
            if key not in functions:
                functions[key] = (compat.global_var(f"{step.kernel}_{len(functions)}"), step.make())
    constants = np.concatenate(memory)

    def body(e: Any, arena_buffer: Any, constants_buffer: Any, which: Any) -> None:
        for index, (alone, start) in enumerate(zip(found, starts, strict=True)):
            shared = any(compat.shares_jobs(functions[(step.kernel, step.spec)][1]) for step in alone.steps)
            sharing = compat.threads(own_threads) if shared else nullcontext("serial")
            with e.when(which == index), sharing as loop:
                for step in alone.steps:
                    pointers = []
                    for buffer in step.args:
                        place = buffer.root.place
                        assert place is not None
                        inside = place.kind == "arena"
                        base = arena_buffer if inside else constants_buffer
                        pointers.append(compat.pointer(base, place.offset + (0 if inside else start)))
                    compat.call_private(*functions[(step.kernel, step.spec)], pointers, loop, grain(step))

    buffers = [("arena", (arena,), "uint8"), ("constants", (constants.size,), "uint8")]
    main = compat.main_function(FUNCTION, buffers, ["which"], body)
    module = compat.build_module({str(i): pair for i, pair in enumerate(functions.values())}, main, target.tvm)
    floats = np.random.default_rng(0).normal(size=-(-arena // 4)).astype(np.float32)
    return Library(module, floats.view(np.uint8)[:arena], constants, len(found))


def in_turns(seconds: Callable[[int, int], float], count: int, turns: int) -> Array:
    """Seconds of a call ``[turns, count]``, one candidate after the other in every turn.

    Each is called once before its time is taken, and their order is drawn anew for every turn: a candidate that comes
    behind one with the same lists finds a CPU that knows the ends of these lists, and would seem faster by a tenth.
    Candidates that are far behind at the first look keep that time and are not called again.

    Args:
        seconds: Seconds of a call of a candidate, over a number of calls.
        count: The number of candidates.
        turns: How often every candidate runs.
    """
    for which in range(count):
        seconds(which, 1)
    first = np.array([min(seconds(which, 1), seconds(which, 1)) for which in range(count)])
    numbers = np.maximum(1, CALL / np.maximum(1e-7, first)).astype(int)
    taken, order = np.tile(first, (turns, 1)), np.random.default_rng(0)
    for turn in range(turns):
        for index in order.permutation(np.flatnonzero(first <= BEHIND * first.min())):
            seconds(int(index), 1)
            taken[turn, index] = seconds(int(index), int(numbers[index]))
    return taken


class Device(Protocol):
    """Runs candidates and times them."""

    def time(self, made: Library, target: TargetSpec, threads: int, turns: int) -> Array:
        """Seconds of a call ``[turns, candidates]``; the candidates take turns."""


def _linked(made: Library, target: TargetSpec, load: Callable[[Path], Any]) -> Any:
    """The library as the device has it."""
    with temporary_folder("tune") as folder:
        path = folder / "tune.so"
        made.write(path, target)
        return load(path)


class LocalDevice:
    """This machine, in this process."""

    def time(self, made: Library, target: TargetSpec, threads: int, turns: int) -> Array:
        """See :class:`Device`."""
        import tvm

        from tvm_schedules.backends.cpu.libraries import load_library
        from tvm_schedules.backends.cpu.threads import setter
        from tvm_schedules.runtime.buffers import aligned

        library = _linked(made, target, load_library)
        setter(library)(threads)
        tensors = []
        for data in (made.arena, made.constants):
            memory = aligned(data.size)
            memory[:] = data
            tensors.append(tvm.runtime.from_dlpack(memory))
        function = library[FUNCTION]
        clock = time.perf_counter

        def seconds(which: int, number: int) -> float:
            start = clock()
            for _ in range(number):
                function(*tensors, which)
            return (clock() - start) / number

        nothing = min(seconds(made.count, 50) for _ in range(20))  # what a call from Python takes
        return in_turns(lambda which, number: max(1e-9, seconds(which, number) - nothing), made.count, turns)


class RemoteDevice:
    """A board on the other side of TVM's RPC.

    Args:
        board: An open session.
    """

    def __init__(self, board: Any) -> None:
        self.board = board

    def time(self, made: Library, target: TargetSpec, threads: int, turns: int) -> Array:
        """See :class:`Device`."""
        loaded = _linked(made, target, self.board.load)
        self.board.set_threads(loaded, threads)
        tensors = [self.board.tensor(made.arena), self.board.tensor(made.constants)]

        def seconds(which: int, number: int) -> float:
            return float(self.board.time(loaded, FUNCTION, [*tensors, which], number=number, repeat=1)[0])

        return in_turns(seconds, made.count, turns)
