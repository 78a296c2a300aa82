"""Base of all callbacks that have a state in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override


class _Stateful(pl.Callback):
    """Says what to do where two callbacks would have one place in a checkpoint.

    A Trainer refuses them itself when it is made, in words about ``state_key`` that name no way out. It does not ask
    callbacks whose ``state_dict`` is its own, and takes what wraps it for that.
    """

    instead: ClassVar[str] = "a run takes one of them"
    """What to do in place of a second one that works on the same layers."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = vars(cls).get("state_dict")
        if own is not None:
            own.__wrapped__ = pl.Callback.state_dict

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        check_twins(trainer.callbacks)  # type: ignore[attr-defined]


class _Layers(_Stateful):
    instead: ClassVar[str] = "give each of them layers of its own, by include or exclude"


if TYPE_CHECKING:  # a list of several classes shall be one of Callback, which is what a Trainer takes
    StatefulCallback: TypeAlias = pl.Callback
    LayerCallback: TypeAlias = pl.Callback
else:
    StatefulCallback = _Stateful
    LayerCallback = _Layers  # chooses layers by include and exclude: several are good for different layers


def check_twins(callbacks: Sequence[pl.Callback]) -> None:
    """Refuse two callbacks of one kind for the same layers.

    Raises:
        MisconfigurationException: There are such.
    """
    seen: set[str] = set()
    for one in callbacks:
        if isinstance(one, _Stateful):
            if one.state_key in seen:
                name = type(one).__name__
                raise MisconfigurationException(f"more than one {name} for the same layers; HINT: {one.instead}")
            seen.add(one.state_key)
