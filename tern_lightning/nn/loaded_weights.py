"""What becomes of weights that are loaded into ternary layers while a run trains them."""

from __future__ import annotations

import torch
from torch import nn

from tern_lightning.nn.layer_types import find_bias, weight_of
from tern_lightning.nn.ternary_layers import TernaryLayer, freeze, swapped_layers, ternary_by_value


@torch.no_grad()
def take_in(layer: TernaryLayer, with_bias: bool) -> None:
    """Make a weight that was loaded during a run one of the layer's phase.

    Ternary values stay what they are until training goes on from them; others are latent weights from now on. Frozen
    codes are chosen anew where they are not those of the loaded weight.
    """
    state, weight, found = layer._ternary_state, weight_of(layer), ternary_by_value(layer)
    layer._ternary_loaded = found is not None and state.phase != "float"
    if state.phase == "frozen":
        if torch.allclose(state.ternary(weight).dequantize(), weight.float(), rtol=1e-4, atol=0):
            return
        if found is None:
            freeze(layer)
        else:
            state.codes = found.codes[0].clone()
    elif found is None and with_bias:
        _take_off_shift(layer)


def resume_training(module: nn.Module) -> list[str]:
    """Train on from ternary weights that were loaded during a run, and return the paths of their layers.

    Where possible the latent weight becomes one with this ternary form. Trained levels become the loaded ones. Other
    methods may find other levels in a weight that is ternary already; most are proportional to the weight, so that a
    latent weight of another size has the loaded levels.
    """
    loaded = {path: layer for path, layer in swapped_layers(module) if layer._ternary_loaded}
    for layer in {id(weight_of(layer)): layer for layer in loaded.values()}.values():
        if layer._ternary_state.running:
            _find_latent(layer)
    for layer in loaded.values():
        layer._ternary_loaded = False
    return list(loaded)


@torch.no_grad()
def _find_latent(layer: TernaryLayer) -> None:
    state, weight, found = layer._ternary_state, weight_of(layer), ternary_by_value(layer)
    if state.phase != "ternary" or found is None:
        return
    state.quantizer.adopt(found)
    again = state.ternary(weight)
    if torch.equal(again.codes, found.codes):
        ratio = found.per_channel.positive / again.per_channel.positive
        resized = weight * found._spread(ratio)[0].to(weight)
        far, farther = ((state.ternary(one).dequantize() - weight).abs().max() for one in (resized, weight))
        if far < farther:  # False where a level of the method is zero
            weight.copy_(resized)
    _take_off_shift(layer)


def _take_off_shift(layer: TernaryLayer) -> None:
    """Make a bias that was loaded, which holds what the method adds to it, the layer's own one."""
    own = find_bias(layer)
    if own is not None and layer._ternary_state.phase == "ternary":
        own.sub_(layer._ternary_state.bias(weight_of(layer), torch.zeros_like(own)))  # type: ignore[arg-type]
