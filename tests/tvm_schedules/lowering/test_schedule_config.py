"""Schedule configurations: overrides, the knobs that kernels asked for, and the configurations taken."""

from __future__ import annotations

import pytest

from tvm_schedules.lowering.schedule_config import Knob, ScheduleConfig, ScheduleConfigs


def test_numbers_are_sorted_and_replaced() -> None:
    config = ScheduleConfig.of("sparse", {"chunks": 2, "block": 4})
    assert config.knobs == (("block", 4), ("chunks", 2))
    assert str(config) == "sparse block=4 chunks=2"
    assert str(ScheduleConfig("dense")) == "dense"
    assert config.with_knobs(block=8, jobs=1) == ScheduleConfig.of("sparse", {"block": 8, "chunks": 2, "jobs": 1})
    assert config.to_json() == {"kernel": "sparse", "block": 4, "chunks": 2}
    assert ScheduleConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("data", [{}, {"block": 4}, {"kernel": 3}, {"kernel": "sparse", "block": "4"}])
def test_other_forms_are_refused(data: dict) -> None:
    with pytest.raises(ValueError, match="a kernel's name and integers"):
        ScheduleConfig.from_json(data)


def test_the_given_config_counts_for_its_kernel_alone() -> None:
    configs = ScheduleConfigs({"conv": ScheduleConfig.of("sparse", {"block": 4})})
    assert configs.selects("conv", "sparse", False)
    assert not configs.selects("conv", "dense", True)
    assert configs.selects("other", "dense", True)
    assert not configs.selects("other", "dense", False)
    configs.begin("conv", "dense")
    assert configs.knob("conv", "block", 16, (8, 16, 4)) == 16
    configs.begin("conv", "sparse")
    assert configs.knobs["conv"] == {}
    assert configs.knob("conv", "block", 16, (8, 16, 4)) == 4
    assert configs.knob("conv", "jobs", 2) == 2
    assert configs.knobs["conv"] == {"block": Knob(4, (8, 16)), "jobs": Knob(2, ())}
    assert not configs.chosen
    configs.taken("conv")
    configs.begin("other", "dense")
    assert configs.knob("other", "block", 16) == 16
    configs.taken("other")
    assert configs.chosen == {
        "conv": ScheduleConfig.of("sparse", {"block": 4, "jobs": 2}),
        "other": ScheduleConfig("dense", (("block", 16),)),
    }
