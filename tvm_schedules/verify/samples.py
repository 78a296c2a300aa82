"""Inputs to run a network on: those that a user gives, cut into runs, or random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import ShapeError
from tvm_schedules.frontend import onnx_model

__all__ = ["Samples", "named_samples", "random_samples", "split_samples"]

Array = npt.NDArray[Any]
Samples = Mapping[str, Array] | Sequence[Array] | Array
"""By input name, in the order of the inputs, or the array of a single input."""


def split_samples(entries: Sequence[Mapping[str, Any]], samples: Samples) -> list[dict[str, Array]]:
    """Cut samples into runs of the network.

    Args:
        entries: Inputs of the network (name, shape, dtype), all sizes fixed.
        samples: One array for a single input, a sequence in the order of the inputs, or a mapping by name. Every array
            has its input's shape, or a multiple of it along the first axis, the same multiple for all that have axes; a
            single number is the same in every run.

    Returns:
        One mapping from name to array for every run.

    Raises:
        ShapeError: Names, shapes, dtypes or multiples do not fit.
    """
    by_name = named_samples(entries, samples)
    multiples = {}
    for entry in entries:
        array, shape = by_name[entry["name"]], tuple(entry["shape"])
        if array.dtype != np.dtype(entry["dtype"]):
            raise ShapeError(f"samples of input {entry['name']!r} must have dtype {entry['dtype']}, got {array.dtype}")
        fits = array.ndim == len(shape) and array.shape[1:] == shape[1:] and array.size > 0
        if not fits or (shape and array.shape[0] % shape[0]):
            raise ShapeError(
                f"samples of input {entry['name']!r} must have shape {list(shape)} or a multiple of it along the first "
                f"axis, got {list(array.shape)}"
            )
        if shape:
            multiples[entry["name"]] = array.shape[0] // shape[0]
    if len(set(multiples.values())) > 1:
        raise ShapeError(f"samples must hold the same number of runs for every input, got {multiples}")
    count = next(iter(multiples.values()), 1)
    return [
        {
            entry["name"]: by_name[entry["name"]][run * entry["shape"][0] : (run + 1) * entry["shape"][0]]
            if entry["shape"]
            else by_name[entry["name"]]
            for entry in entries
        }
        for run in range(count)
    ]


def named_samples(entries: Sequence[Mapping[str, Any]], samples: Samples) -> dict[str, Array]:
    """Samples by input name.

    Raises:
        ShapeError: A name is unknown or missing, or the number of arrays is wrong.
    """
    names = [entry["name"] for entry in entries]
    if isinstance(samples, np.ndarray):
        samples = [samples]
    if isinstance(samples, Mapping):
        if set(samples) != set(names):
            raise ShapeError(f"samples must be given for the inputs {', '.join(names)}, got {', '.join(samples)}")
        return {name: np.asarray(samples[name]) for name in names}
    if len(samples) != len(names):
        raise ShapeError(f"samples must be {len(names)} arrays ({', '.join(names)}), got {len(samples)}")
    return dict(zip(names, (np.asarray(array) for array in samples), strict=True))


def random_samples(model: Any, runs: int = 8, seed: int = 0) -> list[dict[str, Array]]:
    """Random inputs: uniform over the range of an input's quantizer, else standard normal; integers are 0 or 1."""
    random = np.random.default_rng(seed)
    constants = onnx_model.constant_arrays(model)
    ranges: dict[str, tuple[float, float]] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2 and node.input[1] in constants:
            scale, zero = constants[node.input[1]], constants.get(node.input[2])
            if scale.size == 1 and zero is not None and zero.dtype == np.uint8:
                low = -float(zero.reshape(())) * float(scale.reshape(()))
                ranges[node.input[0]] = (low, low + 255 * float(scale.reshape(())))
    result = []
    for _ in range(runs):
        run = {}
        for entry in onnx_model.signature(model, "input"):
            dtype = np.dtype(entry["dtype"])
            if entry["name"] in ranges:
                value = random.uniform(*ranges[entry["name"]], entry["shape"])
            elif dtype.kind == "f":
                value = random.standard_normal(entry["shape"])
            else:
                value = random.integers(0, 2, entry["shape"])
            run[entry["name"]] = np.asarray(value).astype(dtype)
        result.append(run)
    return result
