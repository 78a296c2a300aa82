"""A text classifier for several lengths, from torch to a library: masks are what padding is ignored by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tern_lightning as tl
from tern_lightning.exporter import ExportError
from tvm_schedules.errors import ModelError


class Words(nn.Module):
    """Words to attention to a mean, of those that the mask keeps."""

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.words, self.masked = nn.Embedding(20, 8), masked
        self.query, self.key, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.words(ids)
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        if self.masked:
            scores = scores.masked_fill(mask[:, None] == 0, -1e4)
        x = scores.softmax(-1) @ x
        kept = x * mask[..., None] if self.masked else x
        return x, self.head(kept.sum(1))


def samples(length: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(length)
    return rng.integers(0, 20, (count, length)), np.ones((count, length), np.float32)


@pytest.mark.parametrize("activations", ["float32", "uint8"])
def test_every_length_is_that_of_the_module(tmp_path: Path, activations: str) -> None:
    net = Words().eval()
    made = tl.export(
        net, tmp_path / "out", samples=samples(10, 8), lengths=[4, 7], activations=activations, dense_weights="float32"
    )
    assert made.artifact is not None
    model = made.artifact.load()
    assert model.lengths == (4, 7, 10)
    tolerance = 1e-5 if activations == "float32" else 0.1
    for length in (1, 4, 6, 10):
        given = samples(length)
        with torch.no_grad():
            wanted = net(*map(torch.from_numpy, given))
        for own, want in zip(model(*given), wanted, strict=True):
            np.testing.assert_allclose(own, want.numpy(), atol=tolerance)


def test_without_a_mask_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="of a sequence of 4 steps changes when it is padded to 6"):
        tl.export(Words(masked=False).eval(), tmp_path / "out", samples=samples(6), lengths=[4], activations="float32")


def test_lengths_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="lengths must be from 1 to 5, below that of the samples, got 6"):
        tl.export(Words().eval(), tmp_path / "out", samples=samples(6), lengths=[3, 6])
    with pytest.raises(ExportError, match="count along the second axis of the inputs, and the first has shape"):
        tl.export(nn.Identity(), tmp_path / "out", samples=np.zeros(3, np.float32), lengths=[2])
