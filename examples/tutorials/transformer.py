"""
A transformer
=============

Attention and feed-forward layers of a transformer become ternary like convolutions do. Here the eight rows of a digit
are eight tokens.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import tern_lightning
import tvm_schedules
from examples.digits import Digits
from tern_lightning import TernaryCallback


class Rows(L.LightningModule):
    """Two encoder layers over the rows of an image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(torch.zeros(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``[N, 1, 8, 8]`` -> logits ``[N, 10]``."""
        tokens = self.embed(images[:, 0]) + self.place
        return self.head(self.encoder(tokens).mean(1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Cross entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


L.seed_everything(0)
net, data = Rows(), Digits(batch_size=32)
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
L.Trainer(max_epochs=10, accelerator="cpu", **quiet).fit(net, data.train_dataloader())

# %%
# ``absmean`` was published for language models. The callback prints what becomes ternary: the projections of
# attention, which PyTorch keeps in one parameter, and both feed-forward layers. The first layer and the classifier
# stay float.

ternary = TernaryCallback("absmean", options={"per_channel": True})
L.Trainer(max_epochs=10, accelerator="cpu", callbacks=[ternary], **quiet).fit(
    net, data.train_dataloader()
)
images, labels = data.held_out
with torch.no_grad():
    right = net.eval()(torch.from_numpy(images)).argmax(1).numpy() == labels
print(f"ternary: {right.mean():.1%} of the held-out digits")
assert len(net.state_dict()["encoder.layers.0.linear1.weight"][0].unique()) <= 3

# %%
# A library computes attention by a kernel of its own; ``fallback`` stands for operators that have none.
# ``activations="float32"`` keeps the inputs of layers as they are; with ``ActivationQuantization`` in the training
# they would have 8 bits.

with tempfile.TemporaryDirectory() as folder:
    place = Path(folder) / "out"
    tern_lightning.export(
        net, place, target="host", samples=data.calibration, activations="float32"
    )
    model = tvm_schedules.load(place)
    steps = json.loads((place / "metadata.json").read_text())["steps"]
    logits = model(images)
kernels = {step["kernel"] for step in steps}
print("kernels:", *sorted(kernels))
assert "attention" in kernels
print(f"library: {np.mean(logits.argmax(1) == labels):.1%} of the held-out digits")
