"""Places of buffers: in an arena, in the buffers of a device, in the memory of a residual."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.lowering.memory import Life, assign_arena, assign_slots, lifetimes, reuse_residuals
from tvm_schedules.lowering.steps import Buffer, Place, Step


def step(*buffers: Buffer) -> Step:
    return Step("", "", None, lambda: None, list(buffers))


def assign(steps: list[Step], slack: int) -> int:
    return assign_arena(lifetimes(steps), slack)


def rounded(nbytes: int) -> int:
    return (nbytes + 63) // 64 * 64


def test_the_alignment_is_a_cache_line() -> None:
    assert ALIGN == 64


@given(st.data())
def test_buffers_that_live_together_lie_apart(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=7))
    buffers = [Buffer(str(i), size) for i, size in enumerate(sizes)]
    used = data.draw(
        st.lists(st.sets(st.integers(0, len(buffers) - 1), min_size=1, max_size=3), min_size=1, max_size=7)
    )
    size = assign([step(*(buffers[i] for i in sorted(which))) for which in used], 100)
    lives = {}
    for i in set().union(*used):
        times = [time for time, which in enumerate(used) if i in which]
        lives[i] = set(range(times[0], times[-1] + 1))
    ends = [0]
    for i, life in lives.items():
        place = buffers[i].place
        assert place is not None
        assert place.kind == "arena"
        assert place.offset >= 0
        assert place.offset % 64 == 0
        ends.append(place.offset + rounded(sizes[i]))
        for j, other in lives.items():
            there = buffers[j].place
            assert there is not None
            if i != j and life & other:
                assert ends[-1] <= there.offset or there.offset + rounded(sizes[j]) <= place.offset
    assert size == max(ends) + 100
    most = max(sum(rounded(sizes[i]) for i, life in lives.items() if time in life) for time in range(len(used)))
    assert most <= max(ends) <= sum(rounded(sizes[i]) for i in lives)
    assert all(buffer.place is None for i, buffer in enumerate(buffers) if i not in lives)


def test_what_is_only_read_behind_a_buffer_may_belong_to_others() -> None:
    a, b, c = Buffer("a", 96, tail=32), Buffer("b", 128, tail=32), Buffer("c", 64)
    assert assign([step(a, b, c)], 0) == 64 + 128 + 64
    assert sorted(places(a, b, c)) == [0, 128, 192]
    a, b = Buffer("a", 64), Buffer("b", 192, tail=128)
    assert assign([step(a, b)], 0) == 192  # of the last one, what is read has to be there as well
    assert places(a, b) == [64, 0]


@given(st.lists(st.integers(1, 9), max_size=4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_a_buffer_over_another_one(others: list[int], source: int, target: int, lead: int) -> None:
    """Some of their neighbors live with one of them, some with both."""
    before, after = Buffer("before", source * 64), Buffer("after", target * 64)
    beside = [Buffer(str(index), size * 64) for index, size in enumerate(others)]
    steps = [step(before, *beside[:2]), step(before, after, *beside[1:3]), step(after, *beside[2:])]
    lives = lifetimes(steps)
    lives[id(after)].over, lives[id(after)].lead = before, lead * 64
    size = assign_arena(lives, 0)
    for one, other in combinations(lives.values(), 2):
        begin, end = places(one.buffer, other.buffer)
        together = one.first <= other.last and other.first <= one.last
        apart = begin + one.nbytes <= end or end + other.nbytes <= begin
        if {id(one.buffer), id(other.buffer)} == {id(before), id(after)}:
            first, second = places(after, before)
            apart = apart or first + lead * 64 <= second
        assert apart or not together
    assert size <= sum(life.nbytes for life in lives.values())


def test_buffers_that_touch_are_apart() -> None:
    source = Life(Buffer("source", 64), 0, 1)
    for lead in (0, 128):  # where one may be written over the other, too
        copy = Life(Buffer("copy", 128), 1, 2, over=source.buffer, lead=lead)
        assert copy.is_apart(64, source, 0)
        assert source.is_apart(0, copy, 64)
        assert copy.is_apart(0, source, 128)
        assert source.is_apart(128, copy, 0)
        assert copy.is_apart(64, source, 64) == (lead == 0)


def test_a_copy_over_what_it_is_made_of_saves_memory() -> None:
    before, after = Buffer("before", 640), Buffer("after", 704)
    lives = lifetimes([step(before), step(before, after)])
    lives[id(after)].over, lives[id(after)].lead = before, 128
    assert assign_arena(lives, 0) == 128 + 640
    assert places(before, after) == [128, 0]


def places(*buffers: Buffer) -> list[int]:
    return [buffer.place.offset for buffer in buffers if buffer.place]


def test_memory_is_used_again_after_the_last_reader() -> None:
    a, b, c, d = (Buffer(name, 64) for name in "abcd")
    assert assign([step(a, b), step(b, c), step(c, d)], 0) == 128
    assert places(a, b, c, d) == [0, 64, 0, 64]
    a, b, c, d = (Buffer(name, 64) for name in "abcd")
    assert assign([step(a, b), step(b, c), step(c, d), step(a)], 0) == 192
    assert places(a, b, c, d) == [0, 64, 128, 64]


def test_the_better_of_two_orders_counts() -> None:
    # In the order of time ``small`` goes first and splits what ``large`` could use again; by size it does not.
    small, middle, large = Buffer("small", 64), Buffer("middle", 128), Buffer("large", 192)
    assert assign([step(middle), step(small, middle), step(small, large)], 0) == 256
    # By size the two large ones go first, over each other, and the small one that lives with both on top of them.
    a, b, c, d = Buffer("a", 64), Buffer("b", 128), Buffer("c", 64), Buffer("d", 192)
    assert assign([step(a, b), step(b, c), step(c, d)], 0) == 256


def test_what_has_a_place_keeps_it() -> None:
    given, constant, fixed, free = (
        Buffer("given", 64, Place("input", 7)),
        Buffer("constant", 64, Place("constant", 4096)),
        Buffer("fixed", 65, Place("arena", 256)),
        Buffer("free", 64),
    )
    view = Buffer("view", 64, alias=free)
    assert assign([step(given, constant, fixed, view)], 3) == 256 + 128 + 3
    assert (given.place, constant.place, fixed.place) == (
        Place("input", 7), Place("constant", 4096), Place("arena", 256),
    )  # fmt: skip
    assert free.place == Place("arena", 0)
    assert view.root is free
    assert view.place is None
    assert assign([step(given)], 5) == 5
    assert assign([], 0) == 0


def test_where_a_part_of_a_buffer_begins() -> None:
    whole = Buffer("whole", 64)
    part = Buffer("part", 32, alias=whole, offset=16)
    inner = Buffer("inner", 8, alias=part, offset=4)
    assert [buffer.start for buffer in (whole, part, inner)] == [0, 16, 20]
    assert part.root is inner.root is whole


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[int, list[int], int | None]]:
    """For each step the size of what it writes, earlier steps whose results it reads, and which of them it adds to."""
    made: list[tuple[int, list[int], int | None]] = []
    for index in range(draw(st.integers(1, 9))):
        reads = sorted(draw(st.sets(st.integers(0, index - 1), max_size=3))) if index else []
        added = draw(st.sampled_from([None, *reads]))
        made.append((draw(st.integers(1, 5)) * 64, reads, added))
    return made


@given(programs(), st.sampled_from(["arena", "slots"]), st.booleans())
def test_a_step_finds_what_others_have_written(
    program: list[tuple[int, list[int], int | None]], policy: str, in_place: bool
) -> None:
    """Carries a program out on the memory that it got, cell by cell."""
    written = [Buffer(str(index), size) for index, (size, _, _) in enumerate(program)]
    steps = [step(*(written[i] for i in reads), written[index]) for index, (_, reads, _) in enumerate(program)]
    added = {id(made): program[index][2] for index, made in enumerate(steps)}

    def pair(made: Step) -> tuple[Buffer, Buffer] | None:
        residual = added[id(made)]
        fits = residual is not None and written[residual].root.nbytes >= made.args[-1].nbytes
        return (written[residual], made.args[-1]) if residual is not None and fits else None

    lives = lifetimes(steps)
    if in_place:
        reuse_residuals(steps, lives, pair)
    sizes = assign_slots(lives) if policy == "slots" else [assign_arena(lives, 0)]
    memory: dict[tuple[int, int], int] = {}
    for index, (_, reads, _) in enumerate(program):
        for read in (*reads, index):
            place = written[read].root.place
            assert place is not None
            slot, start = (place.offset, 0) if policy == "slots" else (0, place.offset)
            cells = [(slot, at) for at in range(start, start + written[read].nbytes)]
            assert start + written[read].nbytes <= sizes[slot]
            if read == index:
                memory.update(dict.fromkeys(cells, index))
            else:
                assert {memory[cell] for cell in cells} == {read}


def test_device_buffers_are_used_again() -> None:
    a, b, c, d = (Buffer(name, size) for name, size in zip("abcd", (100, 50, 70, 200), strict=True))
    assert assign_slots(lifetimes([step(a, b), step(b, c), step(c, d)])) == [100, 200]
    assert [buffer.place for buffer in (a, b, c, d)] == [Place("slot", i) for i in (0, 1, 0, 1)]
    given = Buffer("given", 300, Place("input", 0))
    assert assign_slots(lifetimes([step(given)])) == []


def test_an_output_takes_the_memory_of_a_residual_that_ends() -> None:
    x, residual, out, after = (Buffer(name, 64) for name in ("x", "residual", "out", "after"))
    steps = [step(x, residual), step(x, residual, out), step(out, after)]
    lives = lifetimes(steps)
    reuse_residuals(steps, lives, lambda made: (residual, out) if out is made.args[-1] else None)
    assert out.root is residual
    assert (lives[id(residual)].first, lives[id(residual)].last) == (0, 2)
    assert assign_arena(lives, 0) == 128
    # Who still reads the residual keeps it; what lies with the caller is nobody's to write over.
    for place in (None, Place("input", 0)):
        x, residual, out = Buffer("x", 64), Buffer("residual", 64, place), Buffer("out", 64)
        steps = [step(x, residual, out), step(residual if place is None else x, out)]
        reuse_residuals(steps, lifetimes(steps), lambda made: made.args[1:] if len(made.args) == 3 else None)
        assert out.root is out
