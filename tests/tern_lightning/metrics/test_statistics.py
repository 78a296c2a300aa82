"""Sparsity, entropy and flips over several layers."""

import pytest
import torch

from tern_lightning import functional, metrics


def test_metrics_over_two_layers():
    a = functional.twn(torch.tensor([[1.0, -3.0, 0.1, 0.2]]))
    b = functional.twn(torch.tensor([[1.0, 1.0]]))
    zeros, bits, flips = metrics.Sparsity(), metrics.CodeEntropy(), metrics.FlipRatio()
    for t in (a, b):
        zeros.update(t)
        bits.update(t)
    assert a.codes.tolist() == [[[0, -1, 0, 0]]] or a.codes.tolist() == [[[1, -1, 0, 0]]]
    count = int((a.codes == 0).sum())
    assert zeros.compute().item() == pytest.approx(count / 6)
    assert bits.compute().item() == pytest.approx(4 * a.entropy() / 6)
    assert functional.sparsity(a).item() == count / 4
    assert functional.code_entropy(b).item() == 0
    halves = functional.twn(torch.tensor([[1.0, -1.0, 0.0, 0.0]]))
    assert functional.code_entropy(halves).item() == pytest.approx(1.5)
    flips.update(torch.tensor([1, 0, -1]), torch.tensor([1, 1, 1]))
    flips.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert flips.compute().item() == pytest.approx(2 / 5)
    assert functional.flip_ratio(torch.tensor([1, 0, 1, 1]), torch.tensor([1, -1, 1, 1])).item() == 0.25
    with pytest.raises(ValueError, match="one shape"):
        flips.update(torch.zeros(2), torch.zeros(3))
