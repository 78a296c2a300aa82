"""Presets with the callbacks that follow from them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tern_lightning import callbacks as public
from tern_lightning.recipes.lookup import find_preset
from tern_lightning.recipes.preset import PresetData

if TYPE_CHECKING:
    import lightning.pytorch as pl


@dataclass(frozen=True)
class Preset(PresetData):
    """A method with its published hyper-parameters, and the callbacks that train it so.

    The fields, which ``print`` shows, are those of :class:`tern_lightning.recipes.preset.PresetData`: name, paper,
    source, method, options, layers, dense, start, freeze, companions, recipe, results and notes.

    Example:
        >>> from tern_lightning import preset
        >>> preset("ttq-cifar10").recipe.weight_decay
        0.0002
    """

    def callbacks(self, verbose: bool = True) -> list[pl.Callback]:
        """The TernaryCallback, where there is a method, and its companions, in the order that a Trainer should have."""
        others = [getattr(public, name)(**arguments) for name, arguments in self.companions]
        if self.method is None:
            return others
        first = [one for one in others if isinstance(one, public.SLR | public.ReturnToBest)]
        ternary = public.TernaryCallback.from_preset(self, verbose=verbose)
        return [*first, ternary, *(one for one in others if one not in first)]


@functools.cache
def preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        ValueError: There is none of this name.
    """
    found = find_preset(name)
    return Preset(**{one.name: getattr(found, one.name) for one in dataclasses.fields(found)})
