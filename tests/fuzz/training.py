"""A small network and what Lightning keeps of its training, for the readers of checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tern_lightning.nn.activation_quantizer import InputFakeQuantizer
from tern_lightning.nn.learned_input import MultiLevelInput


class Net(nn.Module):
    """Two layers; hyper-parameters as a Lightning module has them."""

    def __init__(self, width: int = 4, act: str = "relu") -> None:
        super().__init__()
        self.act = act
        self.body = nn.Linear(3, width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(torch.relu(self.body(x)))


def trained() -> dict[str, Any]:
    """A checkpoint with the states that the exporter reads."""
    torch.manual_seed(0)
    net = Net()
    net.body.weight.data = net.body.weight.data.sign() / 4
    ranges, levels = InputFakeQuantizer(8), MultiLevelInput(2, True, False)
    ranges.observe(torch.randn(8, 3))
    levels.start(torch.tensor([4.0, 4.0]))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": dict(net.state_dict()),
        "hyper_parameters": {"width": 4, "act": "relu"},
        "hparams_name": "kwargs",
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {
            "ActivationQuantization{'bits': 8}": {"layers": {"body": ranges.state_dict()}},
            "MultiLevelActivation": {"head": levels.state_dict()},
        },
    }
