"""Layers become ternary by exchanging their class, and get their own class back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.layer_types import find_bias, kind_of, weight_of
from tern_lightning.nn.recurrent_layers import fit_class
from tern_lightning.nn.recurrent_weights import layer_at
from tern_lightning.nn.ternary_layers import (
    TernaryLayer,
    effective_bias,
    effective_weight,
    is_ternary,
    swapped_layers,
    ternary_class,
)
from tern_lightning.nn.weight_mask import MASK_ATTRIBUTE, mask_of, share_mask, weight_mask


def _keep_off_fast_path(module: nn.Module, args: Any) -> None:
    """Forward pre-hook without effect: its presence is what keeps fused code away from the layer."""


def swap(module: nn.Module, state: LayerState) -> TernaryLayer:
    """Make a layer ternary in place, or give a layer that is ternary already a new state."""
    if not isinstance(module, TernaryLayer):
        module.__class__ = ternary_class(type(module))
        # nn.TransformerEncoderLayer hands its layers' weights to one fused kernel in evaluation, which would bypass
        # forward and so use the latent weight, unless one of its modules has a hook.
        module.register_forward_pre_hook(_keep_off_fast_path)
    assert isinstance(module, TernaryLayer)
    if state.mask is None:
        state.mask = weight_mask(module)
    share_mask(state.mask, [module])
    module._ternary_state = state
    module._ternary_loaded = False
    module._ternary_enter(False)
    return module


def swap_all(root: nn.Module, states: Mapping[str, LayerState]) -> dict[str, TernaryLayer]:
    """Make exactly the layers at the paths of ``states`` ternary."""
    for path, layer in list(swapped_layers(root)):
        if path not in states:
            unswap(layer)
    swapped = {path: swap(layer_at(root, path), own) for path, own in states.items()}
    lend(root)
    return swapped


def unswap_all(root: nn.Module, states: Collection[int]) -> None:
    """Give the ternary layers whose state has one of these ids their own class back, with their latent weights."""
    for _, layer in list(swapped_layers(root)):
        if id(layer._ternary_state) in states:
            unswap(layer)
    lend(root)


def make_plain(root: nn.Module) -> None:
    """Give all ternary layers of a module their own class back, with the weight and bias that forward uses now."""
    layers = list(swapped_layers(root))
    # All of them before the first is changed: layers may share a weight.
    values = [
        layer.ternary().dequantize().to(weight_of(layer)) if is_ternary(layer) else effective_weight(layer).clone()
        for _, layer in layers
    ]
    biases = [effective_bias(layer) for _, layer in layers]
    for (_, layer), value, bias in zip(layers, values, biases, strict=True):
        own = find_bias(layer)
        weight_of(layer).data = value
        if own is not None and bias is not None:
            own.data = bias.clone()
        unswap(layer)
    lend(root)


def lend(root: nn.Module) -> None:
    """Let layers that read the weight of a child without calling it (nn.MultiheadAttention) find the ternary one.

    Recurrent modules, which have several weights, find theirs too.

    To be called after layers of ``root`` have been swapped or given their class back.
    """
    fit_class(root)
    for owner in root.modules():
        for key in [key for key, hook in owner._forward_pre_hooks.items() if hook is _lend]:
            del owner._forward_pre_hooks[key]
        for key in [key for key, hook in owner._forward_hooks.items() if hook is _take_back]:
            del owner._forward_hooks[key]
            del owner._forward_hooks_always_called[key]
        if _borrowed(owner):
            owner.register_forward_pre_hook(_lend)
            owner.register_forward_hook(_take_back, always_call=True)


def _borrowed(owner: nn.Module) -> list[TernaryLayer]:
    kind = kind_of(owner)
    children = [] if kind is None else [owner._modules.get(name) for name in kind.borrowed]
    return [child for child in children if isinstance(child, TernaryLayer)]


def _lend(owner: nn.Module, args: Any) -> None:
    for child in _borrowed(owner):
        child._ternary_enter(True)


def _take_back(owner: nn.Module, args: Any, output: Any) -> None:
    for child in _borrowed(owner):
        child._ternary_enter(False)


def unswap(module: TernaryLayer) -> None:
    """Give a layer its own class back. Its weight stays the latent one."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if hook is _keep_off_fast_path:
            del module._forward_pre_hooks[key]
    module.__class__ = module._ternary_base  # type: ignore[assignment]
    for name in ("_ternary_state", "_ternary_inside", "_ternary_seen", "_ternary_loaded"):
        del module.__dict__[name]
    if mask_of(module) is None:
        module.__dict__.pop(MASK_ATTRIBUTE, None)
