"""
Distillation
============

A ternary network learns more from what the float network says about each class than from labels alone. One callback
adds that to the loss; the module does not change.
"""

import copy
from typing import Any

import lightning as L
import matplotlib.pyplot as plt
import torch
from lightning.pytorch.callbacks import Callback

from examples.digits import Digits, DigitsNet
from tern_lightning import Distillation, PruningSchedule, TernaryCallback

L.seed_everything(0)
data = Digits(batch_size=32)
images, labels = (torch.from_numpy(part) for part in data.held_out)
quiet: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def fit(net: DigitsNet, epochs: int, *callbacks: Callback) -> DigitsNet:
    """Train, and return the network ready to be used."""
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=[*callbacks], **quiet)
    trainer.fit(net.train(), data)
    return net.eval()


def logits(net: DigitsNet) -> torch.Tensor:
    """What a network says about the held-out digits."""
    with torch.no_grad():
        return net(images)


teacher = fit(DigitsNet(width=8), 10)
print(
    f"teacher, float: {(logits(teacher).argmax(1) == labels).float().mean():.1%} of the held-out digits"
)

# %%
# Two ternary networks with 90 % zeros start from the teacher's weights. One learns from labels alone, the other
# half from the teacher. ``temperature`` softens what the teacher says, so that also the small probabilities of
# wrong classes count.


def ternary(*more: Callback) -> DigitsNet:
    """The teacher's weights, gone on with 90 % zeros."""
    ours = [
        TernaryCallback("twn", options={"factor": 0.0}, verbose=False),
        PruningSchedule(0.9, every=5),
    ]
    return fit(copy.deepcopy(teacher), 10, *ours, *more)


nets = {
    "labels": ternary(),
    "labels and teacher": ternary(Distillation(teacher, temperature=2.0, weight=0.5)),
}

# %%
# The second one is nearer to the teacher. On these few easy digits that need not mean more right answers;
# :doc:`/guides/choosing` has figures of harder data.

softened = {name: (logits(net) / 2).log_softmax(1) for name, net in nets.items()}
wanted = (logits(teacher) / 2).softmax(1)
apart = {
    name: float(torch.nn.functional.kl_div(said, wanted, reduction="batchmean"))
    for name, said in softened.items()
}
for name, net in nets.items():
    right = (logits(net).argmax(1) == labels).float().mean()
    print(f"{name}: {right:.1%} of the held-out digits, {apart[name]:.3f} from the teacher")
assert apart["labels and teacher"] < apart["labels"]

figure, axis = plt.subplots(figsize=(7, 1.8))
axis.barh(list(apart), list(apart.values()))
axis.set(xlabel="Kullback-Leibler divergence from the teacher, nats")
axis.invert_yaxis()
figure.tight_layout()
plt.show()
