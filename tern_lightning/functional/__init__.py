"""Pure math of ternary networks: weight in, :class:`~tern_lightning.ternary_tensor.TernaryTensor` or number out."""

from tern_lightning.functional.absmean import absmean
from tern_lightning.functional.distillation import (
    attention_map,
    attention_transfer,
    hint,
    output_distance,
    soft_targets,
)
from tern_lightning.functional.ec2t import EntropyAssignment, ec2t, entropy_assignment, entropy_groups, size_factor
from tern_lightning.functional.frozen import frozen_levels
from tern_lightning.functional.gradient import attach, straight_through
from tern_lightning.functional.hestia import hestia_schedule, soft_ternary
from tern_lightning.functional.levels import trained_levels, ttq
from tern_lightning.functional.projection import ternary_projection
from tern_lightning.functional.residual import LevelIndex, level_index, nested_terms, residual_terms
from tern_lightning.functional.seq import seq, seq_gradient
from tern_lightning.functional.sherry import arenas, sherry
from tern_lightning.functional.statistics import code_entropy, flip_ratio, sparsity
from tern_lightning.functional.sws import sws
from tern_lightning.functional.tequila import dead_zone_bias
from tern_lightning.functional.tga import gaussian_sparsity, inverse_mills, tga
from tern_lightning.functional.twn import twn

__all__ = [
    "EntropyAssignment",
    "LevelIndex",
    "absmean",
    "arenas",
    "attach",
    "attention_map",
    "attention_transfer",
    "code_entropy",
    "dead_zone_bias",
    "ec2t",
    "entropy_assignment",
    "entropy_groups",
    "flip_ratio",
    "frozen_levels",
    "gaussian_sparsity",
    "hestia_schedule",
    "hint",
    "inverse_mills",
    "level_index",
    "nested_terms",
    "output_distance",
    "residual_terms",
    "seq",
    "seq_gradient",
    "sherry",
    "size_factor",
    "soft_targets",
    "soft_ternary",
    "sparsity",
    "straight_through",
    "sws",
    "ternary_projection",
    "tga",
    "trained_levels",
    "ttq",
    "twn",
]
