"""Sparse ternary neural networks: training in PyTorch Lightning, export to ONNX and to device libraries."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tern_lightning.callbacks.activation import ActivationQuantization
    from tern_lightning.callbacks.bcgd import BCGD, CoarseActivation
    from tern_lightning.callbacks.entropy import EntropyConstraint, EntropyPruning
    from tern_lightning.callbacks.from_preset import Preset, preset
    from tern_lightning.callbacks.guided import AccuracyGuidedPruning
    from tern_lightning.callbacks.low_rank import LowRank
    from tern_lightning.callbacks.multilevel import MultiLevelActivation
    from tern_lightning.callbacks.penalty import StructuredPruning, WeightPenaltyClipping
    from tern_lightning.callbacks.pruning import PruningSchedule
    from tern_lightning.callbacks.slr import SLR
    from tern_lightning.callbacks.ternary import TernaryCallback
    from tern_lightning.exporter.pipeline import export
    from tern_lightning.loop import freeze, set_progress, ternarize, to_plain
    from tern_lightning.nn.compound_scaling import scale_network, search_scaling
    from tern_lightning.nn.layer_types import register_layer
    from tern_lightning.recipes.lookup import presets
    from tern_lightning.rules import Rule
    from tern_lightning.schedules import Schedule
    from tern_lightning.ternary_tensor import TernaryTensor

__version__ = "0.1.0"
__all__ = [
    "BCGD",
    "SLR",
    "AccuracyGuidedPruning",
    "ActivationQuantization",
    "CoarseActivation",
    "EntropyConstraint",
    "EntropyPruning",
    "LowRank",
    "MultiLevelActivation",
    "Preset",
    "PruningSchedule",
    "Rule",
    "Schedule",
    "StructuredPruning",
    "TernaryCallback",
    "TernaryTensor",
    "WeightPenaltyClipping",
    "export",
    "freeze",
    "preset",
    "presets",
    "register_layer",
    "scale_network",
    "search_scaling",
    "set_progress",
    "ternarize",
    "to_plain",
]

# Public names load their module when they are first used, so that importing the package costs nothing.
_HOME = {
    "AccuracyGuidedPruning": "tern_lightning.callbacks.guided",
    "ActivationQuantization": "tern_lightning.callbacks.activation",
    "BCGD": "tern_lightning.callbacks.bcgd",
    "CoarseActivation": "tern_lightning.callbacks.bcgd",
    "EntropyConstraint": "tern_lightning.callbacks.entropy",
    "EntropyPruning": "tern_lightning.callbacks.entropy",
    "LowRank": "tern_lightning.callbacks.low_rank",
    "MultiLevelActivation": "tern_lightning.callbacks.multilevel",
    "Preset": "tern_lightning.callbacks.from_preset",
    "PruningSchedule": "tern_lightning.callbacks.pruning",
    "Rule": "tern_lightning.rules",
    "SLR": "tern_lightning.callbacks.slr",
    "Schedule": "tern_lightning.schedules",
    "StructuredPruning": "tern_lightning.callbacks.penalty",
    "TernaryCallback": "tern_lightning.callbacks.ternary",
    "TernaryTensor": "tern_lightning.ternary_tensor",
    "WeightPenaltyClipping": "tern_lightning.callbacks.penalty",
    "export": "tern_lightning.exporter.pipeline",
    "freeze": "tern_lightning.loop",
    "preset": "tern_lightning.callbacks.from_preset",
    "presets": "tern_lightning.recipes.lookup",
    "register_layer": "tern_lightning.nn.layer_types",
    "scale_network": "tern_lightning.nn.compound_scaling",
    "search_scaling": "tern_lightning.nn.compound_scaling",
    "set_progress": "tern_lightning.loop",
    "ternarize": "tern_lightning.loop",
    "to_plain": "tern_lightning.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise _explained(error) from error
    return value


def _explained(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The same error with a sentence about what to install, where an extra of this package brings it."""
    from importlib.util import find_spec

    from tvm_schedules.errors import EXTRAS, install_hint

    if error.name not in EXTRAS:
        return error
    text = install_hint(error)
    if error.name == "lightning" and find_spec("pytorch_lightning") is not None:
        text += ". 'pytorch_lightning' alone does not have it: the callbacks are those of lightning.pytorch.Trainer"
    return ModuleNotFoundError(text, name=error.name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
