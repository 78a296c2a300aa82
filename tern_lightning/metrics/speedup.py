"""How much of the arithmetic is skipped when zero weights, zero activations and zero digits cost nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern_lightning.nn.layer_types import channel_axis
from tern_lightning.nn.ternary_layers import TernaryLayer, effective_weight, ternary_layers


@dataclass(frozen=True)
class SpeedUp:
    """Counts over the multiply-accumulate operations (MACs) of layers, padding excluded, and their ratios.

    A weight is a sum of ``M_w`` ternary digits, an activation of ``M_a`` (1 where it is not multi-level). These are
    potential speed-ups of ideal hardware; they ignore indexing and load balance.

    Attributes:
        macs: Number of MACs.
        words: MACs in which neither the weight nor the activation is zero.
        digits: Sum over the MACs of ``M_w * M_a``.
        effective: Sum over the MACs of non-zero weight digits times non-zero activation digits.
    """

    macs: int
    words: int
    digits: int
    effective: int

    @property
    def word(self) -> float:
        """Word level: MACs over MACs without a zero."""
        return self.macs / max(self.words, 1)

    @property
    def bit(self) -> float:
        """Bit level: digit products over those without a zero digit."""
        return self.digits / max(self.effective, 1)

    @property
    def published(self) -> float:
        """Digit products of a dense multi-level network over MACs without a zero.

        Bit-level speed-up is never below word-level speed-up by their definitions; published figures with a larger
        word-level one are plausible if they compare words with the digit products of a multi-level binary network.
        """
        return self.digits / max(self.words, 1)

    def __add__(self, other: SpeedUp) -> SpeedUp:
        return SpeedUp(
            self.macs + other.macs,
            self.words + other.words,
            self.digits + other.digits,
            self.effective + other.effective,
        )


@torch.no_grad()
def measure_speedup(module: nn.Module, batches: Iterable[Any]) -> dict[str, SpeedUp]:
    """Count skipped arithmetic on the activations of real inputs.

    Args:
        module: A network. It runs as it is, with its activation quantizers; put it into evaluation mode first.
        batches: Inputs; a tuple or list is unpacked into arguments.

    Returns:
        The counts by layer path, over all ternary layers that multiply one input by their weight;
        ``sum(found.values(), SpeedUp(0, 0, 0, 0))`` is the whole.
    """
    from tern_lightning.nn.learned_input import MultiLevelInput

    found: dict[str, SpeedUp] = {}
    handles, inputs = [], []
    for path, layer in ternary_layers(module).items():
        if not layer._ternary_kind.one_input:
            continue
        digits = next(
            (h for h in layer._forward_pre_hooks.values() if isinstance(h, MultiLevelInput) and h.ready), None
        )
        if digits is not None:
            digits.recording = True
            inputs.append(digits)

        def count(layer: nn.Module, args: Any, _: Any, path: str = path, hook: Any = digits) -> None:
            active = None if hook is None else (hook.digits(hook.last) != 0).sum(0)
            here = count_products(layer, args[0], active, 1 if hook is None else hook.terms)
            found[path] = found[path] + here if path in found else here

        handles.append(layer.register_forward_hook(count))
    try:
        for batch in batches:
            module(*batch) if isinstance(batch, tuple | list) else module(batch)
    finally:
        for handle in handles:
            handle.remove()
        for hook in inputs:
            hook.recording, hook.last = False, None
    return found


@torch.no_grad()
def count_products(layer: nn.Module, x: Tensor, active: Tensor | None = None, terms: int = 1) -> SpeedUp:
    """Count the products of one forward of a convolution or linear layer.

    Args:
        layer: The layer, ternary or float (a float weight is one digit).
        x: Its quantized input.
        active: Non-zero digits of every element of ``x``; None counts one for each that is not zero.
        terms: Digits of an activation.
    """
    weight = effective_weight(layer)
    nonzero = (weight != 0).float()
    if isinstance(layer, TernaryLayer):
        codes = layer.ternary().codes
        digits, count = (codes != 0).sum(0).float(), codes.shape[0]
    else:
        digits, count = nonzero, 1
    active = (x != 0) if active is None else active
    macs = _products(layer, torch.ones_like(x, dtype=torch.float32), torch.ones_like(nonzero))
    words = _products(layer, (x != 0).float(), nonzero)
    return SpeedUp(macs, words, macs * count * terms, _products(layer, active.float(), digits))


def _products(layer: nn.Module, x: Tensor, weight: Tensor) -> int:
    """Sum of all products of one forward; counts stay below 2**24 per output and so are exact."""
    if weight.ndim == 2:
        return int(F.linear(x, weight if channel_axis(layer) == 0 else weight.T).double().sum())
    if getattr(layer, "transposed", False):
        name = f"conv_transpose{weight.ndim - 2}d"
        options = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        return int(getattr(F, name)(x, weight, None, *options).double().sum())
    return int(layer._conv_forward(x, weight, None).double().sum())  # type: ignore[operator]
