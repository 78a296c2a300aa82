"""The exported network held against the module."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tern_lightning.activations import ActivationRange
from tern_lightning.onnx.errors import ExportError, VerificationError
from tern_lightning.onnx.prepare import channel_axis, weight_layers
from tern_lightning.onnx.runtime import FLOAT_TOLERANCE, STEP_TOLERANCE, Comparison, compare, run_onnx


def check_model(model: onnx.ModelProto) -> None:
    """Run onnx's own checks, types and shapes included.

    Raises:
        ExportError: The model is not valid ONNX.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ExportError(f"the written ONNX is not valid: {str(error).strip().splitlines()[0]}") from error


def flatten_outputs(result: object) -> list[Tensor]:
    """Return the tensors that ``forward`` gave, in the order of the graph's outputs."""
    leaves, _ = torch.utils._pytree.tree_flatten(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def run_module(module: nn.Module, batch: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Run a module on numpy arrays without gradients."""
    with torch.no_grad():
        return [
            output.numpy() for output in flatten_outputs(module(*(torch.from_numpy(array.copy()) for array in batch)))
        ]


def compare_float(
    model: onnx.ModelProto, module: nn.Module, samples: Sequence[Sequence[NDArray[np.generic]]]
) -> Comparison:
    """Hold a network with float activations against the module: equal up to the rounding of float32."""
    return _compare(model, module, samples, FLOAT_TOLERANCE, "max_relative")


def compare_quantized(
    model: onnx.ModelProto,
    module: nn.Module,
    samples: Sequence[Sequence[NDArray[np.generic]]],
    ranges: Mapping[str, Sequence[ActivationRange]],
    dense: Mapping[str, int],
    loose: int,
) -> Comparison:
    """Hold a network with 8-bit activations against torch with the same fake quantisation at the inputs of layers.

    What is left to differ: values that lie on the edge between two steps and, by float rounding, fall to the other side
    (at most ``STEP_TOLERANCE``, or ``255 / (2**bits - 1)`` times that with larger steps), and "loose" tensors, which
    are rounded in the file but not in torch. The rounding of n tensors is independent noise, whose relative error adds
    up as ``sqrt(n)``; layers may amplify it, for which a factor of two is allowed.

    Args:
        model: The exported network.
        module: Plain float module.
        samples: Batches of inputs.
        ranges: Ranges of every layer's input by path, one for each of its calls in a forward pass.
        dense: Paths of layers with INT8 weights, and their channel axis.
        loose: Number of loose tensors.
    """
    bits = min((chosen.bits for calls in ranges.values() for chosen in calls), default=8)
    tolerance = min(0.5, STEP_TOLERANCE * 255 / (2**bits - 1) * (1 + 2 * math.sqrt(loose)))
    return _compare(model, emulate(module, ranges, dense), samples, tolerance, "relative_l2")


def emulate(module: nn.Module, ranges: Mapping[str, Sequence[ActivationRange]], dense: Mapping[str, int]) -> nn.Module:
    """Return a copy of a plain module that rounds layer inputs and dense weights as the exported network does."""
    twin = copy.deepcopy(module)
    done: set[int] = set()
    for path, layer in weight_layers(twin):
        if path in ranges and id(layer) not in done:
            done.add(id(layer))
            layer.register_forward_pre_hook(_rounding_hook(ranges[path]))
    for path, layer in weight_layers(twin):
        weight: nn.Parameter = layer.weight  # type: ignore[assignment]
        if path in dense and id(weight) not in done:
            done.add(id(weight))
            axes = [axis for axis in range(weight.ndim) if axis != channel_axis(layer)]
            scale = weight.data.abs().amax(axes, keepdim=True) / 127
            scale = torch.where(scale > 0, scale, torch.ones_like(scale))
            weight.data = (weight.data / scale).round() * scale
    return twin


def _rounding_hook(calls: Sequence[ActivationRange]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    turns = itertools.cycle(calls)

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        rounded = next(turns).fake_quantize(x)
        # In place, so that what reads the tensor after the layer (a residual addition) sees it rounded, as in the file.
        return (rounded if x._is_view() else x.copy_(rounded), *inputs[1:])

    return hook


def _compare(
    model: onnx.ModelProto,
    module: nn.Module,
    samples: Sequence[Sequence[NDArray[np.generic]]],
    tolerance: float,
    measure: str,
) -> Comparison:
    pairs = [(run_onnx(model, batch), run_module(module, batch)) for batch in samples]
    actual, expected = (
        [np.concatenate(parts) if parts[0].ndim else np.stack(parts) for parts in zip(*side, strict=True)]
        for side in zip(*pairs, strict=True)
    )
    return compare(actual, expected, tolerance, measure)


def require(comparison: Comparison, what: str) -> None:
    """Raise VerificationError unless the comparison passed."""
    if not comparison.passed:
        raise VerificationError(f"the exported network differs from {what}: {comparison}")
