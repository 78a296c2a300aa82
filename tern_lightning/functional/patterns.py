"""Which weights to prune: by magnitude alone, N of every M, whole groups, or digits of several terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tern_lightning.products import as_factor
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.near import check_share

Group = tuple[int, int]


def group_norms(weight: Tensor, group: Group, channel_axis: int = 0, kernel: bool = True) -> Tensor:
    """L2 norm of every group of ``group[0]`` output channels by ``group[1]`` input channels.

    Args:
        weight: Float weight with at least two axes. The input channels are the other one of its first two axes.
        group: Output and input channels of a group, both >= 1; groups at the ends of the axes may be smaller.
        channel_axis: Axis of the output channels, 0 or 1.
        kernel: Whether a group spans the whole kernel; otherwise every kernel position has groups of its own.

    Returns:
        ``[groups of outputs, groups of inputs, positions]``; positions is 1 where a group spans the kernel.

    Raises:
        ValueError: The weight or the group does not fit.

    Example:
        >>> import torch
        >>> group_norms(torch.tensor([[3.0, 0.0, 1.0], [0.0, 4.0, 0.0]]), (2, 2))[..., 0]
        tensor([[5., 1.]])
    """
    return group_sums(weight.square(), group, channel_axis, kernel).sqrt()


def group_sums(values: Tensor, group: Group, channel_axis: int = 0, kernel: bool = True) -> Tensor:
    """Sum over every group, of and shaped as :func:`group_norms` has them."""
    return _tiles(values, group, channel_axis, kernel).sum((1, 3))


def group_sizes(shape: Sequence[int], group: Group, channel_axis: int = 0, kernel: bool = True) -> Tensor:
    """Number of weights of every group, shaped as :func:`group_norms` returns them."""
    return group_sums(torch.ones(tuple(shape)), group, channel_axis, kernel)


def expand_groups(
    values: Tensor, shape: Sequence[int], group: Group, channel_axis: int = 0, kernel: bool = True
) -> Tensor:
    """Give every weight the value of its group: the inverse direction of :func:`group_norms`, shape ``shape``."""
    moved = torch.empty(tuple(shape), device="meta").movedim(channel_axis, 0).shape
    outputs, inputs, rest = moved[0], moved[1], moved[2:]
    spread = values.repeat_interleave(group[0], 0)[:outputs].repeat_interleave(group[1], 1)[:, :inputs]
    spread = spread.expand(outputs, inputs, rest.numel()).reshape(moved)
    return spread.movedim(0, channel_axis).contiguous()


def zero_share(weight: Tensor, group: int = 1, channel_axis: int = 0) -> float:
    """Share of a weight's elements that are zero together with those of their group, in [0, 1].

    Args:
        weight: Any weight of two axes or more; of any axes with a group of 1.
        group: How many neighboring output channels have to be zero at one place.
        channel_axis: Axis of the output channels, 0 or 1.

    Example:
        >>> import torch
        >>> zero_share(torch.tensor([[0.0, 1.0], [0.0, 0.0]])), zero_share(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), 2)
        (0.75, 0.5)
    """
    zero = weight.detach() == 0
    if group == 1:
        return float(zero.float().mean())
    how = ((group, 1), channel_axis, False)
    whole = group_norms((~zero).float(), *how) == 0
    return float((group_sizes(weight.shape, *how).to(weight.device) * whole).sum() / weight.numel())


def _tiles(weight: Tensor, group: Group, channel_axis: int, kernel: bool) -> Tensor:
    """View a weight as ``[groups of outputs, in group, groups of inputs, in group, positions]``, padded with zeros.

    Padding and reshaping instead of scattering: the sums over groups are the same on every device and process.
    """
    if weight.ndim < 2 or channel_axis not in (0, 1):
        raise ValueError(
            f"groups need a weight with output and input channels first, got shape {tuple(weight.shape)} with "
            f"channel_axis {channel_axis}"
        )
    if min(group) < 1:
        raise ValueError(f"group must be two sizes >= 1, got {group}")
    rows = weight.movedim(channel_axis, 0).flatten(2) if weight.ndim > 2 else weight.movedim(channel_axis, 0)[..., None]
    outputs, inputs, positions = rows.shape
    padding = (0, 0, 0, -inputs % group[1], 0, -outputs % group[0])
    rows = torch.nn.functional.pad(rows, padding)
    tiles = rows.reshape(rows.shape[0] // group[0], group[0], rows.shape[1] // group[1], group[1], positions)
    return tiles.sum(4, keepdim=True) if kernel else tiles


def smallest(scores: Sequence[Tensor], sizes: Sequence[Tensor], count: int) -> list[Tensor]:
    """Choose the items with the smallest scores until they have ``count`` weights.

    Args:
        scores: One tensor per layer; ties are broken by position, so that every process chooses the same.
        sizes: Weights of every item, integers in the shapes of ``scores``.
        count: How many weights to choose; the last item that does not fit any more is not chosen.

    Returns:
        bool, True for the chosen items, in the shapes of ``scores``.
    """
    device = scores[0].device
    flat = torch.cat([score.detach().flatten().to(device, torch.float32) for score in scores])
    weights = torch.cat([size.flatten().to(device, torch.int64) for size in sizes])
    order = torch.argsort(flat, stable=True)
    chosen = torch.empty_like(flat, dtype=torch.bool)
    chosen[order] = weights[order].cumsum(0) <= count
    parts = chosen.split([score.numel() for score in scores])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def keep_largest(
    weights: Sequence[Tensor],
    amount: float,
    kept: Sequence[Tensor | None] | None = None,
    groups: Sequence[tuple[Group, int, bool]] | None = None,
) -> list[Tensor]:
    """Prune a share of several weights together, the smallest magnitudes first.

    Learning both Weights and Connections for Efficient Neural Networks (2015), with the threshold set by the share.
    Groups count by their root mean square.

    Args:
        weights: The weights that are compared, of any shapes.
        amount: Share of all of them to prune, in [0, 1].
        kept: What is still kept, bool or None for everything; what is pruned stays pruned and counts.
        groups: For every weight its :func:`group_norms` arguments ``(group, channel_axis, kernel)``, to prune whole
            groups; None prunes single weights.

    Returns:
        bool, True where a weight is kept, one per weight.

    Raises:
        ValueError: ``amount`` is not in [0, 1].

    Example:
        >>> import torch
        >>> keep_largest([torch.tensor([[1.0, -3.0, 0.1, 2.0]])], 0.5)
        [tensor([[False,  True, False,  True]])]
    """
    check_share("amount", amount)
    kept = [None] * len(weights) if kept is None else kept
    total = sum(weight.numel() for weight in weights)
    count = round(amount * total)
    masked = [w.detach().abs() if k is None else w.detach().abs() * k for w, k in zip(weights, kept, strict=True)]
    if groups is None:
        # Pruned weights come before kept weights that happen to be zero.
        scores = [m if k is None else torch.where(k, m, -torch.ones_like(m)) for m, k in zip(masked, kept, strict=True)]
        chosen = smallest(scores, [torch.ones_like(s, dtype=torch.int64) for s in scores], count)
        return [~c if k is None else ~c & k for c, k in zip(chosen, kept, strict=True)]
    sizes = [group_sizes(w.shape, *how).to(w.device) for w, how in zip(weights, groups, strict=True)]
    scores = [group_norms(m, *how) / size.sqrt() for m, how, size in zip(masked, groups, sizes, strict=True)]
    chosen = smallest(scores, sizes, count)
    found = [~expand_groups(c, w.shape, *how) for c, w, how in zip(chosen, weights, groups, strict=True)]
    return [f if k is None else f & k for f, k in zip(found, kept, strict=True)]


def digit_sizes(weight: Tensor, ternary: TernaryTensor) -> Tensor:
    """What every digit of a weight of several terms was made from, ``[terms, *weight.shape]``: magnitudes of residuals.

    The first term's are those of the weight itself.
    """
    before = torch.zeros_like(weight)
    sizes = []
    for t in range(ternary.terms):
        sizes.append((weight.detach() - before).abs())
        level = ternary.positive[t : t + 1], ternary.negative[t : t + 1]
        before = before + TernaryTensor(ternary.codes[t : t + 1], *level, ternary.channel_axis).dequantize().detach()
    return torch.stack(sizes)


def keep_digits(sizes: Sequence[Tensor], amount: float, limits: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Prune a share of the digits of several weights together: those of the last term before those of the first.

    The digits of a residual level are worth less than those of the levels before it, and a level with few digits left
    saves work bit by bit. Within a term the smallest residuals come first.

    Args:
        sizes: For every weight ``[terms, *shape]``, see :func:`digit_sizes`; one of a single term takes part as the
            first.
        amount: Share of all digits to prune, in [0, 1].
        limits: How many terms every weight still has, int8; pruned digits stay pruned and count. None for all.

    Returns:
        How many terms, from the first on, every weight keeps, int8 in the shapes of the weights.

    Raises:
        ValueError: ``amount`` is not in [0, 1].

    Example:
        >>> import torch
        >>> sizes = torch.tensor([[[5.0, 1.0, 4.0]], [[0.5, 0.9, 0.1]]])
        >>> [keep_digits([sizes], amount)[0].tolist() for amount in (0.2, 0.5, 0.7)]
        [[[2, 2, 1]], [[1, 1, 1]], [[1, 0, 1]]]
    """
    check_share("amount", amount)
    found = [torch.full_like(size[0], len(size), dtype=torch.int8) for size in sizes]
    if limits is not None:
        found = [torch.minimum(own, limit.to(own)) for own, limit in zip(found, limits, strict=True)]
    pruned = sum(size.numel() - int(own.sum()) for size, own in zip(sizes, found, strict=True))
    left = round(amount * sum(size.numel() for size in sizes)) - pruned
    for term in reversed(range(max(len(size) for size in sizes))):
        there = [i for i, size in enumerate(sizes) if len(size) > term]
        kept = [found[i] > term for i in there]
        gone = sum(int((~keep).sum()) for keep in kept)
        # Pruned digits come first and are paid for already.
        scores = [torch.where(keep, sizes[i][term], -1.0) for i, keep in zip(there, kept, strict=True)]
        count = max(left, 0) + gone
        chosen = smallest(scores, [torch.ones_like(score, dtype=torch.int64) for score in scores], count)
        for i, cut in zip(there, chosen, strict=True):
            found[i] = torch.where(cut, found[i].clamp_max(term), found[i])
        left -= min(max(left, 0), sum(keep.numel() for keep in kept) - gone)
    return found


def _all_but_smallest(size: Tensor, m: int, axis: int) -> Tensor:
    """Keep all but the smallest of every ``m`` along ``axis``, of equal ones all but the last; no sorting."""
    length = size.shape[axis]
    padding = [0, 0] * (size.ndim - 1 - axis) + [0, -length % m]
    groups = torch.nn.functional.pad(size, padding, value=-2.0).unflatten(axis, (-1, m))
    least = groups.select(axis + 1, 0)
    index = torch.zeros_like(least, dtype=torch.int8)
    for position in range(1, m):
        here = groups.select(axis + 1, position)
        index = torch.maximum(index, as_factor(here <= least) * position)
        least = torch.minimum(least, here)
    positions = torch.arange(m, dtype=torch.int8, device=size.device).reshape(-1, *[1] * (size.ndim - 1 - axis))
    chosen = index.unsqueeze(axis + 1) != positions
    return chosen.flatten(axis, axis + 1).narrow(axis, 0, length).contiguous()


def keep_n_of_m(weight: Tensor, n: int, m: int, channel_axis: int = 0, kept: Tensor | None = None) -> Tensor:
    """Keep the ``n`` largest magnitudes of every ``m`` weights that follow each other along the input channels.

    Accelerating Sparse Deep Neural Networks (2021) describes 2 of 4. Weights of one output channel and
    one kernel position are grouped; the last group of an axis may be smaller and then keeps at most ``n``.

    Args:
        weight: Float weight with at least two axes.
        n: Weights to keep, 0 to ``m``.
        m: Size of a group, >= 1.
        channel_axis: Axis of the output channels, 0 or 1; the input channels are the other one.
        kept: What is still kept; pruned weights stay pruned.

    Raises:
        ValueError: ``n`` or ``m`` is out of range.

    Example:
        >>> import torch
        >>> keep_n_of_m(torch.tensor([[1.0, -3.0, 0.1, 2.0, 5.0, 0.2]]), 2, 4)
        tensor([[False,  True, False,  True,  True,  True]])
    """
    if m < 1 or not 0 <= n <= m:
        raise ValueError(f"a pattern n:m needs 0 <= n <= m and m >= 1, got {n}:{m}")
    size = weight.detach().abs()
    if kept is not None:
        size = torch.where(kept, size, -torch.ones_like(size))
    if n == m - 1:
        chosen = _all_but_smallest(size, m, 1 - channel_axis)
        return chosen if kept is None else chosen & kept
    rows = size.movedim(1 - channel_axis, -1)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[-1] % m), value=-2.0)
    order = torch.argsort(padded.unflatten(-1, (-1, m)), dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    chosen = chosen.flatten(-2)[..., : rows.shape[-1]].movedim(-1, 1 - channel_axis)
    return chosen.contiguous() if kept is None else chosen & kept
