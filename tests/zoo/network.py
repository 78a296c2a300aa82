"""What a network of the zoo is, and random inputs for it."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLES = 4
"""Samples of every network: for calibration, verification and time."""


@dataclass(frozen=True)
class Example:
    """A network with inputs.

    Attributes:
        module: With random float weights.
        inputs: Tensors for its arguments, whose first axes run over samples.
        batch: Samples of a run; None where the first axis does not count samples, and all is one run.
    """

    module: nn.Module
    inputs: tuple[Tensor, ...]
    batch: int | None = 1


@dataclass(frozen=True)
class Network:
    """An architecture of the zoo.

    Attributes:
        kind: What it stands for; one network of every kind is in the usual tests.
        make: Builds it, without a download.
        needs: Packages that it is from.
        aim: How many times faster than onnxruntime it shall be at least, where that was said.
        rival: The form of onnxruntime that is meant.
    """

    kind: str
    make: Callable[[], Example]
    needs: tuple[str, ...] = ()
    aim: float | None = None
    rival: str = "int8"

    def lacks(self) -> str | None:
        """Why it cannot be built here: a package that is not installed."""
        missing = [name for name in self.needs if importlib.util.find_spec(name) is None]
        return f"{', '.join(missing)} is not installed" if missing else None


def images(channels: int, height: int, width: int | None = None, count: int = SAMPLES) -> Tensor:
    """Random pictures ``[count, channels, height, width]``: patches of several sizes, as real ones have."""
    total = torch.zeros(count, channels, height, width or height)
    for cells in (1, 2, 4, 8, 32):
        coarse = torch.randn(count, channels, min(cells, height), min(cells, width or height))
        total += F.interpolate(coarse, size=total.shape[2:], mode="nearest")
    return total / math.sqrt(5)


def waves(*shape: int) -> Tensor:
    """Sums of sines ``[SAMPLES, *shape]`` along the last axis, a little noise on them."""
    time = torch.linspace(0, 1, shape[-1])
    frequency = torch.rand(SAMPLES, *shape[:-1], 1) * shape[-1] / 4
    phase = torch.rand(SAMPLES, *shape[:-1], 1)
    return torch.sin(2 * math.pi * (frequency * time + phase)) + 0.1 * torch.randn(SAMPLES, *shape)


def vectors(*shape: int) -> Tensor:
    """Normal numbers ``[SAMPLES, *shape]``."""
    return torch.randn(SAMPLES, *shape)


def tokens(vocabulary: int, length: int) -> Tensor:
    """Random tokens ``[SAMPLES, length]``."""
    return torch.randint(1, vocabulary, (SAMPLES, length))
