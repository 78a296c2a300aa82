"""What every layer of a network takes as a function of its zeros: tables for callbacks that steer zeros by a budget.

The ternary weights of an ONNX file are replaced by random codes, with several shares of zeros that single channels have
or several together, and the network is lowered and estimated each time. Between the shares one interpolates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from tvm_schedules.errors import EstimateError
from tvm_schedules.estimate.estimate import TargetEstimate, estimate_graph
from tvm_schedules.estimate.targets import Device
from tvm_schedules.ir.ternary_tensor import pack_int2

__all__ = ["SHARES", "Curves", "curves"]

SHARES = (0.0, 0.3, 0.5, 0.65, 0.75, 0.85, 0.9, 0.95, 0.98, 0.995)
"""Shares of zeros at which networks are estimated."""


@dataclass(frozen=True)
class Curves:
    """A cost of a network.

    Attributes:
        fixed: What does not depend on the layers' zeros.
        shares: Shares of zeros, ascending.
        values: By layer, and by number of the group that its zeros come in, what it takes at each of the shares.
        dense: By layer, what it takes where it is not ternary; empty where that is not known.
    """

    fixed: float
    shares: tuple[float, ...]
    values: Mapping[str, tuple[tuple[float, ...], ...]]
    dense: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def straight(cls, fixed: float, costs: Mapping[str, float], groups: int = 1) -> Curves:
        """A cost that every weight has its part of, whatever its group.

        Args:
            fixed: What does not depend on the layers' zeros.
            costs: Of every layer without zeros.
            groups: How many groups there are.
        """
        return cls(fixed, (0.0, 1.0), {path: ((cost, 0.0),) * groups for path, cost in costs.items()}, dict(costs))

    def scaled(self, factor: float) -> Curves:
        """The same in another unit."""
        values = {path: tuple(tuple(factor * v for v in one) for one in own) for path, own in self.values.items()}
        dense = {path: factor * cost for path, cost in self.dense.items()}
        return Curves(factor * self.fixed, self.shares, values, dense)

    def of(self, layer: str, group: int, zeros: Any) -> Any:
        """What a layer takes at a share of zeros, or at an array of them.

        Args:
            layer: Its path.
            group: Number of the group that its zeros come in.
            zeros: Shares in [0, 1].
        """
        return np.interp(zeros, self.shares, self.values[layer][group])

    def least(self, share: float) -> float:
        """The cost of the network with this share of zeros in every layer, in the groups that cost least."""
        return self.fixed + sum(
            min(float(self.of(path, number, share)) for number in range(len(own))) for path, own in self.values.items()
        )

    def total(
        self, zeros: Mapping[str, float], groups: Mapping[str, int] | None = None, dense: Collection[str] = ()
    ) -> float:
        """The cost of the network when its layers have these shares of zeros.

        Args:
            zeros: Share of every layer that is ternary.
            groups: Number of the group that the zeros of a layer come in; 0 where it says nothing.
            dense: Layers that are not ternary.
        """
        groups = {} if groups is None else groups
        ternary = sum(float(self.of(p, groups.get(p, 0), zeros[p])) for p in self.values if p not in dense)
        return self.fixed + ternary + sum(self.dense[path] for path in dense)


def curves(
    model: Any,
    layers: Sequence[str],
    on: Device,
    of: str,
    shares: Sequence[float] = SHARES,
    groups: Sequence[int] = (1,),
    dense: Any = None,
) -> Curves:
    """Estimates a network at several shares of zeros.

    Args:
        model: ``onnx.ModelProto`` whose nodes are named after their layers; the weight of layer ``a.b`` is the 2-bit
            initializer ``a.b.weight``, further terms have a suffix. Two terms of which one has no code -1 and the other
            none of +1 are one with two levels. It is not changed.
        layers: The layers whose zeros change.
        on: The target.
        of: ``seconds``, or ``bytes`` of all that is stored.
        shares: Where to estimate, ascending.
        groups: How many neighboring output channels share their zeros; the network is estimated with each of them.
        dense: The same network with none of these layers ternary, as ``onnx.ModelProto``; None leaves it out.

    Raises:
        EstimateError: A layer has no 2-bit weight in the file, or nothing is known about times on the target.
        ModelError: The network cannot be lowered.
    """
    import onnx

    from tvm_schedules.pipeline import read_graph

    if of == "seconds" and on.table is None:
        raise EstimateError(f"target {on.name}: {on.source}")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = [tensor for tensor in copy.graph.initializer if tensor.data_type == onnx.TensorProto.INT2]
    weights = {path: [t for t in found if t.name.startswith(f"{path}.weight")] for path in layers}
    missing = [path for path, own in weights.items() if not own]
    if missing:
        raise EstimateError(f"layers {', '.join(missing)} are not ternary in the exported network")
    axes = _channel_axes(copy)
    two_levels = {path for path, own in weights.items() if _signs(own) == [{0, 1}, {-1, 0}]}
    sizes = {path: sum(prod(tensor.dims) for tensor in own) for path, own in weights.items()}
    parts = {path: size / sum(sizes.values()) for path, size in sizes.items()}
    found_at = []
    for group in groups:
        for share in shares:
            for path, own in weights.items():
                for index, tensor in enumerate(own):
                    name = path if path in two_levels else f"{path}{index}"
                    codes = _codes(tuple(tensor.dims), share, name, group, axes.get(tensor.name, 0))
                    if path in two_levels:
                        codes = np.minimum(codes, 0) if index else np.maximum(codes, 0)
                    tensor.raw_data = bytes(pack_int2(codes))
            found_at.append(estimate_graph(read_graph(copy), on))
    if dense is not None:
        found_at.append(estimate_graph(read_graph(dense), on))
    fixed, values = _seconds(found_at, parts) if of == "seconds" else _bytes(found_at, parts)
    count, ends = len(shares), len(shares) * len(groups)
    by_group = {path: tuple(v[at : at + count] for at in range(0, ends, count)) for path, v in values.items()}
    return Curves(fixed, tuple(shares), by_group, {} if dense is None else {p: v[-1] for p, v in values.items()})


def _signs(terms: Sequence[Any]) -> list[set[int]]:
    """The codes that there are in every term, and 0."""
    from onnx import numpy_helper

    return [{0, *np.unique(numpy_helper.to_array(term).astype(np.int8)).tolist()} for term in terms]


def _channel_axes(model: Any) -> dict[str, int]:
    """The axis of the output channels of every 2-bit weight, which is that of its scales."""
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            found[node.input[0]] = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    return found


def _seconds(found: Sequence[TargetEstimate], parts: Mapping[str, float]) -> tuple[float, dict[str, tuple[float, ...]]]:
    """The times of the layers' steps; what else changes between the shares, such as copies, is theirs by size."""
    rows = [_of_layers(said, list(parts)) for said in found]
    rest = [float(said.seconds or 0.0) - sum(row.values()) for said, row in zip(found, rows, strict=True)]
    values = {
        path: tuple(row[path] + (more - min(rest)) * part for row, more in zip(rows, rest, strict=True))
        for path, part in parts.items()
    }
    return min(rest), values


def _bytes(found: Sequence[TargetEstimate], parts: Mapping[str, float]) -> tuple[float, dict[str, tuple[float, ...]]]:
    """The stored weights, by the layers' sizes: with the same share of zeros a weight takes the same in all of them.

    What is not weights is an estimate that jumps from kernel to kernel, and counts as fixed: the largest of them.
    """
    weights = [said.stored.get("weights", said.stored.get("tables", 0)) for said in found]
    others = max(said.stored_bytes - own for said, own in zip(found, weights, strict=True))
    least = min(weights)
    values = {path: tuple(part * (own - least) for own in weights) for path, part in parts.items()}
    return float(others + least), values


def _codes(shape: tuple[int, ...], zeros: float, name: str, group: int = 1, axis: int = 0) -> Any:
    """Random codes with that share of zeros; the same ones for the same name.

    Args:
        shape: Of the weight.
        zeros: Their share.
        name: What the random numbers are made of.
        group: How many neighboring output channels have the same zeros.
        axis: Axis of the output channels.
    """
    random = np.random.default_rng([ord(letter) for letter in name])
    blocks = [-(-size // group) if where == axis else size for where, size in enumerate(shape)]
    order, signs = random.permutation(prod(blocks)), random.choice([-1, 1], prod(shape))
    kept = (order >= round(zeros * prod(blocks))).reshape(blocks)
    kept = kept.repeat(group, axis).take(np.arange(shape[axis]), axis)
    return np.where(kept, signs.reshape(shape), 0).astype(np.int8)


def _of_layers(said: TargetEstimate, layers: Sequence[str]) -> dict[str, float]:
    """Seconds of every layer: of its steps, which may be several."""
    wanted = dict.fromkeys(layers, 0.0)
    for step in said.steps:
        path = step.layer if step.layer in wanted else step.layer.rpartition("/")[0]
        if path in wanted:
            wanted[path] += float(step.seconds or 0.0)
    return wanted
