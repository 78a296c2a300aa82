"""
Ternary digits
==============

We train a small network on handwritten digits, first in float and then with ternary weights, and look at what
became of the weights. Everything that concerns ternary weights is one callback.
"""

from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tern_lightning import TernaryCallback

# %%
# The network is an ordinary LightningModule. It knows nothing of ternary weights.


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self.layers(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


# %%
# The first 1347 digits are for training, the other 450 are held out.

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
labels = torch.tensor(digits.target)
batches = DataLoader(TensorDataset(images[:1347], labels[:1347]), batch_size=64, shuffle=True)


def fit(net: Net, epochs: int, *callbacks: L.Callback) -> float:
    """Train, and return the accuracy on the digits that are held out."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    options: dict[str, Any] = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "callbacks": [*callbacks],
        "enable_checkpointing": False,
    }
    L.Trainer(**options, **quiet).fit(net.train(), batches)
    with torch.no_grad():
        return float((net.eval().layers(images[1347:]).argmax(1) == labels[1347:]).float().mean())


L.seed_everything(0)
net = Net()
print(f"float: {fit(net, 8):.1%} of the held-out digits")
before = net.state_dict()["layers.6.weight"].clone()

# %%
# Now the same network goes on with ternary weights. ``TernaryCallback()`` means the method ``twn``: weights
# smaller than 0.7 times the mean magnitude become zero, the others one common level with their sign. The
# callback prints which layers are ternary; the first and the last one stay float, because they are small and
# sensitive.

print(f"ternary: {fit(net, 8, TernaryCallback()):.1%} of the held-out digits")

# %%
# The optimizer goes on moving float weights, which are called *latent*. The network computes with their
# ternary values, and ``state_dict`` holds these, so that a checkpoint loads into the plain class.

values = net.state_dict()["layers.6.weight"]
print("values of the layer:", [round(value, 4) for value in values.unique().tolist()])
print(f"zeros: {(values == 0).float().mean():.0%}")
assert len(values.unique()) == 3

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), sharex=True)
left.hist(before.flatten().numpy(), bins=60, color="tab:gray")
left.set(title="float", xlabel="weight", ylabel="how many")
right.hist(values.flatten().numpy(), bins=60, color="tab:blue")
right.set(title="ternary", xlabel="weight")
figure.tight_layout()
plt.show()
