"""Additions and multiplications of all layers of a network, found by running it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tern_lightning.functional.operations import OperationCount, count_operations
from tern_lightning.nn.layer_types import channel_axis, find_bias, kind_of, weight_of
from tern_lightning.nn.recurrent_weights import weights_of
from tern_lightning.nn.ternary_layers import effective_weight, is_ternary
from tern_lightning.ternary_tensor import TernaryTensor


@torch.no_grad()
def module_operations(module: nn.Module, *inputs: Any) -> dict[str, OperationCount]:
    """Count the operations of every convolution and linear layer of a network for one sample, by path.

    Those of an nn.MultiheadAttention are the products with its four weights (``out_proj`` by its own path), not those
    of queries with keys and of weights with values. Those of recurrent modules are the products with their weights in
    all steps, each by the weight's own path.

    Args:
        module: The network; ternary layers count as such.
        inputs: Arguments of its forward, with a batch of samples first.
    """
    found: dict[str, OperationCount] = {}
    handles = []
    for path, layer in module.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            handles.append(layer.register_forward_hook(_AttentionCount(path, found), with_kwargs=True))
        if isinstance(layer, nn.RNNBase):
            handles.append(layer.register_forward_hook(_RecurrentCount(path, found)))
        kind = kind_of(layer)
        if kind is None or not kind.one_input:
            continue

        def count(layer: Any, args: Any, output: Tensor, path: str = path) -> None:
            weight, positions = _weight_now(layer), _positions(layer, args, output)
            here = count_operations(weight, positions, find_bias(layer) is not None, channel_axis(layer))
            found[path] = found[path] + here if path in found else here

        handles.append(layer.register_forward_hook(count))
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def layer_positions(module: nn.Module, *inputs: Any) -> dict[str, tuple[int, int]]:
    """How often the weights of every convolution and linear layer are applied to one sample, and how many there are.

    Args:
        module: The network.
        inputs: Arguments of its forward, with a batch of samples first.

    Returns:
        By path; layers that have several inputs, and recurrent ones, are not among them.
    """
    found: dict[str, tuple[int, int]] = {}
    handles = []
    for path, layer in module.named_modules():
        kind = kind_of(layer)
        if kind is not None and kind.one_input:

            def count(layer: Any, args: Any, output: Tensor, path: str = path) -> None:
                before = found[path][0] if path in found else 0
                found[path] = before + _positions(layer, args, output), weight_of(layer).numel()

            handles.append(layer.register_forward_hook(count))
    try:
        module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _positions(layer: Any, args: Any, output: Tensor) -> int:
    """How often one sample's call of a layer applies each of its weights."""
    turned = bool(getattr(layer, "transposed", False))
    outputs = weight_of(layer).shape[channel_axis(layer)]
    tensor, channels = (args[0], layer.in_channels) if turned else (output, outputs)
    return int(tensor.numel() // (args[0].shape[0] * channels))


class _RecurrentCount:
    """Forward hook of a recurrent module that adds the operations of its weights."""

    def __init__(self, path: str, found: dict[str, OperationCount]) -> None:
        self.path, self.found = path, found

    def __call__(self, module: nn.RNNBase, args: Any, output: Any) -> None:
        if not isinstance(args[0], Tensor):
            return  # sequences of several lengths have no number of steps
        steps = _tokens(args[0], module.batch_first)
        for name, layer in weights_of(module).items():
            path = f"{self.path}.{name}".lstrip(".")
            here = count_operations(_weight_now(layer), steps, module.bias and not name.startswith("weight_hr"))
            self.found[path] = self.found[path] + here if path in self.found else here


def _weight_now(layer: nn.Module) -> Tensor | TernaryTensor:
    return layer.ternary() if is_ternary(layer) else effective_weight(layer)


class _AttentionCount:
    """Forward hook of an nn.MultiheadAttention that adds the operations of its four products."""

    def __init__(self, path: str, found: dict[str, OperationCount]) -> None:
        self.path, self.found = path, found

    def __call__(self, layer: nn.MultiheadAttention, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        tokens = [_tokens(given[name], layer.batch_first) for name in ("query", "key", "value")]
        bias, size = layer.in_proj_bias is not None, layer.embed_dim
        if layer._parameters["in_proj_weight"] is None:
            parts: list[Any] = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
        else:
            packed = _weight_now(layer)
            slices = [slice(start, start + size) for start in (0, size, 2 * size)]
            parts = [packed.outputs(one) if isinstance(packed, TernaryTensor) else packed[one] for one in slices]
        self._add(self.path, [count_operations(one, n, bias) for one, n in zip(parts, tokens, strict=True)])
        out = [count_operations(_weight_now(layer.out_proj), tokens[0], layer.out_proj.bias is not None)]
        self._add(f"{self.path}.out_proj".lstrip("."), out)

    def _add(self, path: str, counts: list[OperationCount]) -> None:
        for one in counts:
            self.found[path] = self.found[path] + one if path in self.found else one


def _tokens(x: Tensor, batch_first: bool) -> int:
    return int(x.shape[1 if batch_first and x.ndim == 3 else 0])
