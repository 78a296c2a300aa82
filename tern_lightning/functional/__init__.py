"""Pure maths of ternary networks: weight in, :class:`~tern_lightning.tensor.TernaryTensor` or number out."""

from tern_lightning.functional.absmean import absmean
from tern_lightning.functional.frozen import frozen_levels
from tern_lightning.functional.gradient import straight_through
from tern_lightning.functional.statistics import code_entropy, flip_ratio, sparsity
from tern_lightning.functional.sws import sws
from tern_lightning.functional.twn import twn

__all__ = ["absmean", "code_entropy", "flip_ratio", "frozen_levels", "sparsity", "straight_through", "sws", "twn"]
