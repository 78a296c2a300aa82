"""The exported network held against the module."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tern_lightning.exporter.errors import ExportError, VerificationError
from tern_lightning.exporter.runtime import FLOAT_TOLERANCE, ROUNDING_TOLERANCE, Comparison, compare, run_batches
from tern_lightning.nn.activation_quantizer import ActivationRange, LayerRange
from tern_lightning.nn.layer_types import find_weight
from tern_lightning.nn.recurrent_weights import named_layers
from tern_lightning.nn.token_quantizer import TokenRange

NOISE = 2.0
"""How far a rounded tensor may be from torch's, in units of what rounding adds to it: uniform noise of a step's width.

Edges that fall to the other side cost less than one, and so does rounding that one of both leaves out; a wrong mode of
rounding (down, not to the nearest) costs 2.4, another zero point 3.5.
"""

MAGNIFIED = 3.0
"""How much larger a rounding that torch does not follow may become before something is compared: layers between them
have weights that cancel out, so that less is left of a tensor than of its noise. In seeds of small networks of three
products it was up to 2.1 times as large."""

RoundedInputs = Mapping[str, Sequence[tuple[str, LayerRange | None]]]
"""Name and range of the rounded input of every layer by path, one for each of its calls; no range where the module
rounds it itself."""


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


def run_module(module: Callable[..., object], batch: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Run a module on numpy arrays without gradients.

    What ``torch.compile`` made of it is left out: it ignores hooks that came later.
    """
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        result = module(*(torch.from_numpy(array.copy()) for array in batch))
        return [output.numpy() for output in flatten_outputs(result)]


def compare_float(
    model: onnx.ModelProto, module: nn.Module, samples: Sequence[Sequence[NDArray[np.generic]]]
) -> Comparison:
    """Hold a network with float activations against the module: equal up to the rounding of float32."""
    return compare(_run_file(model, samples), _run_all(module, samples), FLOAT_TOLERANCE, "max_relative")


def compare_quantized(
    model: onnx.ModelProto,
    module: nn.Module,
    samples: Sequence[Sequence[NDArray[np.generic]]],
    inputs: RoundedInputs,
    dense: Mapping[str, int],
) -> Comparison:
    """Hold a network with 8-bit activations against torch that rounds at the same places, from layer to layer.

    Values on the edge between two steps may fall to either side, which a deep network amplifies until two runs differ
    as much as two draws of the rounding noise. So torch goes on from the file's tensor at the input of every layer, and
    the part of the network up to there is compared alone: its relative error is far below that of rounding itself, for
    which ``ROUNDING_TOLERANCE`` is the bound. Where torch cannot be made to round in the same place (products outside
    of layers, tensors that are read before the layer runs, or as a view), it is of that size for every such rounding
    since the last tensor that torch went on from, or as large as a step is beside a tensor that fills little of its
    range, and what lies between may magnify it. They are independent, so squares add up.

    Args:
        model: The exported network.
        module: Plain float module.
        samples: Batches of inputs.
        inputs: The rounded inputs of its layers.
        dense: Paths of layers with INT8 weights, and the axis of the output channels in these.

    Returns:
        The comparison of the outputs, whose ``relative_l2`` and ``tolerance`` are those of the output or layer input
        that comes nearest to its bound, or is furthest beyond it.
    """
    names = sorted({name for calls in inputs.values() for name, _ in calls})
    outputs = [value.name for value in model.graph.output]
    twin = round_weights(module, dense)
    follower = _Follower(twin, inputs)
    found, expected = [], []
    apart = _Apart(model)
    inner = sorted({*names, *apart.tensors})
    for batch, arrays in zip(samples, run_batches(model, samples, [*outputs, *inner]), strict=True):
        follower.tensors = dict(zip(inner, arrays[len(outputs) :], strict=True))
        apart.measure(follower.tensors)
        expected.append(run_module(follower, batch))
        found.append(arrays[: len(outputs)])
    steps = min((chosen.levels for calls in inputs.values() for _, chosen in calls if chosen), default=255)
    errors = dict(follower.errors)
    for name, *pair in zip(outputs, _join(found), _join(expected), strict=True):
        errors[name] = [*errors.get(name, []), compare(pair[:1], pair[1:], 0.0, "relative_l2").relative_l2]
    bounds = apart.bounds(follower.errors, ROUNDING_TOLERANCE * 255 / steps)
    worst = max(
        (_Error(error, bounds[name], name) for name, own in errors.items() for error in own),
        key=lambda error: error.share,
    )
    result = compare(_join(found), _join(expected), worst.bound, "relative_l2")
    layer = next((path for path, calls in inputs.items() if worst.tensor in dict(calls)), None)
    where = f"output {worst.tensor!r}" if layer is None else f"the input of layer {layer!r}"
    return dataclasses.replace(result, relative_l2=worst.relative, where=where)


def unfollowed_roundings(model: onnx.ModelProto, followed: Collection[str]) -> dict[str, list[str]]:
    """What is rounded between a tensor and the followed tensors before it.

    Args:
        model: With QuantizeLinear where activations are rounded.
        followed: Names of tensors that behind a rounding, which is not counted, are taken over.

    Returns:
        Names of the rounded tensors, as they are before, for every followed tensor and every output of the model.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name for tensor in model.graph.initializer}

    def between(name: str) -> list[str]:
        own = makers.get(name)  # a followed tensor is the DequantizeLinear of its own rounding
        if name in followed and own is not None and own.op_type == "DequantizeLinear":
            own = makers.get(own.input[0], own)
        stack, seen, found = [*own.input] if own is not None else [], set[str](), list[str]()
        while stack:
            at = stack.pop()
            node = makers.get(at)
            if node is None or at in seen or at in followed:
                continue
            seen.update(node.output)
            if node.op_type == "QuantizeLinear" and node.input[0] not in weights:
                found.append(node.input[0])
            stack += node.input
        return found

    return {name: between(name) for name in (*followed, *(value.name for value in model.graph.output))}


class _Error(NamedTuple):
    """The relative error of a tensor and what it may be."""

    relative: float
    bound: float
    tensor: str

    @property
    def share(self) -> float:
        """The error as a part of what it may be; what is no number is beyond every bound."""
        return math.inf if math.isnan(self.relative) else self.relative / self.bound


class _Apart:
    """The roundings of a file, and how much each changes its tensor, for those that torch cannot follow.

    Attributes:
        tensors: Names of what has been rounded by a step that is known.
        noise: How large the noise of rounding is beside a tensor, by the name that it has before.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        readers = {name: node for node in model.graph.node for name in node.input}
        self.tensors: dict[str, tuple[str, float]] = {}
        for node in model.graph.node:
            after = readers.get(node.output[0]) if node.op_type == "QuantizeLinear" else None
            step = constants.get(node.input[1]) if after is not None else None
            if after is not None and step is not None and math.prod(step.dims) == 1 and node.input[0] not in constants:
                self.tensors[after.output[0]] = node.input[0], float(onnx.numpy_helper.to_array(step).ravel()[0])
        self.noise: dict[str, float] = {}

    def measure(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take down :attr:`noise`, of a batch where it is largest."""
        for name, (source, step) in self.tensors.items():
            norm = float(np.linalg.norm(arrays[name].astype(np.float64)))
            noise = step * math.sqrt(arrays[name].size / 12)
            self.noise[source] = max(self.noise.get(source, 0.0), noise / norm if norm > 0 else 0.0)

    def bounds(self, followed: Collection[str], usual: float) -> dict[str, float]:
        """What a relative error may be, for every followed tensor and every output of the model."""
        found = unfollowed_roundings(self.model, followed)

        def square(source: str) -> float:
            return (MAGNIFIED * max(usual, NOISE * self.noise.get(source, 0.0))) ** 2

        return {name: min(0.5, math.sqrt(usual**2 + sum(map(square, sources)))) for name, sources in found.items()}


class _Follower:
    """A module whose layer inputs are rounded by hooks, compared with the file's tensors, and replaced by the latter.

    What the module gives back is not rounded, as in the file, also where a layer reads the same tensor.
    """

    def __init__(self, module: nn.Module, inputs: RoundedInputs) -> None:
        self.module = module
        self.tensors: dict[str, NDArray[np.generic]] = {}
        self.errors: dict[str, list[float]] = {}
        self.inputs = inputs
        self.calls: dict[str, int] = {}
        self.replaced: list[tuple[Tensor, Tensor]] = []
        hooked: set[int] = set()
        # Not only layers of known types: the graph says which modules have a product of their own.
        for path, layer in module.named_modules(remove_duplicate=False):
            if path in inputs and id(layer) not in hooked:
                hooked.add(id(layer))
                if isinstance(layer, nn.MultiheadAttention):
                    layer.register_forward_pre_hook(functools.partial(self._follow_attention, path), with_kwargs=True)
                else:
                    layer.register_forward_pre_hook(functools.partial(self._follow, path))

    def __call__(self, *args: Tensor) -> list[Tensor]:
        """The tensors that the module gives."""
        self.calls.clear()
        self.replaced.clear()
        leaves = flatten_outputs(self.module(*args))
        return [next((before for x, before in self.replaced if x is leaf), leaf) for leaf in leaves]

    def _replace(self, x: Tensor, rounded: Tensor) -> Tensor:
        """In place: what reads a tensor after the layer (a residual addition) sees it rounded, as in the file."""
        if all(x is not other for other, _ in self.replaced):
            self.replaced.append((x, x.clone()))
        return x.copy_(rounded)

    def _follow(self, path: str, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        rounded = self._next(path, x)
        # What is rounded per token only the layer reads.
        apart = any(isinstance(chosen, TokenRange) for _, chosen in self.inputs[path])
        return (rounded if apart or x._is_view() else self._replace(x, rounded), *args[1:])

    def _follow_attention(
        self, path: str, layer: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Query, key and value have a product each, those that are one tensor a common one."""
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        different = {id(given[name]) for name in ("query", "key", "value")}
        if len(self.inputs[path]) % len(different):  # one of them is a constant, whose product the file has instead
            return args, kwargs
        turn = layer.batch_first and given["query"].ndim == 3
        followed: dict[int, Tensor] = {}
        for name in ("query", "key", "value"):
            x: Tensor = given[name]
            if id(x) not in followed:
                # With the batch first, it is a turned copy that the file rounds, and nothing else reads that.
                rounded = self._next(path, x.transpose(0, 1)).transpose(0, 1) if turn else self._next(path, x)
                followed[id(x)] = rounded if turn or x._is_view() else self._replace(x, rounded)
            given[name] = followed[id(x)]
        rest = args[3:]
        first = tuple(given.pop(name) for name in ("query", "key", "value"))
        return (*first, *rest), given

    def _next(self, path: str, x: Tensor) -> Tensor:
        """The file's tensor in the place of a layer's next input, which it is compared with, in the shape of that."""
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        if call >= len(self.inputs[path]):  # a call on a constant
            return x
        name, chosen = self.inputs[path][call]
        file = self.tensors[name]
        rounded = chosen.fake_quantize(x) if chosen else x
        if file.size != rounded.numel():  # where the layer pads its input itself, after this hook
            return rounded
        own = rounded.numpy().reshape(file.shape)
        found = compare([file], [own], 0.0, "relative_l2").relative_l2
        if isinstance(chosen, ActivationRange) and found > 0:
            # What the layer is to tell apart are the range's steps. A tensor that fills little of it, or is nearly
            # zero, has a norm of few steps, of which the noise of rounding is a large share, and no error.
            difference = float(np.linalg.norm(file.astype(np.float64) - own))
            noise = NOISE * chosen.scale * float(np.sqrt(file.size / 12))
            found = min(found, ROUNDING_TOLERANCE * difference / noise)
        self.errors.setdefault(name, []).append(found)
        return torch.from_numpy(file).reshape(x.shape)


def compare_drift(
    model: onnx.ModelProto, module: nn.Module, samples: Sequence[Sequence[NDArray[np.generic]]]
) -> Comparison:
    """Compare outputs with those of the module as it is; there is no tolerance for what quantization may cost."""
    return compare(_run_file(model, samples), _run_all(module, samples), float("inf"), "relative_l2")


def round_weights(module: nn.Module, dense: Mapping[str, int]) -> nn.Module:
    """Return a copy of a plain module whose dense weights are rounded as INT8 in the exported network."""
    twin = copy.deepcopy(module)
    done: set[int] = set()
    for path, layer in named_layers(twin, remove_duplicate=False):
        weight = find_weight(layer)
        if path in dense and weight is not None and id(weight) not in done:
            done.add(id(weight))
            axes = [axis for axis in range(weight.ndim) if axis != dense[path]]
            scale = weight.data.abs().amax(axes, keepdim=True) / 127
            scale = torch.where(scale > 0, scale, torch.ones_like(scale))
            weight.data = (weight.data / scale).round() * scale
    return twin


def _run_all(module: nn.Module, samples: Sequence[Sequence[NDArray[np.generic]]]) -> list[NDArray[np.generic]]:
    return _join([run_module(module, batch) for batch in samples])


def _run_file(model: onnx.ModelProto, samples: Sequence[Sequence[NDArray[np.generic]]]) -> list[NDArray[np.generic]]:
    return _join(list(run_batches(model, samples)))


def _join(runs: Sequence[Sequence[NDArray[np.generic]]]) -> list[NDArray[np.generic]]:
    """One array for each output, with the batches along its first axis."""
    return [np.concatenate([np.atleast_1d(part) for part in parts]) for parts in zip(*runs, strict=True)]


def require(comparison: Comparison, what: str) -> None:
    """Raise VerificationError unless the comparison passed."""
    if not comparison.passed:
        hint = (
            ". HINT: where functions before it magnify what rounding to 8 bits changes (a sine, an exponential, a "
            "large factor), activations='float32' exports the network (--activations float32), or leave them out of it"
            if comparison.where
            else ""
        )
        raise VerificationError(f"the exported network differs from {what}: {comparison}{hint}")
