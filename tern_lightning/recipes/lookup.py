"""Presets by name."""

from __future__ import annotations

import difflib

from tern_lightning.recipes.preset import PresetData
from tern_lightning.recipes.published import PRESETS

_BY_NAME = {one.name: one for one in PRESETS}


def presets() -> list[str]:
    """Names of all presets, sorted.

    Example:
        >>> presets()[:3]
        ['admm', 'b1.58-3b', 'b1.58-700m']
    """
    return sorted(_BY_NAME)


def find_preset(name: str) -> PresetData:
    """What is published under a name.

    Raises:
        ValueError: There is no such preset.
    """
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, n=3, cutoff=0.4)
        hint = f"near misses: {near}" if near else f"there are {presets()}"
        raise ValueError(f"preset must be one of tern_lightning.presets(), got {name!r}; {hint}")
    return _BY_NAME[name]
