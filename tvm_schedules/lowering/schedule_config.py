"""How a layer is computed, as a value that the cost model and the tuner return: a kernel and its tuning knobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Knob", "ScheduleConfig", "ScheduleConfigs"]


@dataclass(frozen=True)
class ScheduleConfig:
    """A kernel and its tuning knobs: integers that change the time that a layer takes and nothing else.

    Args:
        kernel: Name of one of the target's kernels.
        knobs: Names and values, sorted by name; the cost model sets a knob that is not there.

    Example:
        >>> config = ScheduleConfig.of("sparse", {"chunks": 2, "block": 4})
        >>> str(config), ScheduleConfig.from_json(config.to_json()) == config
        ('sparse block=4 chunks=2', True)
    """

    kernel: str
    knobs: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, kernel: str, knobs: Mapping[str, int]) -> ScheduleConfig:
        """The configuration of a kernel with knobs in any order."""
        return cls(kernel, tuple(sorted((name, int(value)) for name, value in knobs.items())))

    def with_knobs(self, **knobs: int) -> ScheduleConfig:
        """A copy in which these knobs have these values; the others keep theirs."""
        return ScheduleConfig.of(self.kernel, {**dict(self.knobs), **knobs})

    def __str__(self) -> str:
        return " ".join([self.kernel, *(f"{name}={value}" for name, value in self.knobs)])

    def to_json(self) -> dict[str, Any]:
        """The form in tuning databases: the kernel's name and the knobs in one dictionary."""
        return {"kernel": self.kernel, **dict(self.knobs)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScheduleConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: ``kernel`` is not a string, or a knob is not an integer.
        """
        knobs = {name: value for name, value in data.items() if name != "kernel"}
        if not isinstance(data.get("kernel"), str) or not all(isinstance(value, int) for value in knobs.values()):
            raise ValueError(f"a schedule configuration must be a kernel's name and integers, got {dict(data)}")
        return cls.of(data["kernel"], knobs)


@dataclass(frozen=True)
class Knob:
    """The value that a tuning knob got, and others that are worth measuring.

    Args:
        value: The value that the kernel's code has.
        others: Further values, sorted.
    """

    value: int
    others: tuple[int, ...]


@dataclass
class ScheduleConfigs:
    """The configurations of a network's layers, by the layers' names.

    A kernel's ``lower`` asks :meth:`selects` whether a layer is for it, where another kernel could take it as well, and
    :meth:`knob` for each integer that its code depends on and that only costs time when it is wrong.

    Attributes:
        overrides: Configurations that go before the cost model's.
        knobs: The knobs that the last kernel asked about has set.
        chosen: The configurations that layers got.
    """

    overrides: Mapping[str, ScheduleConfig] = field(default_factory=dict)
    knobs: dict[str, dict[str, Knob]] = field(default_factory=dict)
    chosen: dict[str, ScheduleConfig] = field(default_factory=dict)
    _asked: str = ""

    def selects(self, layer: str, kernel: str, default: bool) -> bool:
        """Whether a kernel shall have a layer: as the layer's override says, ``default`` where there is none."""
        return self.overrides[layer].kernel == kernel if layer in self.overrides else default

    def knob(self, layer: str, name: str, default: int, others: Sequence[int] = ()) -> int:
        """The value of a knob: that of the layer's override, ``default`` where there is none.

        Args:
            layer: The layer's name.
            name: The knob's name.
            default: The cost model's value.
            others: Further values that are worth measuring.
        """
        given = self.overrides.get(layer)
        value = dict(given.knobs).get(name, default) if given and given.kernel == self._asked else default
        rest = tuple(sorted({int(other) for other in others} - {value}))
        self.knobs.setdefault(layer, {})[name] = Knob(int(value), rest)
        return int(value)

    def begin(self, layer: str, kernel: str) -> None:
        """Notes that a kernel is asked about a layer."""
        self.knobs[layer], self._asked = {}, kernel

    def taken(self, layer: str) -> None:
        """Notes that the kernel which was asked took the layer."""
        values = {name: knob.value for name, knob in self.knobs[layer].items()}
        self.chosen[layer] = ScheduleConfig.of(self._asked, values)
