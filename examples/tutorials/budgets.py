"""
A budget in place of a share of zeros
=====================================

How many zeros does each layer need, so that the whole network makes at most so many additions? A budget finds that out
while the network is trained.
"""

from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import torch
from lightning.pytorch.callbacks import Callback

from examples.digits import Digits, DigitsNet
from tern_lightning import OperationBudget, Schedule, SparsityBudget, TernaryCallback

L.seed_everything(0)
net, data = DigitsNet(width=8), Digits(batch_size=32)
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
L.Trainer(max_epochs=8, accelerator="cpu", **quiet).fit(net, data)

# %%
# Two limits at once: additions for one image, and the share of zeros. Every few steps each layer gets the zeros at
# which the loss grows least, more and more until half of the training is over. ``SizeBudget`` and ``LatencyBudget``
# limit bytes and estimated milliseconds in the same way; they lower the network for a target first.

half = Schedule("cubic", end=0.5)
budgets = [
    OperationBudget(100_000, schedule=half, every=5),
    SparsityBudget(0.7, schedule=half, every=5),
]


class Course(Callback):
    """Remembers what the budgets log: an estimate and its limit."""

    def __init__(self) -> None:
        self.seen: dict[str, list[float]] = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the estimates of the epoch as shares of their limits."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith("budget/") and not name.endswith("/limit"):
                share = float(value) / float(trainer.callback_metrics[f"{name}/limit"])
                self.seen.setdefault(name, []).append(share)


course = Course()
callbacks = [TernaryCallback("twn", verbose=False), *budgets, course]
L.Trainer(max_epochs=12, accelerator="cpu", callbacks=callbacks, **quiet).fit(net.train(), data)

images, labels = (torch.from_numpy(part) for part in data.held_out)
with torch.no_grad():
    right = net.eval()(images).argmax(1) == labels
print(f"{right.float().mean():.1%} of the held-out digits")
for name, shares in course.seen.items():
    print(f"{name}: {shares[-1]:.0%} of the limit")
    assert shares[-1] < 1.02

# %%
# Layers that cost much, such as those over large images, have more zeros than others.

paths = [
    path
    for path, value in net.state_dict().items()
    if value.ndim == 4 and not path.startswith("stem")
]
zeros = [float((net.state_dict()[path] == 0).float().mean()) for path in paths]
figure, (left, right_axis) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
for name, shares in course.seen.items():
    left.plot(range(1, len(shares) + 1), shares, marker="o", label=name)
left.axhline(1, color="tab:gray", linewidth=0.8)
left.set(xlabel="epoch", ylabel="estimate / limit", ylim=(0, None))
left.legend()
right_axis.barh([path.removesuffix(".weight") for path in paths], zeros)
right_axis.set(xlabel="share of zeros", xlim=(0, 1))
right_axis.invert_yaxis()
plt.show()
