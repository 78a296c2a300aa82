"""Names and places of constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tvm_schedules.ir.plan import Span
from tvm_schedules.lowering.constant_pool import Constants
from tvm_schedules.lowering.steps import Place
from tvm_schedules.packing.registry import expand


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
    assert [entry.arrays for entry in constants.entries] == [
        {"a": "layer.a", "b": "layer.b"}, {"a": "layer.a"}, {"a": "layer.a#2"}, {"a": "layer.a#3"},
        {"b": "layer.b#2"}, {"b": "layer.b#3"},
    ]  # fmt: skip
    memory = expand(constants.entries, 648, constants.arrays)
    assert memory[192:257].tolist() == list(range(65))
    assert memory[320:385].tolist() == list(range(1, 66))
    assert memory[640:].view(np.float32).tolist() == [1, 2]
    assert not memory[65:128].any()


@pytest.mark.parametrize(("more", "fits"), [(0, True), (4096, True), (4097, False), (-1, False)])
def test_how_much_memory_constants_may_have(more: int, fits: bool) -> None:
    constants = Constants()
    constants.add("layer", "raw", {"a": np.arange(65, dtype=np.uint8)})
    if fits:
        assert expand(constants.entries, 65 + more, constants.arrays).tolist() == [*range(65), *[0] * more]
    else:
        with pytest.raises(ValueError, match="constants end at 65 bytes"):
            expand(constants.entries, 65 + more, constants.arrays)
    assert expand([], 64, {}).tolist() == [0] * 64
    assert expand([], 0, {}).tolist() == []


@pytest.mark.parametrize("offset", [-1, 64])
def test_a_constant_outside_of_the_memory_is_refused(offset: int) -> None:
    constants = Constants()
    constants.add("layer", "raw", {"a": np.arange(64, dtype=np.uint8)})
    constants.add("layer", "raw", {"b": np.arange(64, dtype=np.uint8)})
    first, second = constants.entries
    moved = [replace(first, outputs={"a": Span(offset, 64)}), second]
    if offset < 0:
        with pytest.raises(ValueError, match="constants end at"):
            expand(moved, 128, constants.arrays)
    else:
        assert expand(moved, 128, constants.arrays)[64:].tolist() == list(range(64))


def test_a_constant_of_another_length_is_refused() -> None:
    constants = Constants()
    constants.add("layer", "raw", {"a": np.arange(64, dtype=np.uint8)})
    with pytest.raises(ValueError, match="expanded to 63 bytes, the plan says 64"):
        expand(constants.entries, 64, {"layer.a": np.arange(63, dtype=np.uint8)})
