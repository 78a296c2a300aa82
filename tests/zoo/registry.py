"""All architectures of the zoo by name."""

from __future__ import annotations

import torch

from tests.zoo import foreign, hub, plain_sequences, plain_vision
from tests.zoo.network import Example, Network
from tests.zoo.ternary import make_ternary

NETWORKS: dict[str, Network] = {
    **plain_vision.NETWORKS,
    **plain_sequences.NETWORKS,
    **hub.NETWORKS,
    **foreign.NETWORKS,
}


def build(name: str, zeros: float = 0.8) -> Example:
    """Build a network with ternary weights, the same at every call.

    Args:
        name: A key of :data:`NETWORKS`.
        zeros: Share of zeros in a ternary channel.
    """
    torch.manual_seed(0)
    example = NETWORKS[name].make()
    make_ternary(example.module, example.inputs, zeros)
    return example
