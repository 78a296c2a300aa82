"""What an artifact is compiled from: one network, for all its lengths and numbers of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from tvm_schedules.artifact import lengths
from tvm_schedules.errors import ModelError
from tvm_schedules.frontend import onnx_model
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.verify import batch_axis
from tvm_schedules.verify.samples import Samples, named_samples, split_samples

__all__ = ["Networks", "Runs", "read_networks"]

Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Networks:
    """A network, and what else is compiled beside it.

    Attributes:
        model: ``onnx.ModelProto`` with fixed shapes.
        runs: Inputs to verify with, run by run; None for random ones.
        sizes: Numbers of samples to compile it for beside its own.
        shorter: The same network for shorter sequences by their length, and the axes that count.
        resized: The same network for other numbers of samples, for any of the lengths.
    """

    model: Any
    runs: Runs | None
    sizes: Sequence[int] = ()
    shorter: Mapping[int, tuple[Any, lengths.LengthAxes]] = field(default_factory=dict)
    resized: Sequence[Any] = ()

    def of_size(self, names: Sequence[str], size: int) -> Any:
        """The network for another number of samples: one that was given for it, or this one with other first axes.

        Args:
            names: Inputs whose first axes count samples.
            size: The number.
        """
        wanted = {
            entry["name"]: [size, *entry["shape"][1:]] if entry["name"] in names else entry["shape"]
            for entry in onnx_model.signature(self.model, "input")
        }
        for other in self.resized:
            if {entry["name"]: entry["shape"] for entry in onnx_model.signature(other, "input")} == wanted:
                return other
        return batch_axis.resized(self.model, names, size)


def read_networks(
    model: Any,
    samples: Samples | None,
    sizes: Sequence[int] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, npt.ArrayLike] | None = None,
    outputs: Sequence[str] = (),
    shorter: Sequence[Any] = (),
    resized: Sequence[Any] = (),
    pad: Mapping[str, float] | None = None,
) -> Networks:
    """Read what :func:`tvm_schedules.build` is given, and fix all shapes; the arguments are explained there.

    Raises:
        ModelError: It cannot be read, has open shapes, or the networks are not one for several lengths.
        InputError: Samples, constants or outputs do not fit.
    """
    proto = read_model(model)
    if outputs:
        onnx_model.keep_outputs(proto, outputs)
    onnx_model.fix_inputs(proto, constants or {})
    shapes = dict(input_shapes or {})
    if samples is not None:
        for name, shape in _sample_shapes(proto, samples).items():
            shapes.setdefault(name, shape)
    given = type(proto)()
    given.CopyFrom(proto)
    onnx_model.fix_shapes(proto, shapes)
    others = _shorter(given, proto, [(source, shapes) for source in shorter], pad or {})
    runs = None if samples is None else split_samples(onnx_model.signature(proto, "input"), samples)
    return Networks(proto, runs, sizes, others, [read_model(source) for source in resized])


def _shorter(
    given: Any, model: Any, sources: Sequence[tuple[Any, Mapping[str, Sequence[int]]]], pad: Mapping[str, float]
) -> dict[int, tuple[Any, lengths.LengthAxes]]:
    """Networks for shorter sequences by length, and which axes count.

    Raises:
        ModelError: They are not one network for several lengths.
    """
    found: dict[int, tuple[Any, lengths.LengthAxes]] = {}
    for source, shapes in sources:
        other = lengths.read_shorter(source, given, shapes)
        axes, length = lengths.find_axes(model, other, pad)
        if any(axes != known for _, known in found.values()):
            raise ModelError(f"the network of length {length} differs from the longest in other axes than the rest")
        found[length] = other, axes
    return found


def _sample_shapes(model: Any, samples: Samples) -> dict[str, list[int]]:
    """Shapes that samples give to inputs with open sizes; an open first dimension counts samples and becomes 1."""
    entries = onnx_model.signature(model, "input")
    shapes = {}
    for name, array in named_samples(entries, samples).items():
        declared = next(entry["shape"] for entry in entries if entry["name"] == name)
        if all(isinstance(size, int) for size in declared) or len(declared) != array.ndim:
            continue
        shapes[name] = [
            size if isinstance(size, int) else (1 if axis == 0 else int(array.shape[axis]))
            for axis, size in enumerate(declared)
        ]
    return shapes
