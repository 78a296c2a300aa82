"""Where the buffers between steps lie: lifetimes, computed once, and what a back end makes of them.

A CPU has one arena, in which buffers lie at offsets (:func:`assign_arena`); a graphics processor has a few device
buffers, which are used again and again (:func:`assign_slots`). Before either, :func:`reuse_residuals` lets outputs take
the memory of a residual that they are added to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.lowering.steps import Buffer, Place, Step

__all__ = ["Life", "Lives", "assign_arena", "assign_slots", "lifetimes", "place_beside", "reuse_residuals"]

REPAIRS = 4
"""How often buffers are placed anew, those that lie last before the others."""


@dataclass
class Life:
    """From when to when a buffer's content is needed.

    Attributes:
        buffer: A root, which is a buffer with memory of its own.
        first: Number of the first step that has it.
        last: Number of the last one.
        align: Bytes that its place in an arena is a multiple of.
        over: A buffer that is read for the last time as this one is written, from its beginning on: it may be written
            over where it begins at least ``lead`` bytes behind this one.
        lead: See above.
    """

    buffer: Buffer
    first: int
    last: int
    align: int = ALIGN
    over: Buffer | None = None
    lead: int = 0

    @property
    def nbytes(self) -> int:
        """What it takes in an arena, a multiple of :attr:`align`."""
        return self.up(self.buffer.nbytes - self.buffer.tail)

    @property
    def reach(self) -> int:
        """What has to be there from its beginning on, with what others may lie in too."""
        return max(self.nbytes, self.up(self.buffer.nbytes))

    def up(self, nbytes: int) -> int:
        """The next multiple of :attr:`align`."""
        return -(-nbytes // self.align) * self.align

    def is_apart(self, offset: int, other: Life, begin: int) -> bool:
        """Whether this buffer at ``offset`` and another one at ``begin`` leave each other alone."""
        if other.first > self.last or other.last < self.first:
            return True
        if offset + self.nbytes <= begin or begin + other.nbytes <= offset:
            return True
        if self.over is other.buffer:
            return offset + self.lead <= begin
        return other.over is self.buffer and begin + other.lead <= offset


Lives = dict[int, Life]
"""By ``id`` of the buffer, in the order of first use."""


def lifetimes(steps: Sequence[Step], align: int = ALIGN) -> Lives:
    """The lives of all buffers, of those with a place too.

    Args:
        steps: In execution order.
        align: Bytes that places in an arena are multiples of.
    """
    lives: Lives = {}
    for time, step in enumerate(steps):
        for buffer in step.args:
            root = buffer.root
            lives.setdefault(id(root), Life(root, time, time, align)).last = time
    return lives


def _unplaced(lives: Lives) -> list[Life]:
    return [life for life in lives.values() if life.buffer.place is None]


def assign_arena(lives: Lives, slack: int) -> int:
    """Gives every buffer without a place one in an arena.

    First fit over lifetimes, in the order of time, from the largest buffer down, from the longest life down
    and by both; then what lies last goes first, a few times. The smallest arena counts.

    Args:
        lives: Of :func:`lifetimes`.
        slack: Bytes that kernels may read past a buffer's end.

    Returns:
        The arena's size in bytes, for all buffers that lie there, and the slack.
    """
    fixed = (life for life in lives.values() if life.buffer.place and life.buffer.place.kind == "arena")
    most = max((life.buffer.place.offset + life.nbytes for life in fixed if life.buffer.place), default=0)
    free = _unplaced(lives)
    by_time = sorted(free, key=lambda life: (life.first, -life.buffer.nbytes))
    by_size = sorted(free, key=lambda life: (-life.buffer.nbytes, life.first))
    by_both = sorted(free, key=lambda life: (-life.buffer.nbytes * (life.last - life.first + 1), life.first))
    by_life = sorted(free, key=lambda life: (life.first - life.last, -life.buffer.nbytes))
    orders = (by_time, by_size, by_both, by_life)
    offsets, size, order = min(((*_first_fit(order), order) for order in orders), key=lambda found: found[1])
    for _ in range(REPAIRS):
        order = sorted(order, key=lambda life: offsets[id(life.buffer)] + life.reach < size)
        other, most_now = _first_fit(order)
        if most_now >= size:
            break
        offsets, size = other, most_now
    for life in free:
        life.buffer.place = Place("arena", offsets[id(life.buffer)])
    return max(size, most) + slack


def place_beside(life: Life, lives: Lives) -> int:
    """Gives one more buffer a place in an arena where all others have theirs; returns its offset, maybe behind them."""
    placed = [other for other in lives.values() if other.buffer.place and other.buffer.place.kind == "arena"]
    taken = [(other.buffer.place.offset, other) for other in placed if other.buffer.place]
    offset = 0
    for begin, other in sorted(taken, key=lambda entry: entry[0]):
        if other.first > life.last or other.last < life.first:
            continue
        if offset + life.nbytes <= begin:
            break
        offset = max(offset, begin + other.nbytes)
    life.buffer.place = Place("arena", offset)
    return offset


def _first_fit(order: Iterable[Life]) -> tuple[dict[int, int], int]:
    """Offsets of buffers, each at the lowest gap among those that live when it does, and where the last one ends."""
    placed: list[tuple[int, int, Life]] = []
    offsets: dict[int, int] = {}
    covered = {id(life.over) for life in order if life.over is not None}
    for life in order:
        find = _lowest if life.over is not None or id(life.buffer) in covered else _gap
        offset = find(life, placed)
        placed.append((offset, offset + life.nbytes, life))
        offsets[id(life.buffer)] = offset
    return offsets, max((begin + life.reach for begin, _, life in placed), default=0)


def _gap(life: Life, placed: Sequence[tuple[int, int, Life]]) -> int:
    """The lowest gap among what is placed."""
    offset = 0
    for begin, end, other in sorted(placed, key=lambda entry: entry[:2]):
        if other.first > life.last or other.last < life.first:
            continue
        if offset + life.nbytes <= begin:
            break
        offset = max(offset, end)
    return offset


def _lowest(life: Life, placed: Sequence[tuple[int, int, Life]]) -> int:
    """The lowest place of a buffer that may lie over another one, or another one over it."""
    beside = [entry for entry in placed if entry[2].first <= life.last and entry[2].last >= life.first]
    tried = {0, *(end for _, end, _ in beside)}
    for begin, _, other in beside:
        if other.over is life.buffer:
            tried.add(begin + life.up(other.lead))
        elif life.over is other.buffer:
            tried.add(max(0, begin - life.up(life.lead)))
    return next(
        offset for offset in sorted(tried) if all(life.is_apart(offset, other, begin) for begin, _, other in beside)
    )


def assign_slots(lives: Lives) -> list[int]:
    """Gives every buffer without a place one of a few device buffers.

    Two buffers share one if they are never needed at the same time. (Offsets into one arena would have to be multiples
    of what the device asks for.)

    Args:
        lives: Of :func:`lifetimes`.

    Returns:
        Sizes of the device buffers in bytes.
    """
    sizes: list[int] = []
    busy: list[int] = []  # time of the last use of what is in the slot
    for life in _unplaced(lives):
        need = life.buffer.nbytes
        free = [i for i, until in enumerate(busy) if until < life.first]
        # The smallest that is large enough, else the largest, which grows.
        fits = [i for i in free if sizes[i] >= need]
        slot = min(fits, key=lambda i: sizes[i]) if fits else max(free, key=lambda i: sizes[i], default=len(sizes))
        if slot == len(sizes):
            sizes.append(0)
            busy.append(-1)
        sizes[slot] = max(sizes[slot], need)
        busy[slot] = life.last
        life.buffer.place = Place("slot", slot)
    return sizes


def reuse_residuals(steps: Sequence[Step], lives: Lives, pair: Callable[[Step], tuple[Buffer, Buffer] | None]) -> None:
    """Lets outputs take the memory of a residual that nobody reads after the step which adds it.

    Args:
        steps: In execution order.
        lives: Of :func:`lifetimes`; an output that gets the memory of its residual has no life of its own any more.
        pair: The residual and the output of a step that may write one over the other; None for other steps. Such a
            step writes in the order in which it reads the residual, and never further than it has read.
    """
    for time, step in enumerate(steps):
        found = pair(step)
        if found is None:
            continue
        residual, out = found[0].root, found[1]
        free = residual.place is None and out.place is None and out.alias is None
        if free and lives[id(residual)].last == time:
            lives[id(residual)].last = lives.pop(id(out)).last
            out.alias = residual
