"""Inputs by position and by name, and networks that run on more samples than they were compiled for.

Inputs and outputs whose first axis counts samples say so in the metadata (``"batch": true``, see
:mod:`tvm_schedules.verify.batch_axis`). Calls may give any number of samples then: they run in pieces of the compiled
size.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import ArtifactError, InputError

__all__ = ["arguments", "batch_size", "describe", "fill", "in_turn", "pieces", "room", "share"]

Array = npt.NDArray[Any]
Entries = Sequence[Mapping[str, Any]]

WORTH = 4e-3
"""Seconds of work from which threads are started for it.

To start one takes 0.05 ms; but where CPUs are shared, one that has begun a piece may wait for as long as others'
time slices are, and the caller with it.
"""


def describe(entries: Entries) -> str:
    """Names, types and shapes of inputs or outputs in a line."""
    return ", ".join(f"{entry['name']}: {entry['dtype']}{list(entry['shape'])}" for entry in entries)


def arguments(inputs: Entries, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[list[Array], int | None]:
    """A network's inputs in order, by position or by name.

    Returns:
        The inputs, and how many samples they hold; None where every shape is the compiled one.

    Raises:
        InputError: Too many, too few, unknown, of the wrong shape or dtype, or of different numbers of samples.
    """
    names = [entry["name"] for entry in inputs]
    if len(args) > len(names):
        raise InputError(f"the network has {len(names)} inputs ({', '.join(names)}), got {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name, value in named.items():
        if name not in names:
            raise InputError(f"no input {name!r}; the network's inputs are {', '.join(names)}")
        if name in given:
            raise InputError(f"input {name!r} is given twice, by position and by name")
        given[name] = value
    for name in names:
        if name not in given:
            raise InputError(f"input {name!r} is missing; the network's inputs are {', '.join(names)}")
    for entry in inputs:
        _check(entry, given[entry["name"]])
    arrays = [given[name] for name in names]
    if all(array.shape == tuple(entry["shape"]) for array, entry in zip(arrays, inputs, strict=True)):
        return arrays, None
    counts = {entry["name"]: len(given[entry["name"]]) for entry in inputs if entry.get("batch")}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise InputError(f"inputs must hold the same number of samples along their first axes, got {told}")
    return arrays, next(iter(counts.values()))


def _check(entry: Mapping[str, Any], array: Any) -> None:
    """Raise InputError where an array is not what an input takes."""
    name, shape, dtype = entry["name"], tuple(entry["shape"]), np.dtype(entry["dtype"])
    if not isinstance(array, np.ndarray):
        cure = "; HINT: .numpy()" if hasattr(array, "numpy") else ""
        raise InputError(f"input {name!r} must be a numpy array, got {type(array).__name__}{cure}")
    if array.dtype != dtype:
        raise InputError(f"input {name!r} must have dtype {dtype}, got {array.dtype}; HINT: .astype({str(dtype)!r})")
    if array.shape == shape:
        return
    same, cure = array.ndim == len(shape) > 0 and array.shape[1:] == shape[1:], ""
    if entry.get("batch"):
        if same:
            return
        also = ", or any number of samples along the first axis"
    else:
        also = " (its first axis is not known to count samples)" if same else ""
        if same:
            cure = "; HINT: it counts where each output has an axis of samples, and no sample depends on others; "
            cure += f"export with batch_size={len(array)}, or without the output that has none"
    raise InputError(f"input {name!r} must have shape {list(shape)}{also}, got {list(array.shape)}{cure}")


def room(outputs: Entries, count: int) -> list[Array]:
    """Arrays for the outputs of ``count`` samples."""
    return [np.empty((count, *entry["shape"][1:]), entry["dtype"]) for entry in outputs]


def fill(inputs: Entries, buffers: Sequence[Array], arrays: Sequence[Array], part: slice) -> None:
    """Copies some of the samples to where the network reads them; of the others, it finds older ones there."""
    for entry, buffer, array in zip(inputs, buffers, arrays, strict=True):
        if entry.get("batch"):
            buffer[: part.stop - part.start] = array[part]
        else:
            buffer[...] = array


def pieces(count: int, size: int, start: int = 0) -> list[slice]:
    """The samples from ``start`` to ``count`` in pieces of ``size``; the last one may be smaller."""
    return [slice(begin, min(begin + size, count)) for begin in range(start, count, size)]


def batch_size(inputs: Entries, outputs: Entries) -> int:
    """How many samples a network was compiled for; 0 where its first axes do not count any.

    Raises:
        ArtifactError: Inputs and outputs do not agree on it.
    """
    counting = [entry for entry in inputs if entry.get("batch")]
    if not counting:
        return 0
    sizes = {entry["shape"][0] if entry["shape"] else 0 for entry in (*counting, *outputs)}
    if len(sizes) > 1 or 0 in sizes or not all(entry.get("batch") for entry in outputs):
        raise ArtifactError(f"inputs and outputs count different samples: {describe([*inputs, *outputs])}")
    return int(sizes.pop())


def in_turn(
    inputs: Entries,
    arrays: Sequence[Array],
    results: Sequence[Array],
    parts: Sequence[slice],
    once: Callable[[Sequence[Array]], Sequence[Array]],
) -> None:
    """Runs samples one piece after another.

    Args:
        inputs: The network's inputs.
        arrays: From :func:`arguments`.
        results: From :func:`room`.
        parts: The pieces.
        once: The network, for arrays of the compiled shapes.
    """
    buffers = [np.zeros(entry["shape"], entry["dtype"]) for entry in inputs]
    for part in parts:
        fill(inputs, buffers, arrays, part)
        for result, made in zip(results, once(buffers), strict=True):
            result[part] = made[: part.stop - part.start]


def share(
    parts: Sequence[slice],
    threads: int,
    together: Callable[[slice], None],
    alone: Callable[[int, slice], None],
    ready: Callable[[int], None],
) -> None:
    """Runs all parts, in threads beside each other where that is worth it.

    Args:
        parts: What is to be run, in any order.
        threads: How many threads there may be.
        together: Runs a part in the calling thread, which may use so many threads inside of it.
        alone: Runs a part in the thread of that number, which is the only one to call it with this number.
        ready: Called before that with the number of threads.

    Raises:
        BaseException: What a part raised; no thread runs any more then.
    """
    waiting = iter(parts)
    for part in waiting:  # the first one says how long they take
        start = time.perf_counter()
        together(part)
        beside = (len(parts) - 1) // threads * threads
        if threads > 1 and (time.perf_counter() - start) * beside > WORTH:
            ready(threads)
            _beside(iter(list(itertools.islice(waiting, beside))), threads, alone)
        break
    for part in waiting:  # fewer than threads, or short
        together(part)


def _beside(parts: Iterator[slice], threads: int, alone: Callable[[int, slice], None]) -> None:
    """Runs the parts in so many threads, of which the caller is one; each takes the next as it is ready.

    Nobody waits for a thread that has taken none, which may be late where CPUs are shared.
    """
    errors: list[BaseException] = []
    busy = [False] * threads
    changed = threading.Condition()

    def work(number: int) -> None:
        while True:
            with changed:
                busy[number] = False
                part = None if errors else next(parts, None)
                if part is None:
                    changed.notify_all()
                    return
                busy[number] = True
            try:
                alone(number, part)
            except BaseException as error:
                errors.append(error)

    try:
        for number in range(1, threads):
            with contextlib.suppress(RuntimeError):  # the system has no more of them: these will do
                _thread.start_new_thread(work, (number,))
        work(0)
    except BaseException as error:  # an interrupt
        errors.append(error)
    busy[0] = False
    while any(busy):  # whatever interrupts this one: their memory is used again
        try:
            with changed:
                changed.wait_for(lambda: not any(busy))
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]
