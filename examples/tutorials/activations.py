"""
8-bit activations
=================

Libraries are fastest where also the inputs of layers are small integers. ``ActivationQuantization`` lets a
network train with such inputs, so that the export changes nothing more.
"""

import copy
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from examples.digits import Digits, DigitsNet
from tern_lightning import ActivationQuantization, TernaryCallback

L.seed_everything(0)
data = Digits(batch_size=32)
images, labels = (torch.from_numpy(part) for part in data.held_out)


def fit(net: DigitsNet, epochs: int, *callbacks: Callback) -> DigitsNet:
    """Train, and return the network ready to be used."""
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
    L.Trainer(**options, **quiet).fit(net.train(), data)
    return net.eval()


def accuracy(net: DigitsNet) -> float:
    """Share of the held-out digits that are recognized."""
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


start = fit(DigitsNet(width=8), 8)
print(f"float: {accuracy(start):.1%}")

# %%
# Each input of a layer gets a range, which follows the first batches and is then fixed; inside of it, values
# are rounded to 2\ :sup:`bits` steps. We give the same float network ternary weights and inputs of 8, 4 and 2
# bits.

found = {}
for bits in (8, 4, 2):
    callbacks = [
        TernaryCallback(verbose=False),
        ActivationQuantization(bits=bits, observe_batches=30),
    ]
    found[bits] = fit(copy.deepcopy(start), 6, *callbacks)
    print(f"ternary, {bits} bits: {accuracy(found[bits]):.1%}")

# %%
# What enters a layer are few different values: here the second convolution of the first block, for one digit.
# Without the callback the exporter calibrates ranges from samples, which is quicker and costs more accuracy.

figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True)
for axis, (bits, net) in zip(axes, found.items(), strict=True):
    seen: list[torch.Tensor] = []
    hook = net.get_submodule("blocks.0.conv2").register_forward_pre_hook(
        lambda module, inputs, seen=seen: seen.append(inputs[0])
    )
    with torch.no_grad():
        net(images[:1])
    hook.remove()
    values = seen[-1].flatten().numpy()
    axis.plot(np.sort(values[values > 0]), drawstyle="steps-mid")
    axis.set(title=f"{bits} bits: {len(np.unique(values))} values", xlabel="inputs, sorted")
    assert len(np.unique(values)) <= 2**bits
axes[0].set_ylabel("value")
figure.tight_layout()
plt.show()
