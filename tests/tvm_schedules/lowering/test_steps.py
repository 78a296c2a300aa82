"""Places of buffers in the arena, names and places of constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_schedules.ir.layout import ALIGN
from tvm_schedules.lowering.steps import Buffer, Constants, Place, Step, assign
from tvm_schedules.packing.registry import expand


def step(*buffers: Buffer) -> Step:
    return Step("", "", None, lambda: None, list(buffers))


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


def test_constants_have_places_of_their_own() -> None:
    constants = Constants()
    first = constants.add("layer", "raw", {"a": np.arange(65, dtype=np.uint8), "b": np.float32([1, 2])})
    second = constants.add("layer", "raw", {"a": np.arange(65, dtype=np.uint8)})  # the same bytes are stored once
    third = constants.add("layer", "raw", {"a": np.arange(1, 66, dtype=np.uint8)})
    fourth = constants.add("layer", "raw", {"a": np.arange(2, 67, dtype=np.uint8)})
    fifth = constants.add("layer", "raw", {"b": np.float32([1, 2]).view(np.int32)})  # equal bytes, another type
    sixth = constants.add("layer", "raw", {"b": np.float32([[1, 2]])})
    places = [b.place for made in (first, second, third, fourth, fifth, sixth) for b in made.values()]
    assert places == [Place("constant", offset) for offset in (0, 128, 192, 320, 448, 576, 640)]
    assert [buffer.nbytes for buffer in first.values()] == [65, 8]
    assert constants.nbytes == 648
    assert set(constants.arrays) == {"layer.a", "layer.b", "layer.a#2", "layer.a#3", "layer.b#2", "layer.b#3"}
    assert [entry["arrays"] for entry in constants.entries] == [
        {"a": "layer.a", "b": "layer.b"}, {"a": "layer.a"}, {"a": "layer.a#2"}, {"a": "layer.a#3"},
        {"b": "layer.b#2"}, {"b": "layer.b#3"},
    ]  # fmt: skip
    memory = expand({"constants": constants.entries, "constant_bytes": 648}, constants.arrays)
    assert memory[192:257].tolist() == list(range(65))
    assert memory[320:385].tolist() == list(range(1, 66))
    assert memory[640:].view(np.float32).tolist() == [1, 2]
    assert not memory[65:128].any()


@pytest.mark.parametrize(("more", "fits"), [(0, True), (4096, True), (4097, False), (-1, False)])
def test_how_much_memory_constants_may_have(more: int, fits: bool) -> None:
    constants = Constants()
    constants.add("layer", "raw", {"a": np.arange(65, dtype=np.uint8)})
    plan = {"constants": constants.entries, "constant_bytes": 65 + more}
    if fits:
        assert expand(plan, constants.arrays).tolist() == [*range(65), *[0] * more]
    else:
        with pytest.raises(ValueError, match="constants end at 65 bytes"):
            expand(plan, constants.arrays)
    assert expand({"constants": [], "constant_bytes": 64}, {}).tolist() == [0] * 64
    assert expand({"constants": [], "constant_bytes": 0}, {}).tolist() == []


@pytest.mark.parametrize("offset", [-1, 64])
def test_a_constant_outside_of_the_memory_is_refused(offset: int) -> None:
    constants = Constants()
    constants.add("layer", "raw", {"a": np.arange(64, dtype=np.uint8)})
    constants.add("layer", "raw", {"b": np.arange(64, dtype=np.uint8)})
    constants.entries[0]["outputs"]["a"]["offset"] = offset
    plan = {"constants": constants.entries, "constant_bytes": 128}
    if offset < 0:
        with pytest.raises(ValueError, match="constants end at"):
            expand(plan, constants.arrays)
    else:
        assert expand(plan, constants.arrays)[64:].tolist() == list(range(64))


def test_a_constant_of_another_length_is_refused() -> None:
    constants = Constants()
    constants.add("layer", "raw", {"a": np.arange(64, dtype=np.uint8)})
    plan = {"constants": constants.entries, "constant_bytes": 64}
    with pytest.raises(ValueError, match="expanded to 63 bytes, the plan says 64"):
        expand(plan, {"layer.a": np.arange(63, dtype=np.uint8)})
