"""
Fashion-MNIST
=============

The same steps on larger images: a ResNet-20 for 28x28 pixels. With Fashion-MNIST on this machine, the page trains on
some of it; elsewhere it draws images of ten kinds in the same format, so that it runs anywhere.
"""

from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from examples import datasets
from examples.fashion_mnist import FashionNet
from tern_lightning import ActivationQuantization, PruningSchedule, TernaryCallback

L.seed_everything(0)


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rings, bars and their mixtures, with noise: bytes ``[count, 1, 28, 28]`` and their kinds."""
    rng = np.random.default_rng(count)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    kinds = rng.integers(0, 10, count)
    turn = kinds * np.pi / 10 + rng.normal(0, 0.05, count)
    along = np.cos(turn)[:, None, None] * x + np.sin(turn)[:, None, None] * y
    rings = np.cos((4 + kinds % 5)[:, None, None] * np.hypot(x, y))
    images = 128 + 70 * np.cos(9 * along) + 30 * rings + rng.normal(0, 20, (count, 28, 28))
    return images.clip(0, 255).astype(np.uint8)[:, None], kinds


try:
    found = datasets.mnist_format(datasets.fashion_mnist(None))
    train, test = ((images[:1500], labels[:1500]) for images, labels in (found.train, found.test))
    print("Fashion-MNIST, the first 1500 images of its two parts")
except datasets.DatasetError:
    train, test = drawn(1500), drawn(1501)
    print(
        "drawn images: Fashion-MNIST is not here (python -m examples.fashion_mnist --fetch gets it)"
    )

figure, axes = plt.subplots(1, 8, figsize=(9, 1.4))
for axis, image in zip(axes, train[0][:8], strict=True):
    axis.imshow(image[0], cmap="gray")
    axis.axis("off")

# %%
# The network is the one of ``python -m examples.fashion_mnist``, with fewer channels. It has 18 layers between the
# first and the last one, and all of these become ternary.

net = FashionNet(width=4)
pairs = TensorDataset(torch.from_numpy(train[0]), torch.from_numpy(train[1]).long())
batches = DataLoader(pairs, batch_size=50, shuffle=True)


def fit(epochs: int, *callbacks: Callback) -> float:
    """Train, and return the accuracy on the test images."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[*callbacks], **quiet)
    trainer.fit(net.train(), batches)
    with torch.no_grad():
        logits = net.eval()(torch.from_numpy(test[0]).float() / 255)
    return float((logits.argmax(1).numpy() == test[1]).mean())


print(f"float: {fit(3):.1%} of the test images")

# %%
# 80 % zeros and 8-bit inputs of layers, as for a fast library. So few images and epochs say little about accuracy; the
# whole training and its measurements are ``python -m examples.fashion_mnist``.

callbacks = [
    TernaryCallback("twn", options={"factor": 0.0}, verbose=False),
    PruningSchedule(0.8, every=5),
    ActivationQuantization(bits=8, observe_batches=20),
]
print(f"ternary, 80 % zeros, 8-bit activations: {fit(3, *callbacks):.1%} of the test images")
weights = [
    value
    for path, value in net.state_dict().items()
    if value.ndim == 4 and len(value.unique()) <= 3
]
zeros = sum(int((value == 0).sum()) for value in weights) / sum(value.numel() for value in weights)
print(f"{len(weights)} ternary layers, {zeros:.0%} zeros")
assert len(weights) == 18
assert abs(zeros - 0.8) < 0.01
