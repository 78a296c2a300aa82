"""Inputs with trained levels by the operators of a file: the same values, a grid of integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tern_lightning.nn.learned_input import CoarseInput, LearnedInput, MultiLevelInput, common_grid, learned_inputs


def trained(hook: LearnedInput, *value: float) -> LearnedInput:
    hook.value, hook.ready = torch.tensor(value), True
    return hook


HOOKS = {
    "coarse-1": trained(CoarseInput(1, "mean"), 0.7),
    "coarse-4": trained(CoarseInput(4, "mean"), 0.11),
    "one": trained(MultiLevelInput(1, False, False), 0.9),
    "one-signed": trained(MultiLevelInput(1, True, False), 0.9),
    "uniform": trained(MultiLevelInput(3, False, True), 0.37),
    "uniform-signed": trained(MultiLevelInput(2, True, True), 0.37),
    "levels": trained(MultiLevelInput(3, False, False), 1.0, 0.613, 0.271),
    "levels-signed": trained(MultiLevelInput(2, True, False), 1.0, 0.43),
}


@pytest.mark.parametrize("name", HOOKS)
def test_written_operators_give_the_same_values(name: str) -> None:
    hook = HOOKS[name]
    x = torch.cat([torch.zeros(3), torch.randn(5000)])
    expected, found = hook.quantize(x).detach(), hook.write(x, hook.value.tolist())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    grid = hook.range()
    if grid is not None:
        near = grid.fake_quantize(expected)
        assert float((near - expected).abs().max()) <= float(hook.value.sum()) / 2048 * 1.01
        assert expected.unique().numel() == near.unique().numel()


def test_hooks_are_found_under_every_path_once_they_are_ready() -> None:
    shared, other = nn.Linear(2, 2), nn.Linear(2, 2)
    shared.register_forward_pre_hook(HOOKS["coarse-4"])
    other.register_forward_pre_hook(MultiLevelInput(2, True, False))  # without levels so far
    other.register_forward_pre_hook(lambda layer, inputs: None)
    net = nn.ModuleDict({"first": shared, "again": shared, "other": other})
    assert learned_inputs(net) == {"first": HOOKS["coarse-4"], "again": HOOKS["coarse-4"]}


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=4), st.sampled_from([127, 255]))
def test_common_grid(levels: list[float], most: int) -> None:
    step, counts = common_grid(levels, most)
    assert step > 0
    assert sum(counts) <= most
    error = sum(abs(n * step - level) for n, level in zip(counts, levels, strict=True))
    assert error <= sum(levels) / 2048 or error <= len(levels) * sum(levels) / most
    assert common_grid([3 * step, 2 * step, step], most)[1] == [3, 2, 1]
