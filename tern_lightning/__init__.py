"""Sparse ternary neural networks: training in PyTorch Lightning, export to ONNX and to device libraries."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tern_lightning.callbacks.activation import ActivationQuantization
    from tern_lightning.callbacks.entropy import EntropyConstraint, EntropyPruning
    from tern_lightning.callbacks.ternary import TernaryCallback
    from tern_lightning.exporter import export
    from tern_lightning.rules import Rule
    from tern_lightning.tensor import TernaryTensor

__version__ = "0.1.0"
__all__ = [
    "ActivationQuantization",
    "EntropyConstraint",
    "EntropyPruning",
    "Rule",
    "TernaryCallback",
    "TernaryTensor",
    "export",
]

# Public names load their module when they are first used, so that importing the package costs nothing.
_HOME = {
    "ActivationQuantization": "tern_lightning.callbacks.activation",
    "EntropyConstraint": "tern_lightning.callbacks.entropy",
    "EntropyPruning": "tern_lightning.callbacks.entropy",
    "Rule": "tern_lightning.rules",
    "TernaryCallback": "tern_lightning.callbacks.ternary",
    "TernaryTensor": "tern_lightning.tensor",
    "export": "tern_lightning.exporter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
