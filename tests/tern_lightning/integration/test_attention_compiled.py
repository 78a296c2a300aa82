"""Attention networks, end to end: train or not, export, compile, load from the disk, compare with module and file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tern_lightning
import tvm_schedules
from tern_lightning import TernaryCallback
from tests.tern_lightning.exporter.export_nets import run

STEPS, WIDTH = 8, 16


def mask() -> torch.Tensor:
    return torch.ones(STEPS, STEPS, dtype=torch.bool).tril()


class SelfAttention(nn.Module):
    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(WIDTH, 2, batch_first=True), nn.Linear(WIDTH, WIDTH)
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + self.attention(x, x, x, need_weights=self.weights)[0])


class Scaled(nn.Module):
    """``scaled_dot_product_attention`` with a mask of booleans, of numbers, causal, or none."""

    def __init__(self, kind: str = "none") -> None:
        super().__init__()
        self.q, self.kind = nn.Linear(WIDTH, WIDTH), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x)[:, None]
        if self.kind == "bool":
            return F.scaled_dot_product_attention(q, q, q, attn_mask=mask())
        if self.kind == "float":
            return F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(STEPS, STEPS) - 9.0 * ~mask())
        return F.scaled_dot_product_attention(q, q, q, is_causal=self.kind == "causal")


class Triu(nn.Module):
    """A mask of infinities, written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x)
        hidden = torch.triu(torch.ones(STEPS, STEPS, dtype=torch.bool), 1)
        return (q @ q.transpose(1, 2) / 4).masked_fill(hidden, float("-inf")).softmax(-1) @ q


class Padded(nn.Module):
    """A second input of booleans says which steps count."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.layer(x, src_key_padding_mask=padding)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(WIDTH, 2, 32, batch_first=True)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.layer(x, memory, tgt_mask=torch.zeros(STEPS, STEPS).masked_fill(~mask(), float("-inf")))


class Language(nn.Module):
    """Token numbers in, one score a token out."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, WIDTH), nn.Parameter(torch.randn(1, STEPS, WIDTH) * 0.1)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.Transformer.generate_square_subsequent_mask(STEPS)
        return self.head(self.body(self.tokens(x) + self.places, mask=hidden, is_causal=True))


class Queries(nn.Module):
    """Learned queries that two layers project: layers that are applied to constants."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, STEPS, WIDTH))
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = (layer(self.queries).view(1, STEPS, 2, 8).transpose(1, 2) for layer in (self.a, self.b))
        return self.c(x) + (torch.softmax(q @ k.transpose(2, 3), -1) @ q).transpose(1, 2).reshape(1, STEPS, WIDTH)


class Position(nn.Module):
    """A table of positions goes through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(1, 16, 8, 8))
        self.of_table, self.of_image = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.of_image(x) + self.of_table(self.table)


class Cache(nn.Module):
    """One layer of a cache of keys is selected by a constant number."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        return torch.cat([cache[:, 1], self.k(x).view(1, 1, 2, 8).transpose(1, 2)], 2)


class UnevenPool(nn.Module):
    """Windows of unequal sizes: the exporter masks them with booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d((7, 3)), nn.Linear(84, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.pool(self.conv(x)).flatten(1))


class Mean(nn.Module):
    """An output without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x).mean()


def sequence() -> torch.Tensor:
    return torch.randn(3, STEPS, WIDTH)


Case = tuple[Callable[[], nn.Module], Callable[[], tuple[torch.Tensor, ...]]]
CASES: dict[str, Case] = {
    "attention": (SelfAttention, lambda: (sequence(),)),
    "attention that gives its weights": (lambda: SelfAttention(True), lambda: (sequence(),)),
    "scaled": (Scaled, lambda: (sequence(),)),
    "scaled, causal": (lambda: Scaled("causal"), lambda: (sequence(),)),
    "scaled, bool mask": (lambda: Scaled("bool"), lambda: (sequence(),)),
    "scaled, float mask": (lambda: Scaled("float"), lambda: (sequence(),)),
    "infinite mask": (Triu, lambda: (sequence(),)),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True), lambda: (sequence(),)),
    "padding": (Padded, lambda: (sequence(), torch.arange(STEPS)[None] >= torch.tensor([[5], [7], [8]]))),
    "decoder layer": (Decoder, lambda: (sequence(), torch.randn(3, 5, WIDTH))),
    "language": (Language, lambda: (torch.randint(0, 11, (3, STEPS)),)),
    "queries": (Queries, lambda: (sequence(),)),
    "position": (Position, lambda: (torch.randn(3, 8, 8, 8),)),
    "cache": (Cache, lambda: (torch.randn(3, 1, WIDTH), torch.randn(3, 3, 2, 5, 8))),
    "uneven pool": (UnevenPool, lambda: (torch.randn(3, 3, 12, 10),)),
    "mean": (Mean, lambda: (sequence(),)),
}


def check(net: nn.Module, samples: tuple[torch.Tensor, ...], folder: Path, activations: Any) -> None:
    """Exports; holds what is loaded from the disk against onnxruntime, and in float against the module."""
    result = tern_lightning.export(net, folder, samples=samples, activations=activations)
    library = tvm_schedules.load(folder)
    for index in range(len(samples[0])):
        row = tuple(x[index : index + 1] for x in samples)
        (wanted,) = run(result.network.model, *row)
        found = library(*(x.numpy() for x in row))
        assert found.shape == wanted.shape
        scale = float(np.abs(wanted).max())
        if activations == "float32":
            with torch.no_grad():
                np.testing.assert_allclose(found, net.eval()(*row).numpy(), rtol=1e-4, atol=1e-4 * scale)
        # In 8 bits onnxruntime's own optimizations move single steps of quantization.
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=(1e-5 if activations == "float32" else 0.03) * scale)


FLOAT = ("attention", "scaled, bool mask", "decoder layer", "language", "cache", "mean")
RUNS = [(case, "uint8") for case in CASES] + [(case, "float32") for case in FLOAT]


@pytest.mark.parametrize(("case", "activations"), RUNS)
def test_network(case: str, activations: Literal["uint8", "float32"], tmp_path: Path) -> None:
    make, samples = CASES[case]
    check(make(), samples(), tmp_path / "out", activations)


class Trained(pl.LightningModule):
    """An encoder that learns which step holds the largest number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.body = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.first(x)))[..., 0]

    def training_step(self, x: torch.Tensor, index: int) -> torch.Tensor:
        return F.cross_entropy(self(x), x[..., 0].argmax(1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(torch.randn(64, STEPS, WIDTH), batch_size=16)


def test_trained_network(tmp_path: Path) -> None:
    net = Trained()
    callback = TernaryCallback(start=0, freeze=None, bn_batches=0, verbose=False)
    pl.Trainer(
        max_epochs=2, callbacks=[callback], accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(net)  # fmt: skip
    check(net, (sequence(),), tmp_path / "out", "uint8")
    kinds = [layer for layer in tvm_schedules.load(tmp_path / "out").metadata["layers"] if layer["terms"]]
    assert len(kinds) >= 2
