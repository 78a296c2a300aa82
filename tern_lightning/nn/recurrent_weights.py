"""The weights of nn.LSTM, nn.GRU and nn.RNN, each seen as a layer of its own.

These modules multiply by two weights for every layer and direction, in one call that no weight can be told from. What
works on layers with one weight gets a :class:`RecurrentWeight` for each of them, whose path is the parameter's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

PARTS = "_recurrent_weights"


class RecurrentWeight(nn.Module):
    """One weight of a recurrent module, without being one of its children: nothing appears in a ``state_dict``.

    Args:
        owner: The recurrent module.
        name: Name of the parameter, such as ``weight_hh_l0_reverse``.
    """

    owner: nn.RNNBase
    name: str

    def __init__(self, owner: nn.RNNBase, name: str) -> None:
        super().__init__()
        self.__dict__.update(owner=owner, name=name)

    @property
    def _parameters(self) -> dict[str, Any]:
        """The owner's parameter, whichever it is now, by the name that it has here."""
        own = self.owner._parameters
        return {"weight": own[self.name]} if self.name in own else {}

    @_parameters.setter
    def _parameters(self, value: dict[str, Any]) -> None:
        """What nn.Module sets first, which is empty."""

    @property
    def training(self) -> bool:
        """The owner's mode."""
        return bool(self.owner.training)

    @training.setter
    def training(self, value: bool) -> None:
        """The mode is the owner's."""

    def forward(self, x: Tensor) -> Tensor:
        """Not called: the owner multiplies.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"{self.name} is a weight of {type(self.owner).__name__}, which multiplies by it itself")


def weights_of(module: nn.Module) -> dict[str, RecurrentWeight]:
    """The weights of a recurrent module by their names; none of any other module."""
    if not isinstance(module, nn.RNNBase):
        return {}
    if PARTS not in module.__dict__:
        names = [name for group in module._all_weights for name in group if name.startswith("weight")]
        module.__dict__[PARTS] = {name: RecurrentWeight(module, name) for name in names}
    found: dict[str, RecurrentWeight] = module.__dict__[PARTS]
    return found


def named_layers(root: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, nn.Module]]:
    """``root.named_modules``, and behind every recurrent module its weights."""
    for path, module in root.named_modules(remove_duplicate=remove_duplicate):
        yield path, module
        for name, weight in weights_of(module).items():
            yield f"{path}.{name}" if path else name, weight


def layer_at(root: nn.Module, path: str) -> nn.Module:
    """``root.get_submodule``, which finds the weights of recurrent modules too.

    Raises:
        AttributeError: There is none.
    """
    head, _, name = path.rpartition(".")
    if name.startswith("weight"):
        weight = weights_of(root.get_submodule(head)).get(name)
        if weight is not None:
            return weight
    return root.get_submodule(path)
