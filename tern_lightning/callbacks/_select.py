"""Which layers a callback works on, by path patterns, and what it cannot work beside."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import Optimizer

from tern_lightning.nn.layer_types import kind_of
from tern_lightning.nn.survey import borrower, survey

SEVERAL_INPUTS = "it has several inputs, or its weight is read without calling it"


def select_layers(
    model: nn.Module,
    include: Sequence[str] | None,
    exclude: Sequence[str],
    optimizers: Sequence[Optimizer] = (),
    inputs: bool = False,
) -> dict[str, nn.Module]:
    """Choose layers by path patterns.

    Args:
        model: The module whose layers are chosen from.
        include: Patterns (``*``, ``?``, ``[...]``); a layer needs to match one. None chooses the layers that
            TernaryCallback makes ternary by default: all that are trained except the first and the last.
        exclude: Patterns of layers that are not chosen.
        optimizers: Those of the run; see :func:`tern_lightning.nn.survey.survey`.
        inputs: Choose only among layers that multiply one input by their weight, so that it can be rounded.

    Raises:
        MisconfigurationException: A pattern matches no layer, or nothing is left.
    """
    there = survey(model, optimizers)
    layers = {path: layer for path, layer in there.layers.items() if path not in there.obstacles}
    if inputs:
        layers = {path: layer for path, layer in layers.items() if has_one_input(path, there.layers)}
    for name, patterns in (("include", include or ()), ("exclude", exclude)):
        for pattern in patterns:
            check_pattern(name, pattern, layers, dict.fromkeys(there.layers, SEVERAL_INPUTS) | there.obstacles)
    usual = there.usual()
    wanted = usual if include is None else [p for p in layers if any(fnmatchcase(p, pattern) for pattern in include)]
    found = {
        path: layers[path]
        for path in wanted
        if path in layers and not any(fnmatchcase(path, pattern) for pattern in exclude)
    }
    if not found:
        raise MisconfigurationException(
            f"include {include} and exclude {list(exclude)} leave none of the layers {list(layers)[:20]}. "
            "HINT: without include the first and the last layer are left out; include=['*'] takes all."
        )
    return found


def has_one_input(path: str, layers: Mapping[str, nn.Module]) -> bool:
    """Whether a layer of a known type is called with one input that it multiplies by its weight."""
    kind = kind_of(layers[path])
    return kind is not None and kind.one_input and borrower(path, layers) is None


def layers_moved_by(trainer: pl.Trainer, optimizer: Optimizer, layers: Mapping[str, nn.Module]) -> list[str]:
    """The paths of the layers whose parameters an optimizer moves; layers that none moves belong to the first one.

    What is trained besides parameters has to move with them: between the steps of two optimizers the same graph may be
    differentiated again.
    """
    where = {id(p): own for own in reversed(trainer.optimizers) for group in own.param_groups for p in group["params"]}
    found = []
    for path, layer in layers.items():
        owners = [where[id(p)] for p in layer.parameters() if id(p) in where] or trainer.optimizers[:1]
        if any(owner is optimizer for owner in owners):
            found.append(path)
    return found


def check_pattern(name: str, pattern: str, layers: Collection[str], others: Mapping[str, str]) -> None:
    """Raise unless a pattern matches one of the layers.

    Args:
        name: Name of the argument, for the message.
        pattern: Pattern of layer paths (``*``, ``?``, ``[...]``).
        layers: Paths of the layers that can be chosen.
        others: Why other layers cannot be chosen, by path.

    Raises:
        MisconfigurationException: It matches none.
    """
    if any(fnmatchcase(path, pattern) for path in layers):
        return
    blocked = next((path for path in others if fnmatchcase(path, pattern)), None)
    if blocked is not None:
        reason = f"which cannot be chosen: {others[blocked]}"
        raise MisconfigurationException(f"{name} pattern {pattern!r} matches layer {blocked!r}, {reason}")
    near = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.3) or list(layers)[:20]
    hint = f"HINT: there are {', '.join(near)}" if near else "the module has no such layer at all"
    raise MisconfigurationException(f"{name} pattern {pattern!r} matches no convolution or linear layer; {hint}")


def check_company(trainer: pl.Trainer, pl_module: pl.LightningModule, who: str) -> None:
    """Refuse what would fail later, or go wrong in silence, when fit starts.

    Args:
        trainer: The Trainer whose callbacks and strategy are looked at.
        pl_module: The module whose parameters are looked at.
        who: Class name of the callback that asks.

    Raises:
        MisconfigurationException: Lightning's own ModelPruning is among the callbacks, or parameters are sharded.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, pl.callbacks.ModelPruning):
            raise MisconfigurationException(
                f"{who} cannot work beside Lightning's ModelPruning, which replaces the weights of layers by products "
                "with masks of its own; HINT: tern_lightning.PruningSchedule prunes beside it"
            )
    from torch.distributed.tensor import DTensor

    sharded = next((name for name, one in pl_module.named_parameters() if isinstance(one, DTensor)), None)
    strategy = trainer.strategy
    why = None if sharded is None else f"{sharded!r} is a DTensor (FSDP2 or tensor parallelism)"
    if isinstance(strategy, pl.strategies.FSDPStrategy) or getattr(strategy, "zero_stage_3", False):
        why = f"{type(strategy).__name__} keeps parts of them"
    if why is not None:
        raise MisconfigurationException(
            f"{who} needs whole weights, and {why}; HINT: strategy='ddp', which keeps them whole"
        )
