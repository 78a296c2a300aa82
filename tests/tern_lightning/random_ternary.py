"""Ternary weights with a given share of zeros."""

import numpy as np
import torch

from tern_lightning.ternary_tensor import TernaryTensor


def random_ternary(shape=(6, 5, 3, 3), zeros=0.6, seed=0, terms=1, axis=0, symmetric=True):
    """Codes with ``zeros`` zeros on average; unequal levels are one apart."""
    random = np.random.default_rng(seed)
    codes = random.choice([-1, 0, 1], size=(terms, *shape), p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2])
    positive = torch.rand(terms, 1) + 0.5
    negative = positive if symmetric else positive + 1
    return TernaryTensor(torch.tensor(codes, dtype=torch.int8), positive, negative, axis)
