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

from tern_lightning.functional.blocks import blocks, joined, one_block
from tern_lightning.functional.frozen import pseudoinverse


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

    def levels(self, rows: Tensor) -> Tensor:
        """Levels ``[terms, C]`` of least squares for ``[C, n]``; see :func:`fit`."""
        return fit(self.digits[:, 1:], *between(*above(rows, self.bounds)))

    def sorted(self, levels: Tensor) -> tuple[Steps, Tensor]:
        """The same weights with positive levels that fall from term to term."""
        turned = self.digits * torch.where(levels < 0, -1.0, 1.0)[:, None]
        levels, order = torch.sort(levels.abs(), dim=0, descending=True, stable=True)
        return replace(self, digits=turned.gather(0, order[:, None].expand_as(turned))), levels

    def codes(self, rows: Tensor) -> Tensor:
        """Codes int8 ``[terms, C, n]``."""
        found = torch.empty(len(self.digits), *rows.shape, dtype=torch.int8, device=rows.device)
        rise = self.digits.diff(dim=1).flatten(0, 1)
        for block, *cut in blocks(rows, *found, *self.bounds[..., None], *rise[..., None]):
            outs, bounds, rises = _parts(cut, len(found), len(self.bounds))
            size, sign = block.abs(), block.sign()
            codes = [torch.zeros_like(size) for _ in outs]
            for index, bound in enumerate(bounds):
                passed = torch.gt(size, bound, out=torch.empty_like(size))
                for term, code in enumerate(codes):
                    code.addcmul_(passed, rises[term * len(bounds) + index])
            for out, code in zip(outs, codes, strict=True):
                out.copy_(code.mul_(sign))
        return found

    def values(self, rows: Tensor, levels: Tensor) -> Tensor:
        """The sums of the codes times levels ``[terms, C]``, float32 ``[C, n]``."""
        found = torch.empty_like(rows)
        # Added up in the order of TernaryTensor.dequantize, so that the values are equal to the last bit.
        # In a run in double precision that is the default type, in which the digits are.
        first, *others = self.digits[:, 1:].to(rows.dtype)
        table = first * levels[0]
        for digits, level in zip(others, levels[1:], strict=True):
            table = table + digits * level
        for block, total, *cut in blocks(rows, found, *self.bounds[..., None], *table[..., None]):
            bounds, sums = cut[: len(table)], cut[len(table) :]
            size = block.abs()
            passed = torch.empty_like(size)
            torch.gt(size, bounds[0], out=total).mul_(sums[0])
            for bound, value in zip(bounds[1:], sums[1:], strict=True):
                # One of the two, exactly, and several times as fast as torch.where.
                total.lerp_(value, torch.gt(size, bound, out=passed))
            total.copysign_(block)
        return found


def above(rows: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """How many magnitudes of ``[C, n]`` are above each of ``bounds`` ``[K, C]``, and their sum, float64 ``[K, C]``."""
    if one_block(len(bounds) * rows.numel()):
        # All bounds of a small weight at once, because there every operation costs more than what it does.
        size = rows.abs()
        passed = torch.gt(size, bounds[..., None], out=size.new_empty(len(bounds), *size.shape))
        return passed.sum(2).double(), passed.mul_(size).sum(2).double()
    parts = []
    for block, *cut in blocks(rows, *bounds[..., None]):
        size = block.abs()
        work, found = torch.empty_like(size), []
        for bound in cut:
            # Comparisons are several times as fast into floats as into flags.
            count = torch.gt(size, bound, out=work).sum(1)
            found += [count, work.mul_(size).sum(1)]
        parts.append(torch.stack(found).double())
    both = joined(parts, len(rows))
    return both[::2], both[1::2]


def between(counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers and sums above ascending bounds as those from each bound to the next, and above the last."""
    last = torch.zeros_like(counts[:1])
    return counts - torch.cat([counts[1:], last]), sums - torch.cat([sums[1:], last])


def fit(digits: Tensor, counts: Tensor, sums: Tensor) -> Tensor:
    """Least-squares levels ``[terms, C]``; where a term is empty or repeats another, of least norm.

    Args:
        digits: ``[terms, K, C]``, of the weights between two bounds.
        counts: How many they are, float64 ``[K, C]``.
        sums: The sums of their magnitudes, float64 ``[K, C]``.
    """
    basis = digits.double().permute(2, 0, 1)
    gram = (basis * counts.T[:, None]) @ basis.mT
    levels = (pseudoinverse(gram) @ (basis @ sums.T[..., None])).squeeze(-1).T
    empty = gram.diagonal(dim1=1, dim2=2).T == 0
    return torch.where(empty, torch.ones_like(levels), levels).float()


def nearest(levels: Tensor) -> Steps:
    """The codes whose sum of levels ``[terms, C]`` is nearest to a weight."""
    # A sum's negative is a sum as well: zero, and the positive one of every pair, serve both signs.
    digits = torch.tensor(list(itertools.product((-1, 0, 1), repeat=len(levels))), device=levels.device)
    digits = digits[len(digits) // 2 :]
    # Of equal sums the one with most zeros.
    digits = digits[(digits != 0).sum(1).argsort(stable=True)].to(levels)
    signed = digits @ levels
    sums, order = torch.sort(signed.abs(), dim=0, stable=True)
    # [terms, sums, C]: the digits of every sum, in the order of the sums of a channel.
    table = digits.T[:, order] * torch.where(signed < 0, -1.0, 1.0).gather(0, order)
    return Steps((sums[1:] + sums[:-1]) / 2, table)


def residual(rows: Tensor, count: Tensor, terms: int, factor: float) -> tuple[Steps, Tensor]:
    """Codes of successive residuals of ``[C, n]``, of which ``count`` are not pruned, and their least-squares levels.

    Between two bounds a residual is the magnitude less an offset, so that it is beyond a threshold where the magnitude
    is beyond another bound, and sums of it are sums of magnitudes.
    """
    total = joined([block.abs().sum(1) for (block,) in blocks(rows)], len(rows))
    bounds = offsets = rows.new_zeros(1, len(rows))
    counts, sums = count[None].double(), total[None].double()
    digits: list[list[int]] = [[]]
    for _ in range(terms):
        ends = torch.cat([bounds[1:], torch.full_like(bounds[:1], torch.inf)])
        # The mean magnitude of the residual: of what is above the offset, and of what is below.
        middle = offsets.clamp(bounds, ends)
        inner = above(rows, middle[1:]) if len(middle) > 1 else (counts[1:], sums[1:])
        inner_counts, inner_sums = torch.cat([counts[:1], inner[0]]), torch.cat([sums[:1], inner[1]])
        outer_counts, outer_sums = between(counts, sums)
        size_above = inner_sums - (sums - outer_sums) - offsets * (inner_counts - (counts - outer_counts))
        size_below = offsets * (counts - inner_counts) - (sums - inner_sums)
        threshold = (factor * (size_above + size_below).sum(0) / count).to(rows.dtype)
        # Every interval becomes three: digits -1, 0 and 1; the first one has no negative residuals.
        low = torch.nextafter(offsets - threshold, -torch.ones_like(offsets)).clamp(bounds, ends)[1:]
        high = (offsets + threshold).clamp(bounds, ends)
        more_counts, more_sums = above(rows, torch.cat([high, low]))
        size = len(bounds)

        def woven(own: Tensor, above_high: Tensor, above_low: Tensor) -> Tensor:
            later = torch.stack([own[1:], above_low, above_high[1:]], 1).flatten(0, 1)
            return torch.cat([own[:1], above_high[:1], later])

        bounds = woven(bounds, high, low)
        counts = woven(counts, more_counts[:size], more_counts[size:])
        sums = woven(sums, more_sums[:size], more_sums[size:])
        offsets = woven(offsets, offsets, offsets[1:])
        signs = [0, 1, *[-1, 0, 1] * (size - 1)]
        parents = [0, 0, *(one for one in range(1, size) for _ in range(3))]
        digits = [[*digits[parent], sign] for parent, sign in zip(parents, signs, strict=True)]
        sign = torch.tensor(signs, device=rows.device, dtype=torch.float64)[:, None]
        own_counts, own_sums = between(counts, sums)
        chosen = (sign.abs() * own_counts).sum(0).clamp_min(1)
        level = (sign * (own_sums - offsets * own_counts)).sum(0) / chosen
        offsets = (offsets + sign * level).to(rows.dtype)
    table = torch.tensor(digits, device=rows.device, dtype=torch.float32).T[..., None].expand(-1, -1, len(rows))
    found = Steps(bounds[1:], table)
    return found, fit(table[:, 1:], *between(counts[1:], sums[1:]))


def _parts(cut: Sequence[Tensor], first: int, second: int) -> tuple[Sequence[Tensor], ...]:
    return cut[:first], cut[first : first + second], cut[first + second :]
