"""Whether the first axis of a network's inputs and outputs counts samples that have nothing to do with each other.

An ONNX file does not say so, and sizes do not tell: the first axis of a network that is compiled for one sample, or for
one sequence without a batch, is 1 or the sequence's length. So it is tried: onnxruntime runs the network on twice as
many samples. Whoever exports a network knows more, and can write it into the file (:data:`PROPERTY`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.verify.outputs import compare
from tvm_schedules.verify.reference import reference_outputs, reference_session
from tvm_schedules.verify.samples import random_samples

__all__ = ["PROPERTY", "choices", "counting", "independent", "regrouped", "resized"]

Array = npt.NDArray[Any]
Run = Mapping[str, Array]

PROPERTY = "tern.batch"
"""Metadata property of ONNX files: names of the inputs whose first axes, as those of all outputs, count samples; one a
line, and no line if there is none."""


def counting(model: Any, runs: Sequence[Run], expected: Sequence[Sequence[Array]]) -> frozenset[str]:
    """Names of the inputs whose first axes count samples, as the first axes of all outputs then do.

    Args:
        model: ``onnx.ModelProto`` with fixed shapes.
        runs: Inputs by name.
        expected: The network's outputs for them.

    Returns:
        The names; none where samples depend on each other, or where that cannot be found out.
    """
    inputs = onnxtools.signature(model, "input")
    stated = next((entry.value for entry in model.metadata_props if entry.key == PROPERTY), None)
    found = choices(inputs, expected[0])
    if stated is not None:
        names = frozenset(stated.split("\n")) & {entry["name"] for entry in inputs}
        return names if any(names <= choice for choice in found) else frozenset()
    runs = [*runs[:3], *random_samples(model, 2, seed=1)][:3]
    for names in found:
        # onnxruntime may not be able to: shapes inside of the network are fixed ones, for example.
        with contextlib.suppress(Exception):
            if _tried(model, names, runs, expected[0]):
                return names
    return frozenset()


def choices(inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Array]) -> list[frozenset[str]]:
    """Inputs whose first axes may count samples: all of the same first size as the outputs, or the first of them."""
    sizes = {array.shape[0] if array.ndim else 0 for array in outputs}
    names = [entry["name"] for entry in inputs if entry["shape"] and {entry["shape"][0]} == sizes]
    return [frozenset(found) for found in (names, names[:1])][: len(names)]


def _tried(model: Any, names: Collection[str], runs: Sequence[Run], expected: Sequence[Array]) -> bool:
    session = reference_session(resized(model, names, 2 * len(expected[0])), severity=4)
    runs = [{**runs[0], **{name: run[name] for name in names}} for run in runs]
    both = [expected, *reference_outputs(model, runs[1:2])]
    outputs = [value.name for value in model.graph.output]

    def run(given: Run) -> list[Array]:
        return [np.asarray(array) for array in session.run(outputs, dict(given))]

    return independent(run, names, runs, both, bool(onnxtools.quantized_tensors(model)))


def independent(
    run: Callable[[Run], Sequence[Array]],
    names: Collection[str],
    runs: Sequence[Run],
    expected: Sequence[Sequence[Array]],
    quantized: bool = False,
) -> bool:
    """Whether a network that runs on twice as many samples gives for each what it gives without the others.

    Args:
        run: The network, which takes twice as many samples.
        names: Inputs whose first axes are to count samples.
        runs: Three runs of the usual number of samples, with the same values for all other inputs.
        expected: The network's outputs for the first two of them.
        quantized: Whether values are rounded inside, so that small differences may grow.
    """
    size = len(expected[0][0])

    def outputs(*parts: tuple[int, int, int]) -> Sequence[Array]:
        """Of samples in parts of a run: its number, begin and end."""
        joined = {name: np.concatenate([runs[i][name][begin:end] for i, begin, end in parts]) for name in names}
        return run({**runs[0], **joined})

    both = outputs((0, 0, size), (1, 0, size))
    first = outputs((0, 0, 1), (1, 1, size), (2, 0, size))
    last = outputs((2, 0, size), (0, 0, size - 1), (1, size - 1, size))
    for index, whole in enumerate(both):
        if whole.shape != (2 * size, *expected[0][index].shape[1:]):
            return False
        # One sample is the same in two runs, and all others are not: not a bit of its output may change.
        for where, other in ((slice(1), first), (slice(-1, None), last)):
            if not np.array_equal(whole[where], other[index][where], equal_nan=whole.dtype.kind == "f"):
                return False
        for part, alone in zip((whole[:size], whole[size:]), expected, strict=False):
            if not compare("", part, alone[index], None, quantized).passed:
                return False
    return True


def resized(model: Any, names: Collection[str], size: int) -> Any:
    """A network for another number of samples.

    Args:
        model: ``onnx.ModelProto`` with fixed shapes; it is not changed.
        names: Inputs whose first axes count samples; all outputs' do.
        size: The number of samples of a run.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.value_info[:]
    before = 0
    for value in made.graph.input:
        if value.name in names:
            before = value.type.tensor_type.shape.dim[0].dim_value
            value.type.tensor_type.shape.dim[0].dim_value = size
    for value in made.graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = size
    constants = onnxtools.constant_arrays(model)
    for index, node in enumerate(made.graph.node):
        if node.op_type not in ("Reshape", "Expand") or node.input[0] in constants:
            continue
        shape = constants.get(node.input[1])
        if shape is not None and shape.size and shape[0] == before:
            name = f"{node.input[1]}.{index}.{size}"
            given = np.array([size, *shape[1:]], np.int64)
            made.graph.initializer.append(onnx.numpy_helper.from_array(given, name))
            node.input[1] = name
    _state(made, names)
    return made


def regrouped(runs: Sequence[Run], names: Collection[str], size: int) -> list[dict[str, Array]]:
    """The samples of runs in runs of another number of samples, over again where there are too few for one."""
    joined = {name: np.concatenate([run[name] for run in runs]) for name in names}
    count = len(next(iter(joined.values())))
    starts = range(0, max(1, count - size + 1), size)
    groups = [np.arange(start, start + size) % count for start in starts]
    return [{**runs[0], **{name: array[group] for name, array in joined.items()}} for group in groups]


def _state(model: Any, names: Collection[str]) -> None:
    """Write into a file which inputs count samples."""
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != PROPERTY}
    del model.metadata_props[:]
    for key, value in {**kept, PROPERTY: "\n".join(sorted(names))}.items():
        model.metadata_props.add(key=key, value=value)
