"""The public names of this package, which are public names of tern_lightning too."""

from tern_lightning.callbacks.activation_quantization import ActivationQuantization as ActivationQuantization
from tern_lightning.callbacks.bcgd import BCGD as BCGD
from tern_lightning.callbacks.budgets import LatencyBudget as LatencyBudget
from tern_lightning.callbacks.budgets import OperationBudget as OperationBudget
from tern_lightning.callbacks.budgets import SizeBudget as SizeBudget
from tern_lightning.callbacks.budgets import SparsityBudget as SparsityBudget
from tern_lightning.callbacks.coarse_activation import CoarseActivation as CoarseActivation
from tern_lightning.callbacks.compression_report import CompressionReport as CompressionReport
from tern_lightning.callbacks.distillation import Distillation as Distillation
from tern_lightning.callbacks.entropy import EntropyConstraint as EntropyConstraint
from tern_lightning.callbacks.entropy import EntropyPruning as EntropyPruning
from tern_lightning.callbacks.from_preset import Preset as Preset
from tern_lightning.callbacks.from_preset import preset as preset
from tern_lightning.callbacks.guided_pruning import AccuracyGuidedPruning as AccuracyGuidedPruning
from tern_lightning.callbacks.low_rank import LowRank as LowRank
from tern_lightning.callbacks.multilevel_activation import MultiLevelActivation as MultiLevelActivation
from tern_lightning.callbacks.penalty import StructuredPruning as StructuredPruning
from tern_lightning.callbacks.penalty import WeightPenaltyClipping as WeightPenaltyClipping
from tern_lightning.callbacks.pruning_schedule import PruningSchedule as PruningSchedule
from tern_lightning.callbacks.return_to_best import ReturnToBest as ReturnToBest
from tern_lightning.callbacks.slr import SLR as SLR
from tern_lightning.callbacks.ternary import TernaryCallback as TernaryCallback
