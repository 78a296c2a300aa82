"""Copies of modules that ``copy.deepcopy`` alone refuses to make."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

M = TypeVar("M", bound=nn.Module)


def independent_copy(module: M) -> M:
    """A deep copy of a module. Results of computations that it holds are constants in the copy.

    ``copy.deepcopy`` refuses tensors that have been computed with gradients. Modules hold such tensors between two
    calls of forward: the weight of ``nn.utils.weight_norm`` and ``nn.utils.spectral_norm``, or an output that a
    module has kept.

    Args:
        module: Any module; it is not changed.
    """
    computed = {id(t): t for one in module.modules() for t in _tensors(one.__dict__) if not t.is_leaf}
    # What deepcopy finds in its memory it takes as the copy.
    memory: dict[int, Any] = {key: tensor.detach().clone() for key, tensor in computed.items()}
    twin: M = copy.deepcopy(getattr(module, "_orig_mod", module), memory)  # what torch.compile wraps
    return twin


@torch.no_grad()
def fix_normalized_weights(module: nn.Module) -> None:
    """Replace weights that forward computes from others by parameters with the values that they have now.

    Those of ``nn.utils.weight_norm``, ``nn.utils.spectral_norm`` and of ``nn.utils.parametrize``, with which their
    successors in ``nn.utils.parametrizations`` are made.

    Args:
        module: In evaluation mode; it is changed.
    """
    for layer in list(module.modules()):
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(layer, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(layer, hook.name)
        if parametrize.is_parametrized(layer):
            # Not by remove_parametrizations, which changes the class; a deep copy has it in common with the original.
            values = {name: getattr(layer, name).clone() for name in layer.parametrizations}  # type: ignore[union-attr]
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer._modules["parametrizations"]
            for name, value in values.items():
                layer.register_parameter(name, nn.Parameter(value))


def _tensors(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """Tensors in an attribute, also within nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, (dict, list, tuple, set)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth - 1)
