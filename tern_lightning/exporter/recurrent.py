"""nn.LSTM, nn.GRU and nn.RNN as the operators of these names, with a port for each of their weights.

torch.onnx would take an RNN apart into its steps, and turn and join the weights of the others in the graph. So the
modules are traced as one placeholder for each of their layers, which this file replaces by the operator: weights in
ONNX' order of gates, ``[1, gates * H, K]``, joined where there are two directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.graph import Layer, add_constant, constant, join, module_path
from tern_lightning.ternary_tensor import TernaryTensor

__all__ = ["as_placeholders", "expand"]

_DOMAIN = "tern_lightning"
# The order of gates in ONNX, by their places in torch: i f g o -> i o f c; r z n -> z r h.
_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


@contextmanager
def as_placeholders(module: nn.Module) -> Iterator[None]:
    """Let recurrent modules be traced as placeholders.

    Raises:
        ExportError: One of them has a projection, which ONNX does not have.
    """
    found = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.RNNBase)}
    for path, layer in found.items():
        if layer.proj_size:
            raise ExportError(f"{path!r} has proj_size={layer.proj_size}, for which ONNX has no operator: leave it out")
    for layer in found.values():
        layer.forward = MethodType(_forward, layer)
    try:
        yield
    finally:
        for layer in found.values():
            del layer.__dict__["forward"]


def _forward(layer: nn.RNNBase, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """What the module computes, with a placeholder for every layer."""
    if isinstance(x, PackedSequence):
        raise ExportError("packed sequences cannot be exported: give the recurrent module sequences of one length")
    batched, turned = x.ndim == 3, layer.batch_first and x.ndim == 3
    x = x.transpose(0, 1) if turned else x if batched else x.unsqueeze(1)
    states = [] if hx is None else list(hx) if isinstance(hx, tuple | list) else [hx]
    states = states if batched else [state.unsqueeze(1) for state in states]
    count, kinds = 1 + layer.bidirectional, 2 if layer.mode == "LSTM" else 1
    last: list[list[Tensor]] = [[] for _ in range(kinds)]
    for number in range(layer.num_layers):
        own = [getattr(layer, name) for group in layer._all_weights[number * count :][:count] for name in group]
        given = [state[number * count : (number + 1) * count] for state in states]
        state_shape = [count, x.shape[1], layer.hidden_size]
        out, *final = torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::{layer.mode}",
            [x, *own, *given],
            {"directions": count, "bias": int(layer.bias), "layers": layer.num_layers, "number": number},
            dtypes=[x.dtype] * (1 + kinds),
            shapes=[[x.shape[0], *state_shape], *[state_shape] * kinds],
            version=1,
        )
        x = out.squeeze(1) if count == 1 else out.permute(0, 2, 1, 3).flatten(2)
        for states_of_kind, one in zip(last, final, strict=True):
            states_of_kind.append(one)
    ends = [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in last]
    if not batched:
        x, ends = x.squeeze(1), [end.squeeze(1) for end in ends]
    return (x.transpose(0, 1) if turned else x), (ends[0] if kinds == 1 else tuple(ends))


def expand(
    graph: ir.Graph, aliases: Mapping[str, str], owners: Mapping[str, str], ternary: Mapping[str, TernaryTensor]
) -> list[Layer]:
    """Replace the placeholders by ONNX' operators.

    Args:
        graph: As traced; it is changed.
        aliases: Every name of every parameter, mapped to one name of the tensor.
        owners: Path of the layer by the name of its weight.
        ternary: Ternary weights by the name of the tensor.

    Returns:
        A layer for every weight.

    Raises:
        ExportError: A weight is computed by the module.
    """
    layers: list[Layer] = []
    for node in list(graph):
        if node.domain == _DOMAIN:
            layers += _Operator(graph, node, len(layers), aliases, owners, ternary).layers
    return layers


class _Operator:
    """One placeholder on its way to an operator."""

    def __init__(
        self,
        graph: ir.Graph,
        node: ir.Node,
        number: int,
        aliases: Mapping[str, str],
        owners: Mapping[str, str],
        ternary: Mapping[str, TernaryTensor],
    ) -> None:
        self.graph, self.node, self.number = graph, node, number
        self.aliases, self.owners, self.ternary = aliases, owners, ternary
        self.layers: list[Layer] = []
        mode, _, activation = node.op_type.partition("_")
        attrs = {name: int(node.attributes[name].value) for name in ("directions", "bias", "layers", "number")}
        self.order, self.directions = _ORDER[mode], attrs["directions"]
        self.title = module_path(node) or mode.lower()
        if attrs["layers"] > 1:
            self.title = f"{self.title}.l{attrs['number']}"
        x, *rest = node.inputs
        each = 4 if attrs["bias"] else 2
        groups = [rest[i * each : (i + 1) * each] for i in range(self.directions)]
        states = rest[self.directions * each :]
        products = [self._joined([self._port(group[place]) for group in groups]) for place in (0, 1)]
        bias = self._bias([group[2:] for group in groups]) if attrs["bias"] else None
        hidden = int(products[1].shape[-1])  # type: ignore[index, arg-type]
        made = ir.node(
            mode,
            [x, *products, bias, *([None, *states] if states else [])],
            attributes=_attributes(mode, self.directions, hidden, activation),
            num_outputs=len(node.outputs),
            metadata_props=node.metadata_props,
        )
        node.append(made)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.type, new.shape = old.type, old.shape
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(node, safe=True)

    def _array(self, value: ir.Value | None) -> NDArray[np.float32]:
        array = constant(value)
        if array is None or value is None:
            raise ExportError(f"a weight of {self.title!r} is computed by the module; it must be its own parameter")
        return array.astype(np.float32)

    def _sorted(self, array: Any) -> Any:
        """Rows, of an array or a tensor, in ONNX' order of gates."""
        size = len(array) // len(self.order)
        rows = np.concatenate([np.arange(gate * size, (gate + 1) * size) for gate in self.order])
        return array[rows if isinstance(array, np.ndarray) else torch.from_numpy(rows)]

    def _port(self, value: ir.Value | None) -> ir.Value:
        """A graph input in the place of a weight of one direction."""
        array = self._sorted(self._array(value))[None]
        name = str(value.name) if value is not None else ""
        parameter = self.aliases.get(name, name)
        port = ir.Value(
            name=f"recurrent_port_{self.number + len(self.layers)}",
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        self.graph.inputs.append(port)
        weight = self.ternary.get(parameter)
        if weight is not None:
            weight = self._turned(weight)
        path = self.owners.get(parameter, parameter)
        self.layers.append(Layer(path, port, np.ascontiguousarray(array), 1, 1, parameter, weight, self.title))
        return port

    def _turned(self, weight: TernaryTensor) -> TernaryTensor:
        """A module's ternary weight ``[gates * H, K]`` as one ``[1, gates * H, K]`` in ONNX' order of gates."""
        wide = weight.per_channel if weight.positive.shape[1] > 1 else weight
        codes = torch.stack([self._sorted(term) for term in wide.codes])[:, None]
        positive, negative = (
            level if level.shape[1] == 1 else torch.stack([self._sorted(term) for term in level])
            for level in (wide.positive, wide.negative)
        )
        return TernaryTensor(codes, positive, negative, channel_axis=1)

    def _joined(self, ports: list[ir.Value]) -> ir.Value:
        if len(ports) == 1:
            return ports[0]
        both = ir.node("Concat", ports, attributes={"axis": 0}, metadata_props=self.node.metadata_props)
        self.node.prepend(both)
        shape = ports[0].shape
        assert shape is not None
        both.outputs[0].shape = ir.Shape([len(ports), *list(shape)[1:]])
        both.outputs[0].type = ports[0].type
        return both.outputs[0]

    def _bias(self, groups: list[list[ir.Value | None]]) -> ir.Value:
        rows = [np.concatenate([self._sorted(self._array(value)) for value in group]) for group in groups]
        return add_constant(self.graph, join(self.title, "bias"), np.stack(rows))


def _attributes(mode: str, directions: int, hidden: int, activation: str) -> dict[str, Any]:
    made: dict[str, Any] = {"hidden_size": hidden, "direction": ("forward", "bidirectional")[directions - 1]}
    if mode == "GRU":
        made["linear_before_reset"] = 1
    elif activation:
        made["activations"] = [activation.capitalize()] * directions
    return made
