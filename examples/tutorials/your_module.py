"""
Your own LightningModule
========================

What happens to a module that was not written with this package in mind: which layers become ternary, how to
say otherwise, what to do with layers of your own, and what is in the checkpoint.
"""

import tempfile
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tern_lightning
from tern_lightning import Rule, TernaryCallback

# %%
# A layer type that the package does not know: it multiplies by a parameter that is called ``mix``. One call
# says where the weight is and which of its axes is that of the outputs.


class Mixer(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.mix


tern_lightning.register_layer(Mixer, weight="mix", channel_axis=1, bias=None)


class Classifier(L.LightningModule):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()
        second = nn.Linear(width, width)
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), second, nn.ReLU())
        self.mixer = Mixer(width, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.mixer(self.encoder(x))))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


# %%
# Rules choose layers by name or type; the first one that matches counts. This network gets three methods, and
# the callback prints what it decided and why.

rules = [
    Rule("head.2"),  # a rule without a method leaves the layer float
    Rule("mixer", "ttq"),
    Rule("encoder.*", "absmean", options={"per_channel": True}, keep_ends=True),
    Rule("*", "twn"),
]

digits = load_digits()
images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
batches = DataLoader(TensorDataset(images[:1347], labels[:1347]), batch_size=64, shuffle=True)
L.seed_everything(0)
net = Classifier()
trainer = L.Trainer(
    max_epochs=10,
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    callbacks=[TernaryCallback(rules=rules)],
)
trainer.fit(net, batches)

# %%
# The checkpoint is one of the plain class: it loads without this package, and its weights are ternary.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "ternary.ckpt"
    trainer.save_checkpoint(path)
    plain = Classifier.load_from_checkpoint(path, weights_only=True).eval()

for name, value in plain.named_parameters():
    kind = "ternary" if len(value.unique()) <= 3 else f"{len(value.unique())} values"
    print(f"{name:18} {kind}")

with torch.no_grad():
    right = plain(images[1347:]).argmax(1) == labels[1347:]
    print(f"{right.float().mean():.1%} of the held-out digits")
    assert torch.equal(plain(images), net.eval()(images))
assert len(plain.mixer.mix.unique()) == 3
