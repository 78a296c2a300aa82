"""Lightning callbacks for ternary networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tern_lightning.callbacks.activation import ActivationQuantization
    from tern_lightning.callbacks.ternary import TernaryCallback

_HOME = {"ActivationQuantization": "activation", "TernaryCallback": "ternary"}
__all__ = ["ActivationQuantization", "TernaryCallback"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
