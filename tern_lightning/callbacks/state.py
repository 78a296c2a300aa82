"""Latent weights on their way into checkpoints and back, those of averaged copies of the model included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from tern_lightning.layers import TernaryLayer

Layers = dict[str, TernaryLayer]


def find_copies(trainer: pl.Trainer, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Find the copies of the model that other callbacks hold, as weight averaging does.

    Args:
        trainer: The Trainer whose callbacks are searched.
        layers: Layers of the model by path; a copy has layers of the same weight shapes at these paths.

    Returns:
        The copies by a name that a resumed run finds again.
    """
    copies = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for attribute, value in vars(callback).items():
            if isinstance(value, nn.Module):
                for root in (value, getattr(value, "module", None)):
                    if isinstance(root, nn.Module) and layers and _is_copy(root, layers):
                        copies[f"{type(callback).__qualname__}.{attribute}"] = root
                        break
    return copies


def _is_copy(root: nn.Module, layers: Mapping[str, nn.Module]) -> bool:
    modules = dict(root.named_modules())
    for path, layer in layers.items():
        other = modules.get(path)
        weight = None if other is None or other is layer else other._parameters.get("weight")
        mine = layer._parameters["weight"]
        if weight is None or mine is None or weight is mine or weight.shape != mine.shape:
            return False
    return True


def collect(layers: Layers, copies: Mapping[str, Layers]) -> dict[str, Any]:
    """Plain tensors from which :func:`restore` continues: latent weights, frozen codes, what methods train besides."""
    return {
        "latents": _latents(layers),
        "codes": {path: layer._ternary_state.codes for path, layer in layers.items()},
        "methods": {path: layer._ternary_state.quantizer.state() for path, layer in layers.items()},
        "copies": {name: _latents(members) for name, members in copies.items()},
    }


def restore(state: Mapping[str, Any], layers: Layers, copies: Mapping[str, Layers]) -> None:
    """Put back what :func:`collect` saved. A copy that is new in this run starts from the model's own latent weights.

    Raises:
        MisconfigurationException: The checkpoint has other ternary layers.
    """
    saved = set(state["latents"])
    if saved != set(layers):
        raise MisconfigurationException(
            "the checkpoint's ternary layers are not those of this run: "
            f"only in the checkpoint {sorted(saved - set(layers))}, only in this run {sorted(set(layers) - saved)}. "
            "HINT: resume with the rules that the run was started with."
        )
    for path, layer in layers.items():
        codes = state["codes"][path]
        layer._ternary_state.codes = None if codes is None else codes.to(layer.weight.device)
        layer._ternary_state.quantizer.load(state["methods"][path], layer.weight.device)
    _put(state["latents"], layers)
    for name, members in copies.items():
        _put(state["copies"].get(name, state["latents"]), members)


def _latents(layers: Layers) -> dict[str, Tensor]:
    return {path: layer.weight.detach().clone() for path, layer in layers.items()}


@torch.no_grad()
def _put(latents: Mapping[str, Tensor], layers: Layers) -> None:
    for path, layer in layers.items():
        layer.weight.copy_(latents[path])
