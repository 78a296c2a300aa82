"""Planes that take as little memory as they can: a plane ends where the next one's halo begins."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_schedules.ir.layout import Halo, Triple

__all__ = ["SLACK", "Parted", "Sampled", "Tight", "Written"]

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

    @property
    def tail(self) -> int:
        """Bytes at the end that are read at most, whatever they hold."""
        return SLACK * self.itemsize


@dataclass(frozen=True)
class Written(Tight):
    """What a kernel writes at the pitch of its input first.

    Args:
        written: Elements of a plane, from its first pixel on, before rows are moved to where they belong. Those behind
            the plane are written over by the next one, and take memory behind the last one.
    """

    written: int = 0

    @property
    def elements(self) -> int:
        """Elements to allocate."""
        return max(self.used, (self.planes - 1) * self.plane + self.origin + self.written) + SLACK


@dataclass(frozen=True)
class Parted(Tight):
    """Phases that a kernel writes: it computes a plane behind all of them, and copies it to where it belongs.

    Args:
        written: Elements of a plane as it is computed.
    """

    written: int = 0

    @property
    def raw(self) -> int:
        """Index of the first pixel of a plane that is computed."""
        return _up(self.used)

    @property
    def elements(self) -> int:
        """Elements to allocate."""
        return self.raw + self.written + SLACK


@dataclass(frozen=True)
class Sampled:
    """The first of every few pixels of a tensor in planes.

    Args:
        source: The planes; ``steps`` is 1 where they are the first phase already.
        dims: How many pixels there are.
        steps: Pixels of the source from one to the next.
    """

    source: Halo
    dims: Triple
    steps: Triple

    @property
    def batch(self) -> int:
        """Images."""
        return self.source.batch

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.source.channels

    @property
    def dtype(self) -> str:
        """Type of the elements."""
        return self.source.dtype

    @property
    def strides(self) -> list[int]:
        """Elements between neighbors in each of five dimensions."""
        per_channel = self.source.phases * self.source.plane
        apart = [size * step for size, step in zip(self.source.steps(), self.steps, strict=True)]
        return [self.source.channels * per_channel, per_channel, *apart]
