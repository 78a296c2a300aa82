"""How training goes on from ternary weights that were loaded during a run."""

from __future__ import annotations

import torch
from torch import nn

from tern_lightning.nn.layer_types import weight_of
from tern_lightning.nn.ternary_layers import TernaryLayer, swapped_layers, take_off_shift, ternary_by_value


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
    take_off_shift(layer)
