"""Random codes, and how many of them have which sign."""

from __future__ import annotations

import numpy as np


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], zeros: float) -> np.ndarray:
    return (rng.choice([-1, 1], shape) * (rng.random(shape) >= zeros)).astype(np.int8)


def signs(codes: np.ndarray) -> tuple[int, int]:
    return int((codes > 0).sum()), int((codes < 0).sum())
