"""Which weights pruning takes first: among all layers or in each, one by one, in groups, by digits, or n of every m."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tern_lightning.callbacks._masking import Target, choose_digits
from tern_lightning.functional.patterns import keep_largest, keep_n_of_m
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import meant

PATTERNS = ("element", "block", "digit")
"""Names of patterns; the others are ``n:m``."""


@check_arguments
@dataclass(frozen=True)
class Choice:
    """How the weights to prune are chosen; of whatever is compared, the smallest go first.

    Attributes:
        scope: ``global`` compares the weights of all layers, ``layer`` prunes the same share of every layer.
        pattern: ``element`` for single weights, ``block`` for whole groups, ``digit`` for the digits of weights of
            several terms, ``n:m`` for the n largest of every m weights along the input channels.
        group: Output and input channels of a block, both >= 1.
        kernel: Whether a block spans the whole kernel of a convolution, or one position of it.

    Raises:
        ValueError: An attribute is out of range.
    """

    scope: Literal["global", "layer"]
    pattern: str
    group: tuple[int, int] = (1, 1)
    kernel: bool = True

    def __post_init__(self) -> None:
        counts = self.n_of_m
        if self.pattern not in PATTERNS and (counts is None or not 0 < counts[0] < counts[1]):
            raise ValueError(
                f"pattern must be 'element', 'block', 'digit' or 'n:m' with 0 < n < m, "
                f"got {self.pattern!r}{meant(self.pattern, PATTERNS)}"
            )
        if min(self.group) < 1:
            raise ValueError(f"group must be two sizes >= 1, got {self.group}")
        if self.pattern != "block" and tuple(self.group) != (1, 1):
            raise ValueError(f"group is for pattern 'block', got {self.group} with pattern {self.pattern!r}")

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """The numbers of a pattern ``n:m``; None with any other."""
        found = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        return None if found is None else (int(found[1]), int(found[2]))

    @torch.no_grad()
    def keep(
        self, targets: Sequence[Target], share: float, values: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The masks that prune a share of the weights, by path: True where one is kept, or how many of its digits.

        Args:
            targets: The weights; what is pruned already stays so.
            share: Share of the weights (of the digits) to prune, in [0, 1]. With a pattern ``n:m``, how much of the way
                from m to n weights is gone.
            values: What is compared in place of the latent weights, one tensor for each of them; not for digits.
        """
        found: dict[str, Tensor] = {}
        numbers = [target.weight for target in targets] if values is None else list(values)
        if self.n_of_m is not None:
            n, m = self.n_of_m
            kept = m - int(share * (m - n) + 1e-9)
            return {t.path: keep_n_of_m(v, kept, m, t.axis, t.keep) for t, v in zip(targets, numbers, strict=True)}
        together = list(zip(targets, numbers, strict=True))
        for part in [together] if self.scope == "global" else [[one] for one in together]:
            own = [target for target, _ in part]
            if self.pattern == "digit":
                found.update(choose_digits(own, share))
                continue
            size = (self.group[0], self.group[1])
            groups = [(size, target.axis, self.kernel) for target in own] if self.pattern == "block" else None
            keeps = keep_largest([value for _, value in part], share, [target.keep for target in own], groups)
            found.update({target.path: keep for target, keep in zip(own, keeps, strict=True)})
        return found
