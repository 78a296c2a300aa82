"""
Prune to 90 %
=============

Every zero weight is an addition that the compiled library does not make. A ternary method makes some zeros by
itself; ``PruningSchedule`` makes as many as you want.
"""

from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import torch
from lightning.pytorch.callbacks import Callback

from examples.digits import Digits, DigitsNet
from tern_lightning import PruningSchedule, TernaryCallback

# %%
# The small residual network and the data are those of ``make demo``.

L.seed_everything(0)
net = DigitsNet(width=8)
data = Digits(batch_size=32)


class Zeros(Callback):
    """Remembers the share of zeros, which ``TernaryCallback`` logs after every epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append(float(trainer.callback_metrics["ternary/sparsity"]))


def fit(epochs: int, *callbacks: Callback) -> float:
    """Train, and return the accuracy on the digits that are held out."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*callbacks],
        enable_checkpointing=False,
        **quiet,
    )
    trainer.fit(net.train(), data)
    images, labels = (torch.from_numpy(part) for part in data.held_out)
    with torch.no_grad():
        return float((net.eval()(images).argmax(1) == labels).float().mean())


print(f"float: {fit(8):.1%} of the held-out digits")

# %%
# The schedule prunes the smallest weights of all ternary layers together, a few every step, until half of the
# training is over. What is left is trained on. ``factor=0`` makes ``twn`` add no zeros of its own, so that
# the share is the one that we ask for. Without it ``twn`` makes a few more.

zeros = Zeros()
callbacks = [
    TernaryCallback("twn", options={"factor": 0.0}, verbose=False),
    PruningSchedule(0.9, every=5),
    zeros,
]
print(f"ternary, 90 % zeros: {fit(12, *callbacks):.1%} of the held-out digits")
print(f"zeros after every epoch: {', '.join(f'{share:.0%}' for share in zeros.seen)}")
assert abs(zeros.seen[-1] - 0.9) < 0.01

# %%
# Small layers lose less than large ones, because one threshold counts for all of them.

paths = [
    path
    for path, value in net.state_dict().items()
    if value.ndim == 4 and not path.startswith("stem")
]
shares = [float((net.state_dict()[path] == 0).float().mean()) for path in paths]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
left.plot(range(1, len(zeros.seen) + 1), zeros.seen, marker="o")
left.set(xlabel="epoch", ylabel="share of zeros", ylim=(0, 1), title="the schedule")
right.barh([path.removesuffix(".weight") for path in paths], shares)
right.set(xlabel="share of zeros", xlim=(0, 1), title="by layer")
right.invert_yaxis()
figure.tight_layout()
plt.show()
