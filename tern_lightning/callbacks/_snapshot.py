"""Everything that training changes in a network, copied and put back."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from tern_lightning.callbacks._state import find_copies
from tern_lightning.nn.ternary_layers import TernaryLayer

Tensors = dict[str, Tensor]


def tensors(trainer: pl.Trainer, pl_module: pl.LightningModule, layers: Mapping[str, nn.Module]) -> Tensors:
    """What training changes, by name: tensors of the model, of averaged copies of it, of methods that train scalars.

    Args:
        trainer: The Trainer, whose callbacks may hold copies of the model.
        pl_module: The model.
        layers: The layers that a callback works on, by path: those of them that are ternary have a method.
    """
    roots: dict[str, nn.Module] = {"": pl_module, **find_copies(trainer, layers)}
    for path, layer in layers.items():
        if isinstance(layer, TernaryLayer):
            roots[f"method of {path}"] = layer._ternary_state.quantizer
    return {
        f"{root}:{name}": tensor
        for root, module in roots.items()
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers())
    }


def take(found: Mapping[str, Tensor]) -> Tensors:
    """Copies of tensors."""
    return {name: tensor.detach().clone() for name, tensor in found.items()}


@torch.no_grad()
def put_back(saved: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Give tensors the values that :func:`take` has copied; those that were not there then keep theirs."""
    for name, tensor in found.items():
        if name in saved:
            tensor.copy_(saved[name])
