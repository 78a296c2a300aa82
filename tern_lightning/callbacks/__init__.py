"""Lightning callbacks for ternary networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tern_lightning.callbacks.activation import ActivationQuantization
    from tern_lightning.callbacks.entropy import EntropyConstraint, EntropyPruning
    from tern_lightning.callbacks.ternary import TernaryCallback

_HOME = {
    "ActivationQuantization": "activation",
    "EntropyConstraint": "entropy",
    "EntropyPruning": "entropy",
    "TernaryCallback": "ternary",
}
__all__ = ["ActivationQuantization", "EntropyConstraint", "EntropyPruning", "TernaryCallback"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
