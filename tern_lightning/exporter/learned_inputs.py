"""Layer inputs with trained levels: found in a module or a checkpoint, and put into the form of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tern_lightning.checkpoint import CheckpointError
from tern_lightning.nn.learned_input import KINDS, LearnedInput
from tvm_schedules.common.reading import reading


def learned_inputs(module: nn.Module) -> dict[str, LearnedInput]:
    """The hooks with trained numbers that are in use, by layer path; a shared layer's under each of its paths."""
    return {
        path: hook
        for path, layer in module.named_modules(remove_duplicate=False)
        for hook in layer._forward_pre_hooks.values()
        if isinstance(hook, LearnedInput) and hook.ready
    }


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
                hook = KINDS[form.pop("kind")](**form)
                hook.load_state_dict(saved)
                module.get_submodule(path).register_forward_pre_hook(hook)
                count += hook.ready
    return count
