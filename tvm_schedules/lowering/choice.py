"""How a layer is computed, as a value: a kernel and its numbers. The cost model returns one, and so does the tuner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Choice", "Choices", "Option"]


@dataclass(frozen=True)
class Choice:
    """A kernel and its numbers.

    Args:
        kernel: Name of one of the target's kernels.
        numbers: Names and values, sorted by name; a number that is not there is the cost model's.

    Example:
        >>> choice = Choice.of("sparse", {"chunks": 2, "block": 4})
        >>> str(choice), Choice.from_json(choice.to_json()) == choice
        ('sparse block=4 chunks=2', True)
    """

    kernel: str
    numbers: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, kernel: str, numbers: Mapping[str, int]) -> Choice:
        """A choice of a mapping."""
        return cls(kernel, tuple(sorted((name, int(value)) for name, value in numbers.items())))

    def but(self, **numbers: int) -> Choice:
        """The same with some other numbers."""
        return Choice.of(self.kernel, {**dict(self.numbers), **numbers})

    def __str__(self) -> str:
        return " ".join([self.kernel, *(f"{name}={value}" for name, value in self.numbers)])

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return {"kernel": self.kernel, **dict(self.numbers)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Choice:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: Not the form of a choice.
        """
        numbers = {name: value for name, value in data.items() if name != "kernel"}
        if not isinstance(data.get("kernel"), str) or not all(isinstance(value, int) for value in numbers.values()):
            raise ValueError(f"a choice must be a kernel's name and integers, got {dict(data)}")
        return cls.of(data["kernel"], numbers)


@dataclass(frozen=True)
class Option:
    """A number that a kernel could have chosen otherwise.

    Args:
        value: The one taken.
        others: What else is worth trying.
    """

    value: int
    others: tuple[int, ...]


@dataclass
class Choices:
    """Given choices, and the ones made where none is given; by a layer's name.

    A kernel's ``lower`` asks :meth:`wants` whether a layer is for it, where another kernel could take it as well, and
    :meth:`pick` for each number that its code depends on and that only costs time when it is wrong.
    """

    given: Mapping[str, Choice] = field(default_factory=dict)
    options: dict[str, dict[str, Option]] = field(default_factory=dict)
    made: dict[str, Choice] = field(default_factory=dict)
    _asked: str = ""

    def wants(self, name: str, kernel: str, otherwise: bool) -> bool:
        """Whether a kernel shall have a layer: as the given choice says, ``otherwise`` where there is none."""
        return self.given[name].kernel == kernel if name in self.given else otherwise

    def pick(self, name: str, number: str, otherwise: int, others: Sequence[int] = ()) -> int:
        """A number of a layer's kernel: the given one, ``otherwise`` where there is none.

        Args:
            name: The layer.
            number: What it is called.
            otherwise: What the cost model takes.
            others: What else is worth measuring.
        """
        given = self.given.get(name)
        value = dict(given.numbers).get(number, otherwise) if given and given.kernel == self._asked else otherwise
        rest = tuple(sorted({int(other) for other in others} - {value}))
        self.options.setdefault(name, {})[number] = Option(int(value), rest)
        return int(value)

    def begin(self, name: str, kernel: str) -> None:
        """A kernel is asked about a layer."""
        self.options[name], self._asked = {}, kernel

    def taken(self, name: str) -> None:
        """That kernel took the layer."""
        numbers = {number: option.value for number, option in self.options[name].items()}
        self.made[name] = Choice.of(self._asked, numbers)
