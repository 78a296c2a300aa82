"""Layer inputs with trained levels: found in a module or a checkpoint, and put into the form of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tern_lightning.checkpoint import CheckpointError
from tern_lightning.learned import KINDS, LearnedInput
from tvm_schedules.reading import reading


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


def write_learned_inputs(module: nn.Module) -> None:
    """Let the hooks compute by :meth:`LearnedInput.write` from now on, so that a trace has these operators."""
    for layer in module.modules():
        hooks = layer._forward_pre_hooks
        for key, hook in list(hooks.items()):
            if isinstance(hook, LearnedInput):
                hooks[key] = _Written(hook)


class _Written:
    """The forward pre-hook that stands for a :class:`LearnedInput` in a trace."""

    def __init__(self, hook: LearnedInput) -> None:
        self.hook, self.value = hook, hook.value.tolist()

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.hook.write(inputs[0], self.value), *inputs[1:]) if self.hook.ready else inputs
