"""What the models of all back ends have in common: inputs, batches, copies. What runs is each back end's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.lengths import Lengths
from tvm_schedules.runtime.samples import arguments, batch_size, describe, in_turn, pieces, room
from tvm_schedules.runtime.stateful import Stateful
from tvm_schedules.runtime.threads import checked
from tvm_schedules.runtime.turns import take_turns

__all__ = ["Model", "SteppedModel"]

Array = npt.NDArray[Any]


class Model(ABC):
    """A network ready to run: call it with numpy arrays.

    The arrays go in by position or by name, in the shapes and dtypes of ``inputs``; a single output comes back as an
    array, several as a tuple. Inputs whose first axis counts samples (those with ``"batch"``) take any number of them,
    also none: they run in pieces of the compiled size, beside each other in threads where that is faster. Where there
    is code for several ``lengths``, sequences of up to the longest are padded to the next of them. Outputs are the
    caller's own copies. Calls from several threads are safe and take turns, for they share the working memory; give
    each thread a ``copy.copy(model)`` to run at the same time, which shares the weights where the back end can.

    A model that was loaded from an artifact can be pickled, as ``multiprocessing`` does: what is pickled is the path,
    and it is loaded again where it is unpickled.

    A back end's model implements :meth:`_run`, and the other methods where it can do better than this class.

    Attributes:
        inputs: Name, shape and dtype of every input; ``batch`` where its first axis counts samples.
        outputs: The same of every output.
        plan: Steps, layers and memory of the compiled network.
        metadata: The artifact's metadata; empty for a network that was not loaded from one.
        threads: Number of threads, from 1 to 128; None for the default. It may be set at any time.
        source: Directory of the artifact that it was loaded from, None where there is none.
    """

    source: Path | None = None
    what = "library"
    """What runs, for reports of verifications."""

    _threads: int | None = None
    _again: Callable[..., Model] | None = None
    _others: Mapping[int, Model] = MappingProxyType({})  # the same network, by other numbers of samples
    _lengths: Lengths | None = None

    def __init__(self, plan: Plan, metadata: dict[str, Any] | None = None, threads: int | None = None) -> None:
        self.plan = plan
        self.metadata: dict[str, Any] = metadata or {}
        self.inputs: list[dict[str, Any]] = [entry.to_json() for entry in plan.inputs]
        self.outputs: list[dict[str, Any]] = [entry.to_json() for entry in plan.outputs]
        self.threads = threads
        self._lock = take_turns(self)

    def loaded_from(
        self,
        source: Path | None,
        again: Callable[..., Model] | None,
        others: Mapping[int, Model],
        lengths: Lengths | None = None,
    ) -> None:
        """Tells the model where it comes from, and which others there are.

        Args:
            source: The artifact's directory, an absolute path; None for a part of one.
            again: What loads it in another process: ``again(source, threads, sha256 of the metadata)``.
            others: Models of the same network for other numbers of samples.
            lengths: The same network for shorter sequences.
        """
        self.source, self._again, self._others, self._lengths = source, again, others, lengths

    @property
    def threads(self) -> int | None:
        """Number of threads, None for the default."""
        return self._threads

    @threads.setter
    def threads(self, count: int | None) -> None:
        self._threads = None if count is None else checked(count)
        for model in (*self._others.values(), *(self._lengths.shorter.values() if self._lengths else ())):
            model.threads = self._threads

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Numbers of samples that there is compiled code for, in rising order; none where first axes do not count."""
        own = batch_size(self.inputs, self.outputs)
        return tuple(sorted({own, *self._others})) if own else ()

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of sequences that there is compiled code for, in rising order; none where there is one alone."""
        return () if self._lengths is None else (*sorted(self._lengths.shorter), self._lengths.axes.own)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({describe(self.inputs)} -> {describe(self.outputs)})"

    def __copy__(self) -> Model:
        """Another one, with memory of its own, so that both can run at the same time."""
        made = self._twin()
        if made is None:
            again, its = self.__reduce__()
            return again(*its)
        others = {size: copy(model) for size, model in self._others.items()}
        lengths = self._lengths
        if lengths is not None:
            lengths = Lengths(lengths.axes, {length: copy(model) for length, model in lengths.shorter.items()})
        made.loaded_from(self.source, self._again, others, lengths)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self.__copy__()

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Any, ...]]:
        """What is pickled: where the artifact lies, and which one it is.

        Raises:
            TypeError: The network was compiled in memory, there is no artifact.
        """
        if self.source is None or self._again is None:
            raise TypeError(f"{type(self).__name__} was not loaded from an artifact, so that it cannot be pickled")
        return self._again, (str(self.source), self._threads, self.metadata["sha256"])

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
        return self._call(args, named) if self._lengths is None else self._lengths.call(self, args, named)

    def stateful(self, state: Mapping[str, str]) -> Stateful:
        """Calls that go on from one another: some outputs are inputs of the next call.

        Args:
            state: Names of outputs, and of the inputs that they are next.

        Raises:
            InputError: There is no such output or input, or shapes or dtypes differ.

        Example::

            step = tvm_schedules.load("step").stateful({"h_next": "h", "c_next": "c"})
            for frame in frames:
                y = step(frame)
        """
        return Stateful(self, state)

    def _call(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """What :meth:`__call__` does, for those that have a faster way for some calls."""
        arrays, count = arguments(self.inputs, args, named)
        if count is None:
            with self._lock:
                results = self._run(arrays)
        else:
            results = self._run_samples(arrays, count)
        return results[0] if len(results) == 1 else tuple(results)

    def _twin(self) -> Model | None:
        """Another one that shares what is only read; None where it has to be loaded again."""
        return None

    @abstractmethod
    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the network on inputs of the compiled shapes; the outputs are the caller's. The lock is held."""

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
        in_turn(self.inputs, arrays, results, parts, self._run)


class SteppedModel(Model):
    """A model whose steps can run one at a time, which shows where the time goes."""

    @abstractmethod
    def run_steps(self, begin: int, end: int) -> None:
        """Run the steps ``begin <= i < end`` on the working memory as it is, for measuring one step at a time.

        Raises:
            ValueError: There are no such steps.
        """

    def step_seconds(self) -> list[float] | None:
        """Seconds that every step takes, by the device's own means; None where :meth:`run_steps` can be timed."""
        return None

    def _check_steps(self, begin: int, end: int) -> None:
        count = len(self.plan.steps)
        if not 0 <= begin <= end <= count:
            raise ValueError(f"steps must satisfy 0 <= begin <= end <= {count}, got {begin}, {end}")
