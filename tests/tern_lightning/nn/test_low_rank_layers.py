"""Modules of low rank compute what the layer does."""

import pytest
import torch
from torch import nn

from tern_lightning.nn.low_rank_layers import LowRankConv


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(5, 5, 3, stride=2, padding=1),
        nn.Conv1d(5, 5, 3, dilation=2, padding=2, bias=False),
        nn.Conv2d(5, 5, (3, 1), padding="same", padding_mode="circular"),
    ],
)
def test_modules_compute_what_the_layer_does_at_full_rank(layer):
    x = torch.randn(2, 5, *(8,) * (layer.weight.ndim - 2))
    torch.testing.assert_close(LowRankConv(layer, 5)(x), layer(x), atol=1e-5, rtol=1e-4)
