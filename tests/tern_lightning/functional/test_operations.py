"""Additions and multiplications by hand, and the score of the MicroNet challenge as published."""

import itertools

import pytest
import torch

from tern_lightning.functional.operations import (
    OperationCount,
    count_operations,
    counted_parameters,
    micronet_score,
    tree_adder,
)
from tern_lightning.metrics import MicroNetScore
from tern_lightning.ternary_tensor import TernaryTensor
from tests.tern_lightning.random_ternary import random_ternary


def test_the_published_example_of_the_micronet_score():
    # 16x16 outputs, 3x3 kernels, 64 to 64 channels of which 50 and 53 live, 92.45% zeros in the live part.
    weight = torch.zeros(64, 64, 3, 3)
    live = torch.zeros(53 * 50 * 9)
    order = torch.randperm(live.numel(), generator=torch.Generator().manual_seed(0))
    live[order[: round((1 - 0.9245) * live.numel())]] = 1.0
    live = live.reshape(53, 50, 3, 3)
    signs = torch.where(torch.arange(50)[None, :, None, None] % 2 == 0, 1, -1)
    weight[:53, :50] = live * signs
    codes = weight.to(torch.int8)
    ternary = TernaryTensor(codes[None], torch.ones(1, 1), torch.full((1, 1), 2.0))
    assert count_operations(ternary, 256).total == pytest.approx(474e3, abs=1000)
    assert count_operations(weight, 256).total == pytest.approx(908e3, abs=1000)
    assert count_operations(torch.ones(64, 64, 3, 3), 256).total == pytest.approx(18.86e6, rel=1e-3)
    d = float(live.mean())
    assert count_operations(ternary, 256).total == round(256 * (d * 450 + 1) * 53)
    score = MicroNetScore("cifar100")
    score.update(ternary, 256)
    n, z = 53 * 50 * 9, int(live.sum())
    expected = (n + z + 32) / 32 / 36.5e6 + 256 * (z + 53) / 10.49e9
    assert (
        score.compute().item() == pytest.approx(expected) == micronet_score(counted_parameters(ternary), 256 * (z + 53))
    )


def test_published_scores():
    assert micronet_score(0.972e6, 261e6, "imagenet") == pytest.approx(0.3639, abs=1e-4)
    assert micronet_score(226e3, 71e6, "cifar100") == pytest.approx(0.0130, abs=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("terms", [1, 2])
def test_operations_by_hand(symmetric, terms):
    ternary = random_ternary((4, 6), 0.5, 3, terms, symmetric=symmetric)
    adds = multiplies = 0
    for output in range(4):
        for values in ternary.codes[:, output]:
            plus, minus = int((values > 0).sum()), int((values < 0).sum())
            products = int(plus + minus > 0) if symmetric else int(plus > 0) + int(minus > 0)
            adds += plus + minus
            multiplies += products
        adds -= int(bool((ternary.codes[:, output] != 0).any()))
    assert count_operations(ternary, 7) == OperationCount(7 * adds, 7 * multiplies)
    live = int((ternary.codes != 0).any(2).any(0).sum())
    assert count_operations(ternary, 7, bias=True).adds == 7 * (adds + live)


def test_tree_adder_by_simulation():
    for count, bits in itertools.product((0, 1, 2, 3, 7, 64, 100_000), (8, 16, 31)):
        words, total = [bits] * count, 0.0
        while len(words) > 1:
            width = min(words[0], 32)
            pairs = len(words) // 2
            total += pairs * width / 32
            words = [min(width + 1, 32)] * (pairs + len(words) % 2)
        assert tree_adder(count, bits) == pytest.approx(total)
