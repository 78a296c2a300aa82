"""Latent weights on their way into checkpoints and back, those of averaged copies of the model included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from tern_lightning.nn.layer_types import find_bias, find_weight, weight_of
from tern_lightning.nn.recurrent_weights import named_layers
from tern_lightning.nn.ternary_layers import TernaryLayer
from tern_lightning.rules import Decision, named_methods

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
    modules = dict(named_layers(root))
    for path, layer in layers.items():
        other = modules.get(path)
        weight = None if other is None or other is layer else find_weight(other)
        mine = weight_of(layer)
        if weight is None or weight is mine or weight.shape != mine.shape:
            return False
    return True


def check_methods(state: Mapping[str, Any], decisions: Sequence[Decision]) -> None:
    """Compare the methods of a run with those of the checkpoint from which it goes on.

    Raises:
        MisconfigurationException: A layer was trained by another method. Other options of a method only warn, and so
            does another method before ternary training has begun.
    """
    saved, now = state.get("named", {}), named_methods(decisions)
    other = {path: (saved[path], now[path]) for path in now if path in saved and saved[path] != now[path]}
    if not other:
        return
    changes = "; ".join(f"{path}: {was} in the checkpoint, {is_} in this run" for path, (was, is_) in other.items())
    if state["phase"] != "float" and any(was.split("(")[0] != is_.split("(")[0] for was, is_ in other.values()):
        raise MisconfigurationException(
            f"a run cannot go on with another ternary method: {changes}. HINT: the method that the run was started "
            "with; for another one start a new run from the checkpoint's weights, without ckpt_path."
        )
    rank_zero_warn(f"the run goes on with other methods than the checkpoint's: {changes}")


def collect(layers: Layers, copies: Mapping[str, Layers]) -> dict[str, Any]:
    """Plain tensors from which :func:`restore` continues: latent weights, frozen codes, what methods train besides."""
    return {
        "latents": _latents(layers),
        "codes": {path: layer._ternary_state.codes for path, layer in layers.items()},
        "methods": {path: layer._ternary_state.quantizer.state() for path, layer in layers.items()},
        "copies": {name: _latents(members) for name, members in copies.items()},
        "biases": {name: _biases(members) for name, members in {"": layers, **copies}.items()},
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
        layer._ternary_state.codes = None if codes is None else codes.to(weight_of(layer).device)
        layer._ternary_state.quantizer.load(state["methods"][path], weight_of(layer).device)
    _put(state["latents"], layers)
    for name, members in copies.items():
        _put(state["copies"].get(name, state["latents"]), members)
    for name, members in {"": layers, **copies}.items():
        for path, bias in state["biases"].get(name, state["biases"][""]).items():
            _put_bias(members[path], bias)


def _latents(layers: Layers) -> dict[str, Tensor]:
    return {path: weight_of(layer).detach().clone() for path, layer in layers.items()}


def _biases(layers: Layers) -> dict[str, Tensor]:
    """The biases without what a method adds to them, where one does."""
    adding = {path: layer for path, layer in layers.items() if layer._ternary_state.quantizer.uses_bias}
    own = {path: find_bias(layer) for path, layer in adding.items()}
    return {path: bias.detach().clone() for path, bias in own.items() if bias is not None}


@torch.no_grad()
def _put_bias(layer: TernaryLayer, value: Tensor) -> None:
    bias = find_bias(layer)
    assert bias is not None
    bias.copy_(value)


@torch.no_grad()
def _put(latents: Mapping[str, Tensor], layers: Layers) -> None:
    for path, layer in layers.items():
        layer._ternary_loaded = False
        weight_of(layer).copy_(latents[path])
