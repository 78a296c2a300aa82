"""Profile tables: what the kernels of a device took over many shapes and shares of zeros, as a file, and fits to them.

A table with the unit ``cycles`` or ``instructions`` was counted on an emulated core, one with ``seconds`` was measured
on a device.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tvm_schedules.common import schema
from tvm_schedules.common.files import user_path, write_file
from tvm_schedules.common.reading import read_json, reading
from tvm_schedules.errors import EstimateError
from tvm_schedules.estimate.features import NAMES
from tvm_schedules.estimate.fit import Fit, Row, fit, held_out, nonnegative

__all__ = ["Library", "Table", "packaged", "read", "write"]

FORMAT = 1
_ADVICE = "; make it again with tern-bench --profile-table"
_FLOORS = {"seconds": 1e-6, "cycles": 500.0, "instructions": 500.0}
"""Differences that do not count much, by unit."""

_LIBRARY = {"network": str, "kernels": schema.Every(schema.count), "steps": schema.count, "code": schema.count}
_FORM = {
    "format": schema.count,
    "names": [str],
    "device": str,
    "target": str,
    "unit": str,
    "how": str,
    "when": str,
    "rows": [{"network": str, "group": str, "numbers": [schema.real], "value": schema.real}],
    "libraries": [{**_LIBRARY, "metadata": schema.count}],
}


@dataclass(frozen=True)
class Library:
    """What one network takes on disk beside its weights.

    Attributes:
        network: Its name.
        kernels: How many different kernels of each group it has.
        steps: How many steps.
        code: Bytes of the library.
        metadata: Bytes of ``metadata.json``; 0 of C, which has none.
    """

    network: str
    kernels: Mapping[str, int]
    steps: int
    code: int
    metadata: int


@dataclass(frozen=True)
class Table:
    """A profile table.

    Attributes:
        device: What was measured, in words.
        target: Name of the target that the code was for.
        unit: ``seconds``, ``cycles`` or ``instructions``.
        how: How the values came about, in words.
        when: The day.
        rows: The measurements of steps.
        libraries: Sizes of what was compiled.
    """

    device: str
    target: str
    unit: str
    how: str
    when: str
    rows: tuple[Row, ...]
    libraries: tuple[Library, ...]

    @property
    def floor(self) -> float:
        """Differences that do not count much, in the table's unit."""
        return _FLOORS[self.unit]

    @cached_property
    def fit(self) -> Fit:
        """Coefficients, in the table's unit."""
        return fit(self.rows, self.floor)

    @cached_property
    def error(self) -> float | None:
        """Relative error that nine of ten networks of the table stay below when the others alone are fitted.

        None where the table has a single network.
        """
        errors = [abs(said / took - 1) for took, said in held_out(self.rows, self.floor).values() if took > 0]
        return float(np.percentile(errors, 90)) if errors else None

    @cached_property
    def _code(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Groups, bytes of a kernel of each and of every library, and bytes of metadata and of each of its steps."""
        groups = sorted({group for one in self.libraries for group in one.kernels})
        counts = np.array([[one.kernels.get(group, 0) for group in groups] + [1.0] for one in self.libraries])
        sizes = np.array([float(one.code) for one in self.libraries])
        steps = np.array([[1.0, one.steps] for one in self.libraries])
        metadata = np.array([float(one.metadata) for one in self.libraries])
        code = nonnegative(counts / sizes[:, None], np.ones(len(sizes)))
        known = metadata > 0  # C has none
        return groups, code, nonnegative(steps[known] / metadata[known, None], np.ones(known.sum()))

    def library_bytes(self, kernels: Mapping[str, int], steps: int) -> tuple[int, int]:
        """Bytes of the code and of ``metadata.json`` of a network, about.

        Args:
            kernels: How many different kernels of each group it has.
            steps: How many steps.
        """
        groups, code, metadata = self._code
        known = dict(zip(groups, code[:-1], strict=True))
        usual = float(np.mean(code[:-1])) if groups else 0.0
        total = code[-1] + sum(count * known.get(group, usual) for group, count in kernels.items())
        return round(float(total)), round(float(metadata @ [1.0, steps]))


def write(path: str | Path, table: Table) -> None:
    """Writes a table as JSON, a measurement a line.

    Raises:
        OutputError: The file cannot be written.
    """
    head = {"format": FORMAT, "names": list(NAMES)}
    head |= {key: getattr(table, key) for key in ("device", "target", "unit", "how", "when")}
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for key, entries in (("rows", table.rows), ("libraries", table.libraries)):
        lines = ",\n  ".join(json.dumps(asdict(entry)) for entry in entries)
        parts.append(f"{json.dumps(key)}: [\n  {lines}\n ]")
    write_file(path, "{\n " + ",\n ".join(parts) + "\n}\n")


def read(path: str | Path) -> Table:
    """Reads a table.

    Raises:
        EstimateError: There is no such file, it is no table, or one of another version.
    """
    place = user_path(path, "profile table")
    try:
        data = read_json(place, EstimateError, "profile table", _ADVICE)
    except FileNotFoundError:
        raise EstimateError(f"the profile table {place} does not exist{_ADVICE}") from None
    with reading(f"the profile table {place}", EstimateError, _ADVICE):
        schema.check(data, _FORM)
        if data["format"] != FORMAT or data["names"] not in (list(NAMES), list(NAMES[:-1])):
            raise EstimateError(f"the profile table {place} is of another version{_ADVICE}")
        if data["unit"] not in _FLOORS:
            raise ValueError(f"unit must be one of {', '.join(_FLOORS)}, got {data['unit']!r}")
        if not data["rows"] or not data["libraries"]:
            raise ValueError("it has no measurements")
        behind = (0.0,) * (len(NAMES) - len(data["names"]))  # tables that were made before terms were counted
        rows = tuple(
            Row(r["network"], r["group"], _numbers([*r["numbers"], *behind]), max(0.0, r["value"]))
            for r in data["rows"]
        )
        libraries = tuple(Library(**{key: one[key] for key in (*_LIBRARY, "metadata")}) for one in data["libraries"])
        head = {key: data[key] for key in ("device", "target", "unit", "how", "when")}
        made = Table(**head, rows=rows, libraries=libraries)
        if not made.fit.others or not any(row.value for row in rows) or not all(one.code for one in libraries):
            raise ValueError("its measurements are all 0")
        return made


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    if len(values) != len(NAMES):
        raise ValueError(f"a measurement has {len(values)} numbers instead of {len(NAMES)}")
    return tuple(float(value) for value in values)


_TABLES: dict[str, Table] = {}


def packaged(name: str) -> Table | None:
    """The table that comes with the package for a kind of core, None where there is none."""
    path = Path(__file__).with_name("tables") / f"{name}.json"
    if name not in _TABLES and path.is_file():
        _TABLES[name] = read(path)
    return _TABLES.get(name)
