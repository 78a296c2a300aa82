"""Metrics of ternary networks: update with one layer after another, compute over all of them."""

from tern_lightning.metrics.operations import MicroNetScore, Operations
from tern_lightning.metrics.size import Compression
from tern_lightning.metrics.speedup import SpeedUp, measure_speedup
from tern_lightning.metrics.statistics import CodeEntropy, FlipRatio, Sparsity
from tern_lightning.metrics.structure import ChannelSparsity, GroupSparsity, SignBalance

__all__ = [
    "ChannelSparsity",
    "CodeEntropy",
    "Compression",
    "FlipRatio",
    "GroupSparsity",
    "MicroNetScore",
    "Operations",
    "SignBalance",
    "Sparsity",
    "SpeedUp",
    "measure_speedup",
]
