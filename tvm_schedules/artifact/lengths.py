"""Networks of one artifact for several lengths of sequences: which axes count, and whether padding changes results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import ModelError
from tvm_schedules.frontend import onnx_model
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.runtime.lengths import LengthAxes
from tvm_schedules.verify.outputs import compare
from tvm_schedules.verify.reference import reference_outputs
from tvm_schedules.verify.samples import random_samples

__all__ = ["axes_to_json", "check_padding", "cut_runs", "find_axes", "read_shorter"]

Array = npt.NDArray[Any]
Run = Mapping[str, Array]


def read_shorter(source: Any, longest: Any, shapes: Mapping[str, Sequence[int]]) -> Any:
    """A network for shorter sequences, with fixed shapes.

    Args:
        source: The network as :func:`tvm_schedules.build` takes it, or shapes of inputs that ``longest`` leaves open.
        longest: The network as it was given, with open sizes where it has any.
        shapes: Of its inputs, those that ``source`` does not name.
    """
    if not isinstance(source, Mapping):
        model = read_model(source)
        onnx_model.fix_shapes(model, {})
        return model
    model = type(longest)()
    model.CopyFrom(longest)
    onnx_model.fix_shapes(model, {**shapes, **source})
    return model


def find_axes(longest: Any, shorter: Any, pad: Mapping[str, float]) -> tuple[LengthAxes, int]:
    """Which axes differ between two networks, and the shorter one's length.

    Raises:
        ModelError: They are not one network for two lengths.
    """
    changes: dict[str, dict[str, tuple[int, int, int]]] = {"input": {}, "output": {}}
    for which, found in changes.items():
        ends = [onnx_model.signature(model, which) for model in (longest, shorter)]
        for one, other in zip(*ends, strict=False):
            same = (one["name"], one["dtype"], len(one["shape"])) == (
                other["name"],
                other["dtype"],
                len(other["shape"]),
            )
            axes = [i for i, pair in enumerate(zip(one["shape"], other["shape"], strict=False)) if len(set(pair)) > 1]
            if not same or len(ends[0]) != len(ends[1]) or len(axes) > 1:
                raise ModelError(
                    f"networks for several lengths must have the same inputs and outputs but for the length: {which} "
                    f"{one['name']!r} is {one['dtype']}{one['shape']} in one and {other['name']!r} "
                    f"{other['dtype']}{other['shape']} in another"
                )
            if axes:
                found[one["name"]] = axes[0], one["shape"][axes[0]], other["shape"][axes[0]]
    sizes = {(own, other) for found in changes.values() for _, own, other in found.values()}
    if not changes["input"] or len(sizes) != 1:
        told = ", ".join(f"{a} and {b}" for a, b in sorted(sizes)) or "none"
        raise ModelError(
            f"networks for several lengths must differ in one size, which inputs have; they differ in {told}"
        )
    own, length = sizes.pop()
    if length >= own:
        raise ModelError(f"a network for shorter sequences has length {length}, the artifact's own {own}")
    inputs, outputs = ({name: axis for name, (axis, *_) in found.items()} for found in changes.values())
    unknown = [name for name in pad if name not in inputs]
    if unknown:
        raise ModelError(f"pad names {unknown[0]!r}; inputs with the length are {', '.join(inputs)}")
    return LengthAxes(own, inputs, outputs, dict(pad)), length


def cut_runs(runs: Sequence[Run] | None, axes: LengthAxes, length: int) -> list[dict[str, Array]] | None:
    """The begin of samples' sequences."""
    if runs is None:
        return None
    return [
        {
            name: array[(slice(None),) * axes.inputs[name] + (slice(length),)] if name in axes.inputs else array
            for name, array in run.items()
        }
        for run in runs
    ]


def check_padding(longest: Any, shorter: Any, runs: Sequence[Run] | None, axes: LengthAxes, length: int) -> None:
    """Hold the longest network on padded sequences against the shorter network on these.

    Raises:
        ModelError: They differ: what is behind the end of a sequence changes what comes before it.
    """
    given = list(runs or random_samples(shorter))[:2]
    filled = [{name: axes.padded(name, array, axes.own) for name, array in run.items()} for run in given]
    quantized = bool(onnx_model.quantized_tensors(longest))
    both = zip(reference_outputs(shorter, given), reference_outputs(longest, filled), strict=True)
    names = [entry["name"] for entry in onnx_model.signature(longest, "output")]
    for wanted, found in both:
        for name, one, other in zip(names, wanted, found, strict=True):
            own = np.ascontiguousarray(axes.cut(name, other, length))
            if own.shape != one.shape or not compare(name, own, one, None, quantized).passed:
                raise ModelError(
                    f"output {name!r} of a sequence of {length} steps changes when it is padded to {axes.own}: what is "
                    "behind its end is read too. Give the network an input that masks it (pad says by which value), "
                    "or make an artifact for every length"
                )


def axes_to_json(axes: LengthAxes) -> dict[str, Any]:
    """JSON types, as metadata have them."""
    return {"own": axes.own, "inputs": axes.inputs, "outputs": axes.outputs, "pad": axes.pad}
