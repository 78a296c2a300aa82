"""Additions and multiplications of layers with zero weights left out, and the score of the MicroNet challenge."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import meant

REFERENCES: dict[str, tuple[float, float]] = {"imagenet": (6.9e6, 1170e6), "cifar100": (36.5e6, 10.49e9)}
"""Parameters and operations that the challenge divides by: MobileNetV2-1.4 and WRN-28-10."""


@dataclass(frozen=True)
class OperationCount:
    """Operations of one forward of one sample.

    Attributes:
        adds: Number of additions, >= 0.
        multiplies: Number of multiplications, >= 0.
    """

    adds: int = 0
    multiplies: int = 0

    @property
    def total(self) -> int:
        """Additions and multiplications together."""
        return self.adds + self.multiplies

    def __add__(self, other: OperationCount) -> OperationCount:
        return OperationCount(self.adds + other.adds, self.multiplies + other.multiplies)


def count_operations(
    weight: TernaryTensor | Tensor, positions: int, bias: bool = False, channel_axis: int = 0
) -> OperationCount:
    """Count the operations of a convolution or linear layer.

    Zero weights and output channels without a weight cost nothing. An output of a float weight with k non-zero values
    costs k multiplications and k - 1 additions. An output of a ternary term costs k - 1 additions and one
    multiplication for every level that it uses (one where both signs share it); further terms are added up. Padding
    counts like other inputs.

    Args:
        weight: The weight; a float weight may have zeros.
        positions: Positions of the output per channel and sample, for example height times width; 1 for a linear layer
            on a vector. For a transposed convolution those of the input.
        bias: Whether every output with a weight adds a bias.
        channel_axis: Axis of the output channels of a float weight.

    Example:
        >>> import torch
        >>> count_operations(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]), 10)
        OperationCount(adds=10, multiplies=20)
    """
    if isinstance(weight, Tensor):
        live = _per_output(weight != 0, channel_axis)
        outputs = int((live > 0).sum())
        adds = int(live.sum()) - outputs + bias * outputs
        return OperationCount(positions * adds, positions * int(live.sum()))
    adds = multiplies = 0
    used = torch.zeros(weight.channels, dtype=torch.bool, device=weight.codes.device)
    for term, positive, negative in zip(weight.codes, weight.positive, weight.negative, strict=True):
        plus, minus = (_per_output(sign, weight.channel_axis) for sign in (term > 0, term < 0))
        live = plus + minus > 0
        shared = (positive == negative).expand(weight.channels)
        levels = torch.where(shared, live.long(), (plus > 0).long() + (minus > 0).long())
        # The first term of an output is there for nothing, every further one is added to it.
        adds += int((plus + minus).sum()) - int((live & ~used).sum())
        multiplies += int(levels.sum())
        used |= live
    return OperationCount(positions * (adds + bias * int(used.sum())), positions * multiplies)


def _per_output(flags: Tensor, axis: int) -> Tensor:
    return flags.movedim(axis, 0).flatten(1).sum(1)


def tree_adder(summands: int, bits: int = 16) -> float:
    """Cost of adding numbers up in a tree whose words grow, in operations of 32 bits.

    Pairs are added in words of ``bits`` bits, pairs of the sums in words of one bit more, and so on up to 32, as the
    rules of the MicroNet challenge (NeurIPS 2019) allow.

    Example:
        >>> tree_adder(4, 16)
        1.5312...
    """
    total = 0.0
    while summands > 1:
        total += (summands // 2) * bits / 32
        summands, bits = summands - summands // 2, min(bits + 1, 32)
    return total


def counted_parameters(ternary: TernaryTensor, level_bits: int = 16) -> float:
    """Parameters of a ternary weight by the rules of the MicroNet challenge: stored bits over 32.

    A bit for every weight that says whether it is zero, a sign bit for every other one, and the levels; output and
    input channels without a weight are left out.
    """
    bits = 0
    for term in ternary.codes:
        rows = (term != 0).movedim(ternary.channel_axis, 0)
        outputs, inputs = rows.flatten(1).any(1), rows.movedim(1, 0).flatten(1).any(1)
        kept = int(outputs.sum()) * int(inputs.sum()) * (rows[0, 0].numel() if rows.ndim > 2 else 1)
        bits += kept + int(rows.sum())
    levels = ternary.positive.numel() * (1 if ternary.is_symmetric else 2)
    return (bits + level_bits * levels) / 32


def micronet_score(parameters: float, operations: float, reference: str = "cifar100") -> float:
    """Score of the MicroNet challenge (NeurIPS 2019), lower is better.

    Args:
        parameters: Parameters in units of 32 bits; see :func:`counted_parameters`.
        operations: Operations in units of 32 bits.
        reference: ``imagenet`` or ``cifar100``.

    Raises:
        ValueError: The reference is not known.
    """
    if reference not in REFERENCES:
        hint = meant(reference, REFERENCES)
        raise ValueError(f"reference must be one of {sorted(REFERENCES)}, got {reference!r}{hint}")
    by_parameters, by_operations = REFERENCES[reference]
    return parameters / by_parameters + operations / by_operations
