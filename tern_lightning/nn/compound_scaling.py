"""Larger networks from trained ones: compound scaling of width and depth, and a search at a fixed cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from tern_lightning.nn.operations import module_operations
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import check_choice

DEPTHS = (1.0, 1.2, 1.4, 1.6, 1.7, 1.9)
"""Depth factors of EC2T's grid, whose width factors 1.4, 1.3, 1.2, 1.1, 1.1, 1.0 double the operations."""
_LEADING = (nn.Linear, _ConvNd, _NormBase, nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.PReLU)
M = TypeVar("M", bound=nn.Module)


def scale_channels(channels: int, width: float, multiple: int = 8) -> int:
    """Channels of a layer at a width factor, rounded up to a multiple, as in EC2T (2020).

    Example:
        >>> [scale_channels(16, width) for width in (1.0, 1.2, 2.0)]
        [16, 24, 32]
    """
    return max(multiple, multiple * math.ceil(channels * width / multiple - 1e-9))


def scale_blocks(blocks: int, depth: float) -> int:
    """Blocks of a stage at a depth factor, rounded up (EfficientNet, 2019; EC2T, 2020).

    Example:
        >>> [scale_blocks(7, depth) for depth in (1.0, 1.2, 2.0)]
        [7, 9, 14]
    """
    return max(1, math.ceil(blocks * depth - 1e-9))


def compound(width: float, depth: float, phi: float) -> tuple[float, float]:
    r"""Width and depth factors of a compound scaling, :math:`w = \beta^\phi` and :math:`d = \alpha^\phi`.

    EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks (2019), equation 3. Where one step doubles
    the operations, :math:`\alpha \beta^2 \approx 2`, this one multiplies them by about :math:`2^\phi`. EC2T (2020)
    takes :math:`\beta = 1.2`, :math:`\alpha = 1.4`, :math:`\phi = 3.5`. The third factor, the image's size, is the
    data's.

    Example:
        >>> [round(factor, 2) for factor in compound(1.2, 1.4, 3.5)]
        [1.89, 3.25]
    """
    return width**phi, depth**phi


@dataclass(frozen=True)
class Inheritance:
    """What a network took over from another; paths of parameters and buffers.

    Attributes:
        whole: Taken over as they were.
        part: Taken over in their leading channels.
        new: Kept as the constructor made them.
        share: Share of the network's parameter values that were taken over, in [0, 1].
    """

    whole: tuple[str, ...]
    part: tuple[str, ...]
    new: tuple[str, ...]
    share: float


@torch.no_grad()
def inherit(network: nn.Module, trained: nn.Module) -> Inheritance:
    """Copy the values of a trained network into a wider, deeper, narrower or shallower one, where they fit.

    Parameters and running statistics are matched by name. Where output or input channels differ, the leading ones are
    copied; this is for convolutions, linear layers (also after a flattened ``[C, H, W]``), normalizations and
    embeddings. Everything else that differs in shape, layers with other groups (unless depthwise) or another kernel,
    and layers that the trained network does not have, keep the values that the constructor gave them. So added channels
    and blocks start from the network's own initialization: the network does not compute what the trained one does and
    is to be trained. Leading channels keep their meaning as long as the network keeps the order of channels.

    Args:
        network: Network that is changed.
        trained: Network of the same family; of ternary layers the latent weights are taken.

    Raises:
        ValueError: Nothing fits.
    """
    modules = dict(trained.named_modules())
    whole: list[str] = []
    part: list[str] = []
    new: list[str] = []
    taken = total = 0
    for path, module in network.named_modules():
        other = modules.get(path)
        for kind in ("_parameters", "_buffers"):
            for name, own in getattr(module, kind).items():
                if own is None:
                    continue
                source = None if other is None else getattr(other, kind).get(name)
                size = 0 if source is None or other is None else _copy(module, own, other, source)
                (new if not size else whole if size == own.numel() else part).append(f"{path}.{name}".lstrip("."))
                if kind == "_parameters":
                    taken, total = taken + size, total + own.numel()
    if not taken:
        raise ValueError(
            f"no parameter of trained ({type(trained).__name__}) fits one of the network ({type(network).__name__}); "
            f"the names are {[n for n, _ in trained.named_parameters()][:3]} and "
            f"{[n for n, _ in network.named_parameters()][:3]}. HINT: both must come from the same constructor"
        )
    return Inheritance(tuple(whole), tuple(part), tuple(new), taken / total)


def _copy(module: nn.Module, own: Tensor, other: nn.Module, source: Tensor) -> int:
    """Copy what fits and return the number of values."""
    if own.shape != source.shape:
        fits = isinstance(module, _LEADING) and isinstance(other, _LEADING) and own.ndim == source.ndim
        if not fits or own.shape[2:] != source.shape[2:]:
            return 0
    if _groups(module) != _groups(other):
        return 0
    place = tuple(slice(min(a, b)) for a, b in zip(own.shape, source.shape, strict=True))
    own[place] = source[place].to(own)
    return own[place].numel()


def _groups(module: nn.Module) -> int:
    """Groups of a convolution; 0 where each channel is a group of its own, 1 where there are none."""
    groups = getattr(module, "groups", 1)
    return 0 if groups > 1 and groups == getattr(module, "in_channels", None) else groups


@check_arguments
def scale_network(
    make: Callable[[float, float], M], trained: nn.Module, width: float, depth: float, phi: float = 1.0
) -> M:
    r"""Build a network scaled in width and depth, with the weights of a trained one where they fit.

    Compound scaling, :func:`compound`, followed by :func:`inherit`: the first step of Learning Sparse & Ternary Neural
    Networks with Entropy-Constrained Trained Ternarization (EC2T) (2020), whose second is to ternarize the larger
    network into one that is smaller than the first.

    Args:
        make: Builds the network for a width and a depth factor, for example with :func:`scale_channels` and
            :func:`scale_blocks`; ``make(1.0, 1.0)`` is the network of ``trained``.
        trained: The trained network.
        width: Factor of the channels, > 0.
        depth: Factor of the blocks, > 0.
        phi: Exponent of both.

    Raises:
        ValueError: A factor is not positive, or no weight fits.

    Example:
        >>> def make(width: float, depth: float) -> nn.Module:
        ...     channels = scale_channels(8, width)
        ...     return nn.Sequential(nn.Conv2d(3, channels, 3), *(nn.Conv2d(channels, channels, 3) for _ in range(2)))
        >>> trained = make(1.0, 1.0)
        >>> larger = scale_network(make, trained, width=2.0, depth=1.0)
        >>> larger[1].weight.shape, torch.equal(larger[1].weight[:8, :8], trained[1].weight)
        (torch.Size([16, 16, 3, 3]), True)
    """
    for name, value in (("width", width), ("depth", depth)):
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")
    network = make(*compound(width, depth, phi))
    inherit(network, trained)
    return network


@dataclass(frozen=True)
class Candidate:
    """A scaling at the cost of a search.

    Attributes:
        width: Factor of the channels.
        depth: Factor of the blocks.
        cost: Multiplications of one sample, or parameters.
        score: What ``evaluate`` said; NaN before.
    """

    width: float
    depth: float
    cost: int
    score: float = math.nan


def scaling_candidates(
    make: Callable[[float, float], nn.Module],
    factor: float = 2.0,
    inputs: Sequence[Any] = (),
    cost: Literal["operations", "parameters"] = "operations",
    depths: Sequence[float] = DEPTHS,
    step: float = 0.01,
) -> list[Candidate]:
    """The widest network of every depth that costs at most ``factor`` times what ``make(1.0, 1.0)`` does.

    EC2T (2020) and EfficientNet (2019) choose pairs with ``depth * width**2 = factor``; networks that round channels
    and blocks can be far from it, so that here the cost is counted. Depths that give the same network are one
    candidate, depths for which the thinnest network is too expensive none.

    Args:
        make: See :func:`scale_network`.
        factor: Cost relative to ``make(1.0, 1.0)``, > 0.
        inputs: Arguments of the network's forward, one sample each; for ``operations``.
        cost: ``operations`` (multiplications of one sample) or ``parameters``.
        depths: Depth factors.
        step: Widths are multiples of it, at most ``4 * factor``.

    Raises:
        ValueError: ``cost`` is not known, ``inputs`` are missing, or nothing is cheap enough.
    """
    check_choice("cost", cost, ("operations", "parameters"))
    if cost == "operations" and not inputs:
        raise ValueError("cost='operations' needs inputs, the arguments of the network's forward; got none")
    if not factor > 0 or not step > 0:
        raise ValueError(f"factor and step must be > 0, got {factor} and {step}")

    def price(width: float, depth: float) -> int:
        network = make(width, depth)
        if cost == "parameters":
            return sum(parameter.numel() for parameter in network.parameters())
        return sum(count.multiplies for count in module_operations(network.eval(), *inputs).values())

    budget = factor * price(1.0, 1.0)
    found: dict[tuple[torch.Size, ...], Candidate] = {}
    for depth in depths:
        # The cost does not fall with the width: bisection for the last multiple of step within the budget.
        low, high = 0, math.ceil(4 * factor / step)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if price(middle * step, depth) <= budget else (low, middle)
        if low:
            width = round(low * step, 10)
            shapes = tuple(parameter.shape for parameter in make(width, depth).parameters())
            found.setdefault(shapes, Candidate(width, depth, price(width, depth)))
    if not found:
        raise ValueError(f"no depth of {tuple(depths)} has a network that costs {factor} times make(1.0, 1.0)")
    return list(found.values())


@check_arguments
def search_scaling(
    make: Callable[[float, float], M],
    evaluate: Callable[[M], float],
    trained: nn.Module | None = None,
    factor: float = 2.0,
    inputs: Sequence[Any] = (),
    cost: Literal["operations", "parameters"] = "operations",
    depths: Sequence[float] = DEPTHS,
) -> list[Candidate]:
    """Find the best pair of width and depth at a fixed cost; :func:`scale_network` then goes on from it with ``phi``.

    Args:
        make: See :func:`scale_network`.
        evaluate: Trains a network, usually for a short while, and returns its score; higher is better.
        trained: Where given, every network starts from its weights; see :func:`inherit`.
        factor: See :func:`scaling_candidates`, and so the others.
        inputs: Arguments of the network's forward.
        cost: ``operations`` or ``parameters``.
        depths: Depth factors.

    Returns:
        All candidates, the best first; one whose score is NaN comes last.
    """
    scored = []
    for candidate in scaling_candidates(make, factor, inputs, cost, depths):
        network = make(candidate.width, candidate.depth)
        if trained is not None:
            inherit(network, trained)
        scored.append(replace(candidate, score=float(evaluate(network))))
    return sorted(scored, key=lambda one: -math.inf if math.isnan(one.score) else one.score, reverse=True)
