"""
Without training
================

A trained float network becomes ternary from some inputs, without labels and without an optimizer. That costs more
accuracy than training does; this shows how much, and where.
"""

import copy
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import torch

import tern_lightning
from examples.digits import Digits, DigitsNet

L.seed_everything(0)
net, data = DigitsNet(width=16), Digits(batch_size=32)
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
L.Trainer(max_epochs=10, accelerator="cpu", **quiet).fit(net, data)
images, labels = (torch.from_numpy(part) for part in data.held_out)


def accuracy(module: torch.nn.Module) -> float:
    """Share of the held-out digits that are recognized."""
    with torch.no_grad():
        return float((module.eval()(images).argmax(1) == labels).float().mean())


print(f"float: {accuracy(net):.1%} of the held-out digits")

# %%
# ``post_training`` goes through the layers in their order. It chooses each code so that the layer's output stays near
# that of the float network, which makes up for what the layers before it have lost. ``fit=False`` rounds the weights
# alone, for comparison.

inputs = data.train.tensors[0][:512]
found = {}
for fit in (False, True):
    ternary = copy.deepcopy(net)
    layers = tern_lightning.post_training(ternary, inputs, fit=fit)
    found[fit] = accuracy(ternary)
    print(f"{'fitted' if fit else 'rounded'}: {found[fit]:.1%} of the held-out digits")
assert all(len(ternary.state_dict()[f"{path}.weight"].unique()) > 1 for path in layers)

# %%
# ``error`` is how far the outputs of a layer are from those of the float network, beside that of plain rounding. It
# says which layers to leave float by a rule.

for layer in layers.values():
    print(f"{layer.path}: {layer.error:.0%}, rounded {layer.rounded:.0%}")
    assert layer.error <= layer.rounded

# %%
# More zeros cost more. Where you can train, ``TernaryCallback`` gives the same zeros for less.

shares = (0.4, 0.5, 0.6, 0.7, 0.8)
right = []
for share in shares:
    ternary = copy.deepcopy(net)
    tern_lightning.post_training(ternary, inputs, zeros=share)
    right.append(accuracy(ternary))

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.plot(shares, right, marker="o", label="fitted")
axis.axhline(accuracy(net), color="tab:gray", label="float")
axis.set(xlabel="zeros that were asked for", ylabel="accuracy")
axis.legend()
plt.show()
