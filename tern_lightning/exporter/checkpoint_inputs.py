"""What the callbacks' states in a checkpoint say about rounded layer inputs: ranges, and trained levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tern_lightning.checkpoint import CheckpointError
from tern_lightning.nn.activation_quantizer import LayerRange, saved_range
from tern_lightning.nn.learned_input import INPUT_KINDS
from tvm_schedules.common.reading import reading


def checkpoint_ranges(checkpoint: Mapping[str, Any]) -> dict[str, LayerRange]:
    """Return the ranges in the callback states of a loaded Lightning checkpoint; empty when it has none.

    Raises:
        CheckpointError: A state is damaged.
    """
    found: dict[str, LayerRange] = {}
    for key, state in (checkpoint.get("callbacks") or {}).items():
        if str(key).startswith("ActivationQuantization"):
            with reading(f"the state of {key} in the checkpoint", CheckpointError):
                found.update(_state_ranges(state))
    return found


def _state_ranges(state: Mapping[str, Any]) -> dict[str, LayerRange]:
    return {path: saved_range(layer) for path, layer in state["layers"].items() if layer["ready"]}


def attach_learned_inputs(module: nn.Module, checkpoint: Mapping[str, Any]) -> int:
    """Put the hooks that a Lightning checkpoint knows on a module that was built anew; returns their number.

    Raises:
        CheckpointError: A state is damaged, or the module does not have its layer.
    """
    count = 0
    for key, state in (checkpoint.get("callbacks") or {}).items():
        if not str(key).startswith(("MultiLevelActivation", "CoarseActivation")):
            continue
        with reading(f"the state of {key} in the checkpoint", CheckpointError, "; or it does not fit the module"):
            for path, saved in state.items():
                form = dict(saved["form"])
                hook = INPUT_KINDS[form.pop("kind")](**form)
                hook.load_state_dict(saved)
                module.get_submodule(path).register_forward_pre_hook(hook)
                count += hook.ready
    return count
