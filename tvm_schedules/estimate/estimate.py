"""Time, memory and bytes of a network on several targets, step by step, without compiling it.

A network is lowered for each target as a build does it, which chooses kernels, layouts and places in memory and packs
the weights: bytes of memory and of weights follow exactly. Times are coefficients of a profile table times counts of
what the kernels do, and carry the error that such a fit has on networks it has not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.common.files import user_path
from tvm_schedules.errors import EstimateError, UnsupportedOperatorError
from tvm_schedules.estimate import table as tables
from tvm_schedules.estimate.c_features import activated, share
from tvm_schedules.estimate.lowered import Lowered, lower
from tvm_schedules.estimate.table import Table
from tvm_schedules.estimate.targets import KINDS, Device, device
from tvm_schedules.ir.graph import Graph

__all__ = ["StepEstimate", "TargetEstimate", "estimate", "estimate_graph"]


@dataclass(frozen=True)
class StepEstimate:
    """A kernel call.

    Attributes:
        name: The node's name, with a suffix where it takes several calls.
        layer: The same without the channels that are meant, where these are not all.
        op: The operator.
        kernel: The kernel's name.
        seconds: What it takes, None where nothing was measured.
        known: Whether its kernel was measured, so that the error bar speaks for it.
        zeros: Share of zeros of its weight, None without one.
        weight_bytes: Stored bytes of its weight, before compression of the whole file.
    """

    name: str
    layer: str
    op: str
    kernel: str
    seconds: float | None
    known: bool
    zeros: float | None
    weight_bytes: int


@dataclass(frozen=True)
class TargetEstimate:
    """A network on a target.

    Attributes:
        target: As it was asked for.
        seconds: One run with one thread; None where nothing was measured.
        error: Relative error that nine of ten networks stay below; None where it is not known.
        source: Where the times come from, in words.
        unknown: Share of the time in steps whose kernels were not measured, in [0, 1].
        ram: Bytes of memory: ``arena``, ``constants`` (of C, in flash), ``inputs`` and ``outputs``; exact.
        stored: Bytes that a device stores: ``weights`` (of C, ``tables``), exact, and ``code`` and ``metadata``, about;
            those that are not known are missing.
        steps: The kernel calls.
    """

    target: str
    seconds: float | None
    error: float | None
    source: str
    unknown: float
    ram: dict[str, int]
    stored: dict[str, int]
    steps: tuple[StepEstimate, ...]

    @property
    def stored_bytes(self) -> int:
        """All that a device stores, as far as it is known."""
        return sum(self.stored.values())

    @property
    def ram_bytes(self) -> int:
        """Arena, inputs and outputs, and constants where they are in RAM."""
        return sum(self.ram.values()) - (self.ram["constants"] if "tables" in self.stored else 0)

    def to_dict(self) -> dict[str, Any]:
        """The fields and the sums in JSON types."""
        return {**asdict(self), "stored_bytes": self.stored_bytes, "ram_bytes": self.ram_bytes}


def estimate(
    source: str | os.PathLike[str] | bytes | Any,
    targets: Sequence[str] = ("host",),
    measured: Sequence[str | os.PathLike[str] | Table] = (),
) -> list[TargetEstimate]:
    """Estimates a network for several targets.

    Args:
        source: An ONNX file, its bytes or an ``onnx.ModelProto``, with fixed shapes; or an artifact's directory, whose
            ONNX file is taken.
        targets: Names of CPU targets, ``cortex-m4``, ``cortex-m7``, ``cortex-m55``, or ``c`` (bytes alone).
        measured: Profile tables of ``tern-bench --profile-table``; each is for the target that it was made for.

    Raises:
        ModelError: The network cannot be read, or lowered for a target, which the message names.
        TargetError: A target is not known.
        EstimateError: A table cannot be used, or a target is none that can be estimated.
    """
    from tvm_schedules.artifact import store
    from tvm_schedules.pipeline import read_graph

    made = [entry if isinstance(entry, Table) else tables.read(Path(entry)) for entry in measured]
    unused = [table.target for table in made if table.target not in targets]
    if unused:
        raise EstimateError(f"the table measured for {unused[0]} is for none of the targets {', '.join(targets)}")
    devices = [device(name, made) for name in targets]
    if isinstance(source, str | os.PathLike):
        path = user_path(source, "source")
        source = path / store.MODEL if path.is_dir() else path
        if not source.is_file():
            raise EstimateError(f"{source} does not exist; give an .onnx file or an artifact that has one")
    graph = read_graph(source)
    found = []
    for one in devices:
        try:
            found.append(estimate_graph(graph, one))
        except UnsupportedOperatorError as error:
            others = ", ".join(other.name for other in devices if other.name != one.name)
            hint = f"; without target {one.name} the others can be estimated: {others}" if others else ""
            raise type(error)(f"{one.name}: {error}{hint}") from error
    return found


def estimate_graph(graph: Graph, on: Device) -> TargetEstimate:
    """Estimates a fused graph for one target."""
    made = lower(graph, on.spec)
    times, known = _times(made, on)
    layers = {layer.name: layer for layer in made.plan.layers}
    steps = []
    for index, step in enumerate(made.steps):
        whole = getattr(step, "of", "") or step.name
        layer = layers.get(whole)
        zeros, nbytes = (None, 0) if layer is None else (layer.sparsity, round(share(step) * layer.bytes))
        seconds = None if times is None else float(times[index])
        what = (step.name, whole, step.info["op"], step.kernel)
        steps.append(StepEstimate(*what, seconds, known[index], zeros, nbytes))
    total = None if times is None else float(times.sum())
    guessed = 0.0 if times is None or not total else float(times[~np.array(known)].sum() / total)
    error = on.table.error if on.table is not None and on.near else None
    return TargetEstimate(on.name, total, error, on.source, guessed, _ram(made), _stored(made, on), tuple(steps))


def _times(made: Lowered, on: Device) -> tuple[np.ndarray | None, list[bool]]:
    """Seconds of every step and of the call, and whether each was measured."""
    counted = made.counted()
    if on.table is None:
        return None, [False] * len(counted)
    fit = on.table.fit
    times = np.array([on.seconds * fit.value(*one) for one in counted])
    if on.table.unit == "instructions":  # whose networks have no activation functions behind layers
        times[: len(made.steps)] += on.seconds * np.array([activated(step) for step in made.steps])
    return times, [fit.knows(group) for group, _ in counted]


def _ram(made: Lowered) -> dict[str, int]:
    def nbytes(entries: Sequence[Any]) -> int:
        return sum(prod(one.shape) * np.dtype(one.dtype).itemsize for one in entries)

    plan = made.plan
    ends = {"inputs": nbytes(plan.inputs), "outputs": nbytes(plan.outputs)}
    return {"arena": plan.arena_bytes or 0, "constants": plan.constant_bytes, **ends}


def _stored(made: Lowered, on: Device) -> dict[str, int]:
    is_c = on.spec.tvm["kind"] == "c"
    exact = {"tables": made.tables[KINDS.get(on.name, "")]} if is_c else {"weights": made.weights_bytes()}
    if on.table is None or not on.table.libraries:
        return exact
    code, metadata = on.table.library_bytes(made.kernels(), len(made.steps))
    return {**exact, "code": code} if is_c else {**exact, "code": code, "metadata": metadata}
