"""Codes that depend on a weight's magnitude alone: bounds, and the digits between them.

Such codes are fitted without being written down: what least squares need of a large weight is how many magnitudes are
above every bound, and their sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tern_lightning.functional.blocks import blocks, joined, one_block, scratch
from tern_lightning.functional.frozen import pseudoinverse
from tern_lightning.functional.spare import SpareMemory
from tern_lightning.products import as_factor

_MOST = 1 << 24
"""Elements of the largest weight whose magnitudes stay in memory from one step of training to the next."""


@dataclass(frozen=True)
class Steps:
    """Codes of several terms as functions of the magnitude, for every row.

    Attributes:
        bounds: float32 ``[K, C]``, ascending; a magnitude has passed a bound when it is greater.
        digits: float32 ``[terms, K + 1, C]``, those of a positive weight that has passed so many bounds. The first are
            zero, so that zero weights have no code.
    """

    bounds: Tensor
    digits: Tensor

    def levels(self, size: Tensor) -> Tensor:
        """Levels ``[terms, C]`` of least squares for magnitudes ``[C, n]``; see :func:`fit`."""
        return fit(self.digits[:, 1:], between(above(size, self.bounds)))

    def sorted(self, levels: Tensor) -> tuple[Steps, Tensor]:
        """The same weights with positive levels that fall from term to term."""
        turned = self.digits * torch.where(levels < 0, -1.0, 1.0)[:, None]
        levels, order = torch.sort(levels.abs(), dim=0, descending=True, stable=True)
        return replace(self, digits=turned.gather(0, order[:, None].expand_as(turned))), levels

    def codes(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """Codes int8 ``[terms, C, n]`` of a weight ``[C, n]`` that has these magnitudes."""
        found = torch.empty(len(self.digits), *rows.shape, dtype=torch.int8, device=rows.device)
        rise = self.digits.diff(dim=1).flatten(0, 1)
        for block, size, *cut in blocks(rows, sizes, *found, *self.bounds[..., None], *rise[..., None]):
            outs, bounds, rises = _parts(cut, len(found), len(self.bounds))
            passed = scratch(block)
            codes = [scratch(block, 1 + term).zero_() for term in range(len(outs))]
            for index, bound in enumerate(bounds):
                torch.gt(size, bound, out=passed)
                for term, code in enumerate(codes):
                    code.addcmul_(passed, rises[term * len(bounds) + index])
            sign = torch.sign(block, out=passed)
            for out, code in zip(outs, codes, strict=True):
                out.copy_(code.mul_(sign))
        return found

    def values(self, rows: Tensor, sizes: Tensor, levels: Tensor, spare: SpareMemory | None = None) -> Tensor:
        """The sums of the codes times levels ``[terms, C]``, float32 ``[C, n]``, in memory of ``spare``."""
        found = torch.empty_like(rows) if spare is None else spare.empty_like(rows)
        # Added up in the order of TernaryTensor.dequantize, so that the values are equal to the last bit.
        # In a run in double precision that is the default type, in which the digits are.
        first, *others = self.digits[:, 1:].to(rows.dtype)
        table = first * levels[0]
        for digits, level in zip(others, levels[1:], strict=True):
            table = table + digits * level
        for block, size, total, *cut in blocks(rows, sizes, found, *self.bounds[..., None], *table[..., None]):
            bounds, sums = cut[: len(table)], cut[len(table) :]
            passed = scratch(block)
            torch.gt(size, bounds[0], out=total).mul_(sums[0])
            for bound, value in zip(bounds[1:], sums[1:], strict=True):
                # One of the two, exactly, and several times as fast as torch.where.
                total.lerp_(value, torch.gt(size, bound, out=passed))
            total.copysign_(block)
        return found


def magnitudes(weight: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A weight ``[C, n]``, zero where a mask has False, and its magnitudes.

    What is not the weight itself is in memory that the next call uses as well.
    """
    if mask is not None:
        weight = scratch(weight, -2, _MOST).copy_(as_factor(mask)).mul_(weight)
    return weight, torch.abs(weight, out=scratch(weight, -1, _MOST))


def shaped(found: Tensor, weight: Tensor, channel_axis: int, per_channel: bool) -> Tensor:
    """What was computed as ``[..., C, n]`` in the shape of a weight, ``[..., *weight.shape]``."""
    front = found.ndim - 2
    if not per_channel:
        return found.reshape(*found.shape[:front], *weight.shape)
    moved = found.reshape(*found.shape[:front], *weight.movedim(channel_axis, 0).shape)
    return moved.movedim(front, channel_axis + front)


def above(size: Tensor, bounds: Tensor) -> Tensor:
    """Counts of magnitudes ``[C, n]`` above each of ``bounds`` ``[K, C]`` and their sums, float64 ``[2, K, C]``."""
    if one_block(len(bounds) * size.numel()):
        # All bounds of a small weight at once, because there every operation costs more than what it does.
        passed = torch.gt(size, bounds[..., None], out=size.new_empty(len(bounds), *size.shape))
        return torch.stack([passed.sum(2), passed.mul_(size).sum(2)]).double()
    parts = []
    for block, *cut in blocks(size, *bounds[..., None]):
        work, found = scratch(block), list[Tensor]()
        for bound in cut:
            # Comparisons are several times as fast into floats as into flags.
            count = torch.gt(block, bound, out=work).sum(1)
            found += [count, work.mul_(block).sum(1)]
        parts.append(torch.stack(found).double())
    return joined(parts, len(size)).unflatten(0, (-1, 2)).transpose(0, 1)


def between(tails: Tensor) -> Tensor:
    """What :func:`above` finds for ascending bounds, as that from each bound to the next, and above the last."""
    inside = tails.clone()
    inside[:, :-1].sub_(tails[:, 1:])
    return inside


def fit(digits: Tensor, inside: Tensor) -> Tensor:
    """Least-squares levels ``[terms, C]``; where a term is empty or repeats another, of least norm.

    Args:
        digits: ``[terms, K, C]``, of the weights between two bounds.
        inside: How many they are, and the sums of their magnitudes, float64 ``[2, K, C]``.
    """
    # Every operation costs some microseconds for every layer in every step, however small its numbers are.
    basis, (counts, sums) = digits.double().permute(2, 0, 1), inside.mT[:, :, None]
    gram, right = torch.bmm(torch.cat([basis * counts, sums], 1), basis.mT).split((len(digits), 1), 1)
    levels = torch.bmm(right, pseudoinverse(gram)).squeeze(1)
    return levels.masked_fill(gram.diagonal(dim1=1, dim2=2) == 0, 1.0).float().T


def nearest(levels: Tensor) -> Steps:
    """The codes whose sum of levels ``[terms, C]`` is nearest to a weight."""
    # A sum's negative is a sum as well: zero, and the positive one of every pair, serve both signs. Of equal sums the
    # one with most zeros comes first.
    every = list(itertools.product((-1, 0, 1), repeat=len(levels)))
    digits = torch.tensor(sorted(every[len(every) // 2 :], key=_size), dtype=levels.dtype, device=levels.device)
    signed = digits @ levels
    sums, order = torch.sort(signed.abs(), dim=0, stable=True)
    # [terms, sums, C]: the digits of every sum, in the order of the sums of a channel.
    table = digits.T[:, order] * torch.where(signed < 0, -1.0, 1.0).gather(0, order)
    return Steps((sums[1:] + sums[:-1]) / 2, table)


def residual(rows: Tensor, count: Tensor, terms: int, factor: float) -> tuple[Steps, Tensor]:
    """Codes of successive residuals of magnitudes ``[C, n]``, ``count`` of them not pruned, and least-squares levels.

    Between two bounds a residual is the magnitude less an offset, so that it is beyond a threshold where the magnitude
    is beyond another bound, and sums of it are sums of magnitudes.
    """
    start = torch.stack([count, rows.sum(1)]).double()
    # The first residual is the magnitude, and has no negative values.
    threshold = (factor * start[1] / count).to(rows.dtype)
    bounds = torch.stack([torch.zeros_like(threshold), threshold])
    tails = torch.cat([start[:, None], above(rows, bounds[1:])], 1)
    offsets = torch.stack([bounds[0], (tails[1, 1] / tails[0, 1].clamp_min(1)).to(rows.dtype)])
    digits = [[0], [1]]
    for term in range(1, terms):
        size = len(bounds)
        ends = torch.cat([bounds[1:], torch.full_like(bounds[:1], torch.inf)])
        # The mean magnitude of the residual: of what is above the offset, less that of what is below.
        inner = torch.cat([tails[:, :1], above(rows, offsets.clamp(bounds, ends)[1:])], 1)
        apart = 2 * (inner - tails) + between(tails)
        threshold = (factor * (apart[1] - offsets * apart[0]).sum(0) / count).to(rows.dtype)
        # Every interval becomes three: digits -1, 0 and 1; the first one has no negative residuals.
        low = torch.nextafter(offsets - threshold, torch.full_like(offsets, -1.0))
        new = torch.cat([(offsets + threshold).clamp(bounds, ends), low.clamp(bounds, ends)[1:]])
        order = torch.tensor([0, size, *(n for i in range(1, size) for n in (i, 2 * size + i - 1, size + i))])
        parents = [0, 0, *(one for one in range(1, size) for _ in range(3))]
        order = order.to(rows.device)
        tails = torch.cat([tails, above(rows, new)], 1)[:, order]
        bounds = torch.cat([bounds, new])[order]
        signs = [0, 1, *[-1, 0, 1] * (size - 1)]
        digits = [[*digits[parent], sign] for parent, sign in zip(parents, signs, strict=True)]
        if term < terms - 1:
            sign = torch.tensor(signs, device=rows.device, dtype=torch.float64)[:, None]
            offsets = offsets[parents]
            own_counts, own_sums = between(tails)
            chosen = (sign.abs() * own_counts).sum(0).clamp_min(1)
            level = (sign * (own_sums - offsets * own_counts)).sum(0) / chosen
            offsets = (offsets + sign * level).to(rows.dtype)
    table = torch.tensor(digits, device=rows.device, dtype=torch.float32).T[..., None].expand(-1, -1, len(rows))
    found = Steps(bounds[1:], table)
    return found, fit(table[:, 1:], between(tails[:, 1:]))


def _size(digits: Sequence[int]) -> int:
    return sum(map(abs, digits))


def _parts(cut: Sequence[Tensor], first: int, second: int) -> tuple[Sequence[Tensor], ...]:
    return cut[:first], cut[first : first + second], cut[first + second :]
