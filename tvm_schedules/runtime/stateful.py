"""A network some of whose outputs are inputs of its next call: what it remembers lies in one place all the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from tvm_schedules.errors import InputError
from tvm_schedules.runtime.buffers import zeros
from tvm_schedules.runtime.samples import arguments

__all__ = ["Stateful"]

Array = npt.NDArray[Any]


class _Network(Protocol):
    """What of a :class:`~tvm_schedules.runtime.model.Model` is asked for here."""

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    _lock: Any

    def _run(self, arrays: Sequence[Array]) -> list[Array]: ...


class Stateful:
    """Calls of a network that go on from one another; :meth:`~tvm_schedules.runtime.model.Model.stateful` makes one.

    A call takes the inputs that are no state and returns the outputs that are none, as those of the network itself. The
    state begins with zeros. Two of them are two sequences, which may run at the same time; one is for one thread.

    A back end may do without copies of the state; this class does with them.

    Attributes:
        inputs: Name, shape and dtype of every input that a call takes.
        outputs: The same of every output that it returns.
        in_place: Names of the inputs of which only the elements that change are written.
    """

    def __init__(self, model: _Network, state: Mapping[str, str]) -> None:
        """Takes the model, and the input that each output is in the next call.

        Raises:
            InputError: There is no such output or input, an input comes from two, or shapes or dtypes differ.
        """
        self._model = model
        self._pairs = _checked(model, state)
        self.inputs: list[dict[str, Any]] = [
            _fixed(entry) for i, entry in enumerate(model.inputs) if i not in self._pairs.values()
        ]
        self.outputs: list[dict[str, Any]] = [
            _fixed(entry) for i, entry in enumerate(model.outputs) if i not in self._pairs
        ]
        self.in_place: tuple[str, ...] = ()
        self._begin()

    def _begin(self) -> None:
        """Makes room for the state."""
        entries = [self._model.inputs[i] for i in self._pairs.values()]
        self._state = {entry["name"]: zeros(tuple(entry["shape"]), entry["dtype"]) for entry in entries}

    @property
    def state(self) -> dict[str, Array]:
        """What the next call reads, by the names of inputs; it may be written to, as with a state of an earlier run."""
        return dict(self._state)

    def reset(self) -> None:
        """Begin again: the state is zero."""
        for array in self.state.values():
            array[...] = 0

    def __call__(self, *args: Array, **named: Array) -> Any:
        """Run the network once.

        Args:
            *args: Inputs in order, without those that are state.
            **named: Inputs by name.

        Returns:
            The output that is no state, a tuple of several, None where all are state.

        Raises:
            InputError: An input has the wrong name, shape or dtype, or is missing.
        """
        results = self._run(arguments(self.inputs, args, named)[0])
        return (results[0] if len(results) == 1 else tuple(results)) if results else None

    def _run(self, arrays: list[Array]) -> list[Array]:
        """Run the network on the inputs that are no state; the outputs are the caller's."""
        own = {entry["name"]: array for entry, array in zip(self.inputs, arrays, strict=True)} | self._state
        model = self._model
        with model._lock:
            made = model._run([own[entry["name"]] for entry in model.inputs])
        for output, given in self._pairs.items():
            self._state[model.inputs[given]["name"]] = made[output]
        return [array for i, array in enumerate(made) if i not in self._pairs]


def _fixed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An input or output whose first axis does not count samples: each would have a state of its own."""
    return {key: value for key, value in entry.items() if key != "batch"}


def _checked(model: _Network, state: Mapping[str, str]) -> dict[int, int]:
    """Numbers of outputs, and of the inputs that they are next."""
    places = [{entry["name"]: i for i, entry in enumerate(ends)} for ends in (model.outputs, model.inputs)]
    pairs: dict[int, int] = {}
    for output, given in state.items():
        for name, known, what in ((output, places[0], "output"), (given, places[1], "input")):
            if name not in known:
                raise InputError(f"state: no {what} {name!r}; the network's {what}s are {', '.join(known)}")
        source, target = model.outputs[places[0][output]], model.inputs[places[1][given]]
        if (source["shape"], source["dtype"]) != (target["shape"], target["dtype"]):
            said = [f"{entry['dtype']}{list(entry['shape'])}" for entry in (source, target)]
            raise InputError(f"state: output {output!r} is {said[0]}, which cannot be input {given!r}, {said[1]}")
        if places[1][given] in pairs.values():
            raise InputError(f"state: input {given!r} comes from two outputs")
        pairs[places[0][output]] = places[1][given]
    if not pairs:
        raise InputError("state must say for at least one output which input it is in the next call")
    return pairs
