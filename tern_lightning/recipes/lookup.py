"""Presets by name."""

from __future__ import annotations

import difflib
import io
from typing import TYPE_CHECKING

from tern_lightning.recipes.preset import PresetData
from tern_lightning.recipes.published import PRESETS

if TYPE_CHECKING:
    from rich.table import Table

_BY_NAME = {one.name: one for one in PRESETS}


class PresetNames(list[str]):
    """Names of presets; printed, also by a ``rich`` console, they are a table with what is published for each."""

    def __rich__(self) -> Table:
        from rich.table import Table

        made = Table(title="Presets: published accuracies, top-1 (of the float network)", title_justify="left")
        for heading in ("preset", "method", "data set", "network", "accuracy", "stated in"):
            made.add_column(heading, overflow="fold")
        for name in self:
            one = _BY_NAME[name]
            method = one.method or " + ".join(companion for companion, _ in one.companions)
            for result in one.results or (None,):
                known = (one.recipe.data or "", one.recipe.network or "", "not published", "")
                if result is not None:
                    known = (result.data, result.network, result.reached, result.where)
                first = result is None or result is one.results[0]
                made.add_row(*((name, method) if first else ("", "")), *known)
        return made

    def __str__(self) -> str:
        from tvm_schedules.common.console import make_console

        console = make_console(file=io.StringIO(), width=150)
        console.print(self)
        return console.file.getvalue().rstrip()  # type: ignore[attr-defined]  # the file from above


def presets() -> PresetNames:
    """Names of all presets, sorted; ``print(presets())`` shows their published accuracies.

    Example:
        >>> presets()[:3]
        ['admm', 'b1.58-3b', 'b1.58-700m']
        >>> "│ 91.65 % (float 91.70 %)" in str(presets())
        True
    """
    return PresetNames(sorted(_BY_NAME))


def find_preset(name: str) -> PresetData:
    """What is published under a name.

    Raises:
        ValueError: There is no such preset.
    """
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, n=3, cutoff=0.4)
        hint = f"near misses: {near}" if near else f"there are {list(presets())}"
        raise ValueError(f"preset must be one of tern_lightning.presets(), got {name!r}; {hint}")
    return _BY_NAME[name]
