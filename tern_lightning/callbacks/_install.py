"""How a run makes layers ternary: those of the model, and those of its averaged copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from tern_lightning.callbacks._state import Layers, find_copies
from tern_lightning.nn.layer_state import LayerState, Phase
from tern_lightning.nn.layer_types import channel_axis, weight_of
from tern_lightning.nn.scalar_trainer import carry_over
from tern_lightning.nn.swap import swap_all, unswap_all
from tern_lightning.quantizers import get_quantizer
from tern_lightning.rules import Decision, adapted, check_bias


def warn_of_float(decisions: Sequence[Decision]) -> None:
    """Warn where every layer stays float, and where trained adapters stand beside frozen float layers."""
    hint = adapted(decisions)
    if all(one.method is None for one in decisions):
        reasons = "; ".join(f"{one.path}: {one.reason}" for one in decisions)
        usual = '. HINT: rules=[Rule("*", "twn")] makes the first and the last layer ternary.'
        rank_zero_warn(f"TernaryCallback leaves every layer in float: {reasons}" + (f". {hint}" if hint else usual))
    elif hint:
        rank_zero_warn(hint)


def make_ternary(
    trainer: pl.Trainer, model: pl.LightningModule, decisions: Sequence[Decision], phase: Phase
) -> tuple[Layers, dict[str, Layers]]:
    """Change the layers of a model and of its averaged copies in place.

    Args:
        trainer: The Trainer, whose other callbacks may hold copies.
        model: The model.
        decisions: What was decided about its layers; all others get their own class back.
        phase: Phase of the layers.

    Returns:
        The ternary layers by path, and those of every copy by the copy's name. A weight that several layers share is
        counted once, at the first of them.
    """
    chosen = {one.path: one for one in decisions if one.method is not None}
    states = _states(chosen, phase)
    copies = find_copies(trainer, {path: one.module for path, one in chosen.items()})
    everything = {name: swap_all(root, states) for name, root in {"": model, **copies}.items()}
    first = {id(states[path]): path for path in reversed(list(chosen))}
    kept = [path for path in chosen if first[id(states[path])] == path]
    found = {name: {path: layers[path] for path in kept} for name, layers in everything.items()}
    return found.pop(""), found


def leave_float(
    trainer: pl.Trainer, model: pl.LightningModule, decisions: Sequence[Decision], layers: Mapping[str, str]
) -> dict[str, str]:
    """Give ternary layers of a model and of its averaged copies their own class back.

    Args:
        trainer: The Trainer, whose other callbacks may hold copies.
        model: The model.
        decisions: What was decided about its layers.
        layers: Why, by the path of the layer.

    Returns:
        Why, by the paths of all layers that have one of these weights.
    """
    modules = {one.path: one.module for one in decisions if one.method is not None}
    states = {id(state): path for path in layers if (state := _state_of(modules.get(path))) is not None}
    found = {path: layers[states[id(s)]] for path, m in modules.items() if id(s := _state_of(m)) in states}
    for root in (model, *find_copies(trainer, {path: modules[path] for path in found}).values()):
        unswap_all(root, states)
    return found


def _state_of(module: nn.Module | None) -> LayerState | None:
    return None if module is None else module.__dict__.get("_ternary_state")


def _states(chosen: Mapping[str, Decision], phase: Phase) -> dict[str, LayerState]:
    """One state for every weight, by the paths of the layers that use it."""
    by_weight: dict[int, LayerState] = {}
    for decision in chosen.values():
        old = _state_of(decision.module)
        codes = old.codes if old is not None and phase == "frozen" else None
        method = get_quantizer(str(decision.method), **decision.options)
        axis, weight = channel_axis(decision.module), weight_of(decision.module)
        carry_over(old, method, weight, axis)
        check_bias(decision, method, shared=id(weight) in by_weight)
        by_weight.setdefault(id(weight), LayerState(method, axis, phase, codes, running=True))
    return {path: by_weight[id(weight_of(one.module))] for path, one in chosen.items()}
