"""Defaults: those that all functions share, and the numbers that the papers state."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from tern_lightning import functional
from tern_lightning.functional.frozen import FrozenCodes
from tern_lightning.functional.gradient import attach
from tern_lightning.functional.multilevel import multilevel, multilevel_values
from tern_lightning.functional.operations import REFERENCES
from tern_lightning.functional.steps import Steps

SHARED = {"per_channel": False, "channel_axis": 0, "mask": None, "symmetric": True}
FUNCTIONS = {
    **{name: getattr(functional, name) for name in functional.__all__ if inspect.isfunction(getattr(functional, name))},
    "multilevel": multilevel,
    "multilevel_values": multilevel_values,
    "FrozenCodes": FrozenCodes,
    "FrozenCodes.of": FrozenCodes.of,
}
PUBLISHED: list[tuple[str, str, Any]] = [
    ("absmean", "eps", 1e-5),  # The Era of 1-bit LLMs (2024): "a small floating-point number", 1e-5 in their code
    ("twn", "factor", 0.7),  # Ternary Weight Networks (2016), section 2.2
    ("ttq", "threshold", 0.05),  # Trained Ternary Quantization (2017), section 5.1
    ("sws", "beta", 0.05),  # Residual expansion with statistical weight scaling
    ("ec2t", "strength", 0.0),
    ("ec2t", "size_factor", 1.0),
    ("multilevel", "terms", 2),
    ("multilevel", "factor", 0.7),
    ("multilevel", "iterations", 1),
    ("hestia_schedule", "blend", 0.2),
    ("hestia_schedule", "end", 0.9),
    ("arenas", "warmup", 0.1),
    ("dead_zone_bias", "eps", 1e-3),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_all_functions_share_has_one_default(name: str) -> None:
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    for shared, value in SHARED.items():
        if shared in parameters and parameters[shared].default is not inspect.Parameter.empty:
            assert parameters[shared].default == value, shared


@pytest.mark.parametrize(("name", "parameter", "value"), PUBLISHED)
def test_numbers_are_the_published_ones(name: str, parameter: str, value: Any) -> None:
    assert inspect.signature(FUNCTIONS[name]).parameters[parameter].default == value


def test_the_references_of_the_challenge() -> None:
    # MicroNet Challenge (2019): MobileNetV2-1.4 for ImageNet and WideResNet-28-10 for CIFAR-100.
    assert REFERENCES == {"imagenet": (6.9e6, 1170e6), "cifar100": (36.5e6, 10.49e9)}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("per_channel", [False, True])
def test_ttq_keeps_as_many_weights_as_were_asked_for(sparsity: float, per_channel: bool) -> None:
    weight = torch.tensor([[0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9, -1.0]]) * torch.tensor([[1.0], [0.01]])
    levels = torch.ones(2 if per_channel else 1)
    codes = functional.ttq(weight, levels, levels, sparsity=sparsity, per_channel=per_channel).codes[0]
    if per_channel:
        expected = round(10 * (1 - sparsity))
        assert (codes != 0).sum(1).tolist() == [expected, expected]
    else:
        assert int((codes != 0).sum()) == round(20 * (1 - sparsity))
    kept, lost = weight.abs()[codes != 0], weight.abs()[codes == 0]
    if not per_channel and len(lost):
        assert kept.min() > lost.max()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("sparsity", [0.98, 0.999])
def test_ttq_may_keep_no_weight_at_all(sparsity: float, per_channel: bool) -> None:
    levels = torch.ones(3 if per_channel else 1)
    found = functional.ttq(torch.rand(3, 5) + 1, levels, levels, sparsity=sparsity, per_channel=per_channel)
    assert not found.codes.any()


@pytest.mark.parametrize("slope", [None, 0.25, torch.tensor([2.0, 0.0, 3.0]), torch.tensor([True, False, True])])
def test_attached_gradients_have_the_slope(slope: Any) -> None:
    latent, values = torch.zeros(3, requires_grad=True), torch.ones(3)
    attach(values, latent, slope).backward(torch.tensor([1.0, 10.0, 100.0]))
    factor = 1.0 if slope is None else slope
    torch.testing.assert_close(latent.grad, torch.tensor([1.0, 10.0, 100.0]) * factor)


def test_terms_are_turned_and_sorted() -> None:
    steps = Steps(torch.tensor([[1.0], [2.0]]), torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [1.0], [1.0]]]))
    found, levels = steps.sorted(torch.tensor([[-1.0], [3.0]]))
    assert levels.tolist() == [[3.0], [1.0]]
    rows = torch.tensor([[0.5, -1.5, 2.5]])
    assert found.codes(rows, rows.abs()).tolist() == [[[0, -1, 1]], [[0, 1, 0]]]


def test_frozen_codes_move_to_the_weights_device() -> None:
    codes = FrozenCodes.of(torch.tensor([[[1, 0, -1]]], dtype=torch.int8))
    assert codes.to(torch.device("cpu")) is codes
    moved = codes.to(torch.device("meta"))
    assert {moved.codes.device.type, moved.inverse.device.type, moved.empty.device.type} == {"meta"}
