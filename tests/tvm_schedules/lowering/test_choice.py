"""Choices of kernels and their numbers: what is given, what was asked and what was taken."""

from __future__ import annotations

import pytest

from tvm_schedules.lowering.choice import Choice, Choices, Option


def test_numbers_are_sorted_and_replaced() -> None:
    choice = Choice.of("sparse", {"chunks": 2, "block": 4})
    assert choice.numbers == (("block", 4), ("chunks", 2))
    assert str(choice) == "sparse block=4 chunks=2"
    assert str(Choice("dense")) == "dense"
    assert choice.but(block=8, jobs=1) == Choice.of("sparse", {"block": 8, "chunks": 2, "jobs": 1})
    assert choice.to_json() == {"kernel": "sparse", "block": 4, "chunks": 2}
    assert Choice.from_json(choice.to_json()) == choice


@pytest.mark.parametrize("data", [{}, {"block": 4}, {"kernel": 3}, {"kernel": "sparse", "block": "4"}])
def test_other_forms_are_refused(data: dict) -> None:
    with pytest.raises(ValueError, match="a kernel's name and integers"):
        Choice.from_json(data)


def test_the_given_choice_counts_for_its_kernel_alone() -> None:
    choices = Choices({"conv": Choice.of("sparse", {"block": 4})})
    assert choices.wants("conv", "sparse", False)
    assert not choices.wants("conv", "dense", True)
    assert choices.wants("other", "dense", True)
    assert not choices.wants("other", "dense", False)
    choices.begin("conv", "dense")
    assert choices.pick("conv", "block", 16, (8, 16, 4)) == 16
    choices.begin("conv", "sparse")
    assert choices.options["conv"] == {}
    assert choices.pick("conv", "block", 16, (8, 16, 4)) == 4
    assert choices.pick("conv", "jobs", 2) == 2
    assert choices.options["conv"] == {"block": Option(4, (8, 16)), "jobs": Option(2, ())}
    assert not choices.made
    choices.taken("conv")
    choices.begin("other", "dense")
    assert choices.pick("other", "block", 16) == 16
    choices.taken("other")
    assert choices.made == {
        "conv": Choice.of("sparse", {"block": 4, "jobs": 2}),
        "other": Choice("dense", (("block", 16),)),
    }
