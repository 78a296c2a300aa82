"""What every layer of a network takes as a function of its zeros: tables for callbacks that steer zeros by a budget.

The ternary weights of an ONNX file are replaced by random codes with a share of zeros, for several shares, and the
network is lowered and estimated each time. Between the shares one interpolates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        values: By layer, what it takes at each of the shares.
    """

    fixed: float
    shares: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]

    def total(self, zeros: Mapping[str, float]) -> float:
        """The cost of the network when its layers have these shares of zeros."""
        return self.fixed + sum(
            float(np.interp(zeros[path], self.shares, values)) for path, values in self.values.items()
        )


def curves(model: Any, layers: Sequence[str], on: Device, of: str, shares: Sequence[float] = SHARES) -> Curves:
    """Estimates a network at several shares of zeros.

    Args:
        model: ``onnx.ModelProto`` whose nodes are named after their layers; the weight of layer ``a.b`` is the 2-bit
            initializer ``a.b.weight``, further terms have a suffix. It is not changed.
        layers: The layers whose zeros change.
        on: The target.
        of: ``seconds``, or ``bytes`` of all that is stored.
        shares: Where to estimate, ascending.

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
    sizes = {path: sum(prod(tensor.dims) for tensor in own) for path, own in weights.items()}
    parts = {path: size / sum(sizes.values()) for path, size in sizes.items()}
    found_at = []
    for share in shares:
        for path, own in weights.items():
            for index, tensor in enumerate(own):
                tensor.raw_data = _codes(tuple(tensor.dims), share, f"{path}{index}")
        found_at.append(estimate_graph(read_graph(copy), on))
    return _seconds(found_at, parts, shares) if of == "seconds" else _bytes(found_at, parts, shares)


def _seconds(found: Sequence[TargetEstimate], parts: Mapping[str, float], shares: Sequence[float]) -> Curves:
    """The times of the layers' steps; what else changes between the shares, such as copies, is theirs by size."""
    rows = [_of_layers(said, list(parts)) for said in found]
    rest = [float(said.seconds or 0.0) - sum(row.values()) for said, row in zip(found, rows, strict=True)]
    values = {
        path: tuple(row[path] + (more - min(rest)) * part for row, more in zip(rows, rest, strict=True))
        for path, part in parts.items()
    }
    return Curves(min(rest), tuple(shares), values)


def _bytes(found: Sequence[TargetEstimate], parts: Mapping[str, float], shares: Sequence[float]) -> Curves:
    """The stored weights, by the layers' sizes: with the same share of zeros a weight takes the same in all of them.

    What is not weights is an estimate that jumps from kernel to kernel, and counts as fixed: the largest of them.
    """
    weights = [said.stored.get("weights", said.stored.get("tables", 0)) for said in found]
    others = max(said.stored_bytes - own for said, own in zip(found, weights, strict=True))
    least = min(weights)
    values = {path: tuple(part * (own - least) for own in weights) for path, part in parts.items()}
    return Curves(float(others + least), tuple(shares), values)


def _codes(shape: tuple[int, ...], zeros: float, name: str) -> bytes:
    """Random codes with that share of zeros, packed; the same ones for the same name."""
    random = np.random.default_rng([ord(letter) for letter in name])
    order, signs = random.permutation(prod(shape)), random.choice([-1, 1], prod(shape))
    codes = np.where(order < round(zeros * prod(shape)), 0, signs).astype(np.int8)
    return bytes(pack_int2(codes.reshape(shape)))


def _of_layers(said: TargetEstimate, layers: Sequence[str]) -> dict[str, float]:
    """Seconds of every layer: of its steps, which may be several."""
    wanted = dict.fromkeys(layers, 0.0)
    for step in said.steps:
        path = step.name if step.name in wanted else step.name.rpartition("/")[0]
        if path in wanted:
            wanted[path] += float(step.seconds or 0.0)
    return wanted
