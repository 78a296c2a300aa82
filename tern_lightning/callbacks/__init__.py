"""Lightning callbacks for ternary networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tern_lightning.callbacks.activation import ActivationQuantization
    from tern_lightning.callbacks.bcgd import BCGD, CoarseActivation
    from tern_lightning.callbacks.entropy import EntropyConstraint, EntropyPruning
    from tern_lightning.callbacks.guided import AccuracyGuidedPruning
    from tern_lightning.callbacks.low_rank import LowRank
    from tern_lightning.callbacks.multilevel import MultiLevelActivation
    from tern_lightning.callbacks.penalty import StructuredPruning, WeightPenaltyClipping
    from tern_lightning.callbacks.pruning import PruningSchedule
    from tern_lightning.callbacks.slr import SLR
    from tern_lightning.callbacks.ternary import TernaryCallback

_HOME = {
    "AccuracyGuidedPruning": "guided",
    "ActivationQuantization": "activation",
    "BCGD": "bcgd",
    "CoarseActivation": "bcgd",
    "EntropyConstraint": "entropy",
    "EntropyPruning": "entropy",
    "LowRank": "low_rank",
    "MultiLevelActivation": "multilevel",
    "PruningSchedule": "pruning",
    "SLR": "slr",
    "StructuredPruning": "penalty",
    "TernaryCallback": "ternary",
    "WeightPenaltyClipping": "penalty",
}
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
    "PruningSchedule",
    "StructuredPruning",
    "TernaryCallback",
    "WeightPenaltyClipping",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
