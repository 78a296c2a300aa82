"""
Distillation
============

A ternary network can learn from what its float network says about each class, beside the labels or in place of them.
One callback adds that to the loss; the module does not change.
"""

import copy
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import TensorDataset

from examples.digits import Digits, DigitsNet
from tern_lightning import Distillation, TernaryCallback

L.seed_everything(0)
data = Digits(batch_size=32)
images, labels = (torch.from_numpy(part) for part in data.held_out)
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def fit(net: DigitsNet, digits: Digits, *callbacks: Callback) -> DigitsNet:
    """Train for ten epochs, and return the network ready to be used."""
    L.Trainer(max_epochs=10, accelerator="cpu", callbacks=[*callbacks], **quiet).fit(net, digits)
    return net.eval()


def right(net: DigitsNet) -> float:
    """The share of held-out digits that a network recognizes."""
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


teacher = fit(DigitsNet(width=8), data)
print(f"teacher, float: {right(teacher):.1%} of the held-out digits")

# %%
# Two ternary networks start from the teacher's weights. The first one learns from labels. ``weight`` is the share of
# the teacher in the loss: with 1.0 the second one learns from the teacher alone. To prove that, its labels are random.
# ``temperature`` softens what the teacher says, so that the small probabilities of wrong classes count too.

unlabeled = Digits(batch_size=32)
inputs, _ = data.train.tensors
unlabeled.train = TensorDataset(inputs, torch.randint(0, 10, (len(inputs),)))


def ternary(digits: Digits, *more: Callback) -> DigitsNet:
    """The teacher's weights, trained on as ternary ones."""
    return fit(copy.deepcopy(teacher).train(), digits, TernaryCallback(verbose=False), *more)


shares = {
    "float": right(teacher),
    "ternary, by labels": right(ternary(data)),
    "ternary, by the teacher alone": right(
        ternary(unlabeled, Distillation(teacher, temperature=2.0, weight=1.0))
    ),
}

# %%
# So images without labels are enough to make a trained network ternary. Where there are labels, a ``weight`` between
# 0 and 1 takes both. These few easy digits do not show what that gains; :doc:`/guides/choosing` has figures of a
# longer training on harder data.

for name, share in shares.items():
    print(f"{name}: {share:.1%} of the held-out digits")
assert shares["ternary, by the teacher alone"] > 0.9  # guessing finds 10 %

figure, axis = plt.subplots(figsize=(7, 2))
bars = axis.barh(list(shares), [100 * share for share in shares.values()])
axis.bar_label(bars, fmt="%.1f")
axis.set(xlabel="held-out digits, %", xlim=(0, 110))
axis.invert_yaxis()
figure.tight_layout()
plt.show()
