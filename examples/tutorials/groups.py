"""
Zeros that channels share
=========================

A library reads a pixel once for up to four output channels whose zeros are at the same places. So the same number
of zeros costs less time if they are pruned in blocks of channels. It costs some accuracy, which this shows too.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

import tern_lightning
from examples.digits import Digits, DigitsNet
from tern_lightning import ActivationQuantization, PruningSchedule, TernaryCallback
from tvm_schedules.artifact.inspect import inspect

L.seed_everything(0)
data = Digits(batch_size=32)
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def fit(net: DigitsNet, epochs: int, *callbacks: Callback) -> DigitsNet:
    """Train, say how many held-out digits are recognized, and return the network ready to be used."""
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[*callbacks], **quiet)
    trainer.fit(net.train(), data)
    images, labels = (torch.from_numpy(part) for part in data.held_out)
    with torch.no_grad():
        right = net.eval()(images).argmax(1) == labels
    print(f"{right.float().mean():.1%} of the held-out digits")
    return net


start = fit(DigitsNet(width=16), 8)

# %%
# Both networks get 80 % zeros. ``pattern="block"`` with ``group=(4, 1)`` prunes four output channels together,
# and ``kernel=False`` means at one position of the kernel, not whole kernels. ``factor=0`` makes ``twn`` add
# no zeros of its own, which would not be shared.


def pruned(**options: Any) -> DigitsNet:
    """The float network, gone on with 80 % zeros and 8-bit activations."""
    pruning = PruningSchedule(0.8, every=5, **options)
    ternary = TernaryCallback("twn", options={"factor": 0.0}, verbose=False)
    activations = ActivationQuantization(bits=8, observe_batches=30)
    return fit(copy.deepcopy(start), 8, pruning, ternary, activations)


nets = {
    "single weights": pruned(),
    "groups of four": pruned(pattern="block", group=(4, 1), kernel=False),
}

# %%
# Rows are output channels of one layer, columns are positions. In the second picture four rows are zero together.

figure, axes = plt.subplots(2, 1, figsize=(9, 3.4), layout="constrained")
for axis, (name, net) in zip(axes, nets.items(), strict=True):
    weight = net.state_dict()["blocks.1.conv2.weight"].flatten(1)[:16, :72]
    axis.imshow(weight.sign(), cmap="RdBu", interpolation="nearest")
    axis.set(title=name, xticks=[], yticks=[])
shared = nets["groups of four"].state_dict()["blocks.1.conv2.weight"] == 0
assert torch.equal(shared[0::4], shared[3::4])
plt.show()

# %%
# Nothing has to be said when the network is exported: the compiler finds the groups and counts what they save.

for name, net in nets.items():
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "out"
        tern_lightning.export(net, place, target="host", samples=data.calibration)
        layers = [layer for layer in inspect(place).layers if layer.kind == "ternary"]
        kernels = sorted({str(layer.kernel) for layer in layers})
    sizes = [np.prod(layer.shape) for layer in layers]
    zeros = np.average([layer.sparsity for layer in layers], weights=sizes)
    print(f"{name}: {zeros:.0%} zeros, kernels {', '.join(kernels)}")
