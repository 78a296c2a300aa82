"""
Plain PyTorch and Fabric
========================

The callbacks need Lightning's Trainer, the methods do not: in a loop of your own, ``ternarize`` and
``freeze`` take the callback's place.
"""

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn

import tern_lightning

digits = load_digits()
images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)


def network() -> nn.Sequential:
    """A perceptron with two layers that become ternary and two that stay float."""
    hidden = [nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), *hidden, nn.Linear(128, 10))


def accuracy(net: nn.Module) -> float:
    """Share of the 450 held-out digits that are recognized."""
    with torch.no_grad():
        return float((net(images[1347:]).argmax(1) == labels[1347:]).float().mean())


# %%
# ``ternarize`` works in place and says what it did. Parameters keep their names and shapes, so that the
# optimizer stays as it is; it is named so that layers which it does not move stay float, and so that methods
# with trained levels can have these moved with its steps.

torch.manual_seed(0)
net = network()
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
for layer in tern_lightning.ternarize(net, "twn", optimizer=optimizer):
    print(f"layer {layer.path}: {layer.method or 'float'} ({layer.reason})")

# %%
# The loop is yours. Two thirds of the way the codes are frozen: from there on, which weight is -1, 0 or +1
# does not change, and training settles the levels and everything else.

STEPS = 300
for step in range(STEPS):
    if step == STEPS * 2 // 3:
        tern_lightning.freeze(net)
    batch = torch.randint(0, 1347, (64,))
    optimizer.zero_grad()
    F.cross_entropy(net(images[batch]), labels[batch]).backward()
    optimizer.step()

print(f"{accuracy(net):.1%} of the held-out digits")

# %%
# ``to_plain`` gives a copy of plain classes with the ternary weights, for any other tool.

plain = tern_lightning.to_plain(net)
print(
    type(plain[2]), [round(value, 4) for value in plain.state_dict()["2.weight"].unique().tolist()]
)
assert torch.equal(plain(images), net(images))

# %%
# With Fabric the same call comes before ``setup``.

fabric = Fabric(accelerator="cpu")
net = network()
optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
tern_lightning.ternarize(net, "ttq", optimizer=optimizer)
model, optimizer = fabric.setup(net, optimizer)
for _ in range(150):
    batch = torch.randint(0, 1347, (64,))
    optimizer.zero_grad()
    fabric.backward(F.cross_entropy(model(images[batch]), labels[batch]))
    optimizer.step()
tern_lightning.freeze(net)
print(f"{accuracy(net):.1%} of the held-out digits, with ttq and Fabric")
assert len(tern_lightning.to_plain(net).state_dict()["2.weight"].unique()) == 3
