"""Metrics add layers up, and say what is wrong."""

import pytest
import torch

from tern_lightning.functional import twn
from tern_lightning.functional.operations import micronet_score
from tern_lightning.functional.size import code_bytes, stored_bytes
from tern_lightning.functional.structure import channel_sparsity, group_sparsity, sign_balance
from tern_lightning.metrics import (
    ChannelSparsity,
    Compression,
    GroupSparsity,
    MicroNetScore,
    SignBalance,
    Sparsity,
)
from tests.tern_lightning.random_ternary import random_ternary


def test_metrics_add_layers_up():
    layers = [random_ternary((4, 6), 0.7, seed) for seed in (1, 2)] + [random_ternary((8, 3, 3, 3), 0.9, 3)]
    sizes = {
        GroupSparsity((2, 2)): (
            lambda t: group_sparsity(t, (2, 2)),
            lambda t: -(-t.shape[0] // 2) * -(-t.shape[1] // 2),
        ),
        ChannelSparsity("input"): (lambda t: channel_sparsity(t, "input"), lambda t: t.shape[1]),
        SignBalance(): (sign_balance, lambda t: int((t.codes != 0).sum())),
        Sparsity(): (lambda t: torch.tensor(t.sparsity()), lambda t: t.codes[0].numel()),
    }
    for metric, (function, weight) in sizes.items():
        for layer in layers:
            metric.update(layer)
        expected = sum(float(function(t)) * weight(t) for t in layers) / sum(weight(t) for t in layers)
        assert metric.compute().item() == pytest.approx(expected)
        whole = Compression()
    for layer in layers:
        whole.update(layer)
    dense = sum(4 * t.codes[0].numel() for t in layers)
    assert whole.compute()["stored"].item() == pytest.approx(dense / sum(stored_bytes(t) for t in layers))
    assert whole.compute()["packed"].item() == pytest.approx(dense / sum(t.nbytes() for t in layers))


def test_errors():
    ternary = twn(torch.randn(3, 4))
    with pytest.raises(ValueError, match="form must be one of"):
        code_bytes(ternary, "zip")
    with pytest.raises(ValueError, match="side must be"):
        channel_sparsity(ternary, "left")
    with pytest.raises(ValueError, match="reference must be one of"):
        micronet_score(1.0, 1.0, "mnist")
    with pytest.raises(ValueError, match="bits"):
        MicroNetScore(bits=0)
