"""Networks that are compiled for several lengths of their sequences: the shortest that is long enough runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import InputError

__all__ = ["LengthAxes", "Lengths"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LengthAxes:
    """Which axes count the steps of a sequence.

    Attributes:
        own: The longest sequence.
        inputs: The axis by the input's name.
        outputs: The axis by the output's name.
        pad: What fills an input behind the end of its sequence, by name; 0 where it is not said.
    """

    own: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    pad: Mapping[str, float] = field(default_factory=dict)

    def padded(self, name: str, array: Array, length: int) -> Array:
        """An input filled up to a length."""
        axis = self.inputs.get(name)
        if axis is None or array.shape[axis] == length:
            return array
        sides = [(0, length - array.shape[axis] if i == axis else 0) for i in range(array.ndim)]
        return np.pad(array, sides, constant_values=array.dtype.type(self.pad.get(name, 0)))

    def cut(self, name: str, array: Array, length: int) -> Array:
        """What of an output belongs to the sequence."""
        axis = self.outputs.get(name)
        return array if axis is None else array[(slice(None),) * axis + (slice(length),)]


class _Network(Protocol):
    """What of a :class:`~tvm_schedules.runtime.model.Model` is asked for here."""

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    def _call(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any: ...


class Lengths:
    """Chooses the network for a call.

    Args:
        axes: Which axes count steps.
        shorter: The networks for shorter sequences, by length.
    """

    def __init__(self, axes: LengthAxes, shorter: Mapping[int, Any]) -> None:
        self.axes: LengthAxes = axes
        self.shorter: dict[int, Any] = dict(shorter)

    def call(self, longest: _Network, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Run the network of the shortest length that is long enough, on inputs that are filled up to it.

        Raises:
            InputError: A sequence is longer than every network, inputs are of several lengths, or as in other calls.
        """
        names = [entry["name"] for entry in longest.inputs]
        given = dict(zip(names, args, strict=False)) | dict(named)
        length = self._length(longest, given)
        if length is None or len(args) > len(names) or len(given) < len(args) + len(named):
            return longest._call(tuple(args), named)  # which says what is wrong
        size = min(n for n in (*self.shorter, self.axes.own) if n >= length)
        network: _Network = longest if size == self.axes.own else self.shorter[size]
        made = network._call((), {name: self.axes.padded(name, array, size) for name, array in given.items()})
        results = made if isinstance(made, tuple) else (made,)
        cut = [
            self.axes.cut(entry["name"], array, length) for entry, array in zip(longest.outputs, results, strict=True)
        ]
        return cut[0] if len(cut) == 1 else tuple(cut)

    def _length(self, longest: _Network, given: Mapping[str, Any]) -> int | None:
        """The length of a call's sequences; None where its inputs are not of the form that the network has."""
        ranks = {entry["name"]: len(entry["shape"]) for entry in longest.inputs}
        found = {}
        for name, axis in self.axes.inputs.items():
            array = given.get(name)
            if not isinstance(array, np.ndarray) or array.ndim != ranks[name]:
                return None
            found[name] = int(array.shape[axis])
        if len(set(found.values())) > 1:
            told = ", ".join(f"{name}: {length}" for name, length in found.items())
            raise InputError(f"inputs must be sequences of one length, got {told}")
        length = next(iter(found.values()))
        if not 1 <= length <= self.axes.own:
            raise InputError(f"sequences must have 1 to {self.axes.own} steps, got {length}")
        return length
