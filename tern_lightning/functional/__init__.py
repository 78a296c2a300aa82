"""Pure maths of ternary networks: weight in, :class:`~tern_lightning.tensor.TernaryTensor` or number out."""

from tern_lightning.functional.absmean import absmean
from tern_lightning.functional.frozen import frozen_levels
from tern_lightning.functional.gradient import attach, straight_through
from tern_lightning.functional.levels import trained_levels, ttq
from tern_lightning.functional.residual import LevelIndex, level_index, nested_terms, residual_terms
from tern_lightning.functional.statistics import code_entropy, flip_ratio, sparsity
from tern_lightning.functional.sws import sws
from tern_lightning.functional.twn import twn

__all__ = [
    "LevelIndex",
    "absmean",
    "attach",
    "code_entropy",
    "flip_ratio",
    "frozen_levels",
    "level_index",
    "nested_terms",
    "residual_terms",
    "sparsity",
    "straight_through",
    "sws",
    "trained_levels",
    "ttq",
    "twn",
]
