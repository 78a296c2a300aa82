"""Planes that take as little memory as they can: a plane ends where the next one's halo begins."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_schedules.ir.layout import Halo

__all__ = ["SLACK", "Tight"]

SLACK = 32
"""Elements that kernels may read past the last one: ``TERN_BLOCK`` of ``source/common.c`` at most."""

_WORD = 4


def _up(count: int) -> int:
    return -(-count // _WORD) * _WORD


@dataclass(frozen=True)
class Tight(Halo):
    """A :class:`~tvm_schedules.ir.layout.Halo` whose planes share the halo between them.

    What lies behind the last pixel of a plane and before the first one of the next is the halo of both; they hold the
    same value, so it does not matter which one writes it.
    """

    @property
    def origin(self) -> int:
        """Index of the first pixel, where words of four bytes start."""
        return _up(self.front)

    @property
    def plane(self) -> int:
        """Elements from one plane to the next."""
        pixels = self.run(self.grid)
        return _up(pixels + max(self.front, self.end - pixels))

    @property
    def planes(self) -> int:
        """Number of planes."""
        return self.batch * self.channels * self.phases

    @property
    def used(self) -> int:
        """Elements up to the end of the last plane's halo."""
        return (self.planes - 1) * self.plane + self.origin + self.end

    @property
    def elements(self) -> int:
        """Elements to allocate."""
        return self.used + SLACK
