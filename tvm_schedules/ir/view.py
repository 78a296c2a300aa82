"""Tensors that are the memory of another one, seen with other axes: what reshapes, transposes and slices make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

__all__ = ["NOWHERE", "View"]


@dataclass(frozen=True)
class View:
    """Element ``i, j, ...`` of the view is element ``offset + i * strides[0] + j * strides[1] + ...`` of the source.

    >>> View.whole((2, 3, 4)).transposed((2, 0, 1)).strides
    (1, 12, 4)
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def whole(shape: Sequence[int]) -> View:
        """A tensor as it lies in memory, row by row."""
        return View(tuple(shape), tuple(prod(shape[axis + 1 :]) for axis in range(len(shape))))

    def transposed(self, order: Sequence[int]) -> View:
        """Its axes in another order."""
        return View(tuple(self.shape[a] for a in order), tuple(self.strides[a] for a in order), self.offset)

    def cut(self, axis: int, start: int, count: int, step: int = 1) -> View:
        """``count`` of the elements along an axis, from ``start`` on."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = count, strides[axis] * step
        return View(tuple(shape), tuple(strides), offset)

    def broadcast(self, shape: Sequence[int]) -> View:
        """The view repeated along axes in which it has one element, as ONNX' operators repeat their operands.

        Raises:
            ValueError: Its shape does not broadcast to ``shape``.
        """
        lead = len(shape) - len(self.shape)
        own = (*(1 for _ in range(lead)), *self.shape)
        if lead < 0 or any(a not in (1, b) for a, b in zip(own, shape, strict=True)):
            raise ValueError(f"shape must be one that {self.shape} broadcasts to, got {tuple(shape)}")
        steps = (*(0 for _ in range(lead)), *self.strides)
        strides = tuple(0 if n == 1 else s for n, s in zip(own, steps, strict=True))
        return View(tuple(shape), strides, self.offset)

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """The same elements in the same order with other axes; None where no strides reach them.

        >>> View.whole((6, 4)).reshaped((2, 3, 4)).strides
        (12, 4, 1)
        >>> View.whole((6, 4)).transposed((1, 0)).reshaped((24,)) is None
        True
        """
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n != 1]
        new = [axis for axis, n in enumerate(shape) if n != 1]
        strides = [0] * len(shape)
        while old or new:
            if not old or not new:
                return None
            taken, made = [old.pop(0)], [new.pop(0)]
            while (have := prod(n for n, _ in taken)) != (want := prod(shape[axis] for axis in made)):
                if have < want and old:
                    taken.append(old.pop(0))
                elif want < have and new:
                    made.append(new.pop(0))
                else:
                    return None
            if any(s != n_after * s_after for (_, s), (n_after, s_after) in pairwise(taken)):
                return None
            step = taken[-1][1]
            for axis in reversed(made):
                strides[axis] = step
                step *= shape[axis]
        return View(tuple(shape), tuple(strides), self.offset)


NOWHERE = View((), ())
"""What stands for a view that is not known yet."""
