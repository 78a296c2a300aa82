"""Sample inputs from arrays, files or shapes, cut into batches of the exported network's size."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tern_lightning.exporter.errors import ExportError
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import read_arrays, reason

if TYPE_CHECKING:  # samples of an ONNX file are read where torch is not installed
    from torch import nn

Array = NDArray[np.generic]
_OF_ARTIFACT = re.compile(r"(input|output)\d+")
Batch = tuple[Array, ...]
Shapes = Sequence[int] | Sequence[Sequence[int]]
SHAPE_HINT = "give samples= (--samples FILE.npz) or input_shape= (--input-shape 1,3,32,32)"


def collect_batches(
    module: nn.Module | None,
    samples: Any = None,
    input_shape: Shapes | None = None,
    batch_size: int | None = 1,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> tuple[list[Batch], bool]:
    """Return batches of inputs of equal shapes, and whether they are data (not random numbers).

    Args:
        module: Asked for ``example_input_array`` when there is nothing else.
        samples: An array or tensor whose first axis runs over samples, a tuple of them (one for each input), a mapping
            of them, or the path of an .npz or .npy file. Arrays of a mapping or file belong to the inputs that have
            their names, and where no input has any of these names, to the inputs in their order.
        input_shape: Shape of the input with the batch, or a shape for each input; random normal numbers are drawn when
            there are no samples.
        batch_size: Samples in a batch when ``input_shape`` does not say it; None puts all into one batch. Samples that
            do not fill the last batch are dropped.
        seed: Seed of the random numbers.
        names: Of the inputs, in their order; None takes the parameters of the module's ``forward``.

    Raises:
        ExportError: There is nothing to take inputs from, or samples do not fit the names, the shape or the batch.
        ValueError: A shape or the batch size is not positive.
    """
    shapes = None if input_shape is None else _shapes(input_shape)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if samples is None:
        example = getattr(module, "example_input_array", None)
        if shapes is not None:
            return _random_batches(shapes, seed), False
        if example is None:
            raise ExportError(f"the shape of the input is not known: {SHAPE_HINT}")
        if isinstance(example, Mapping):
            raise ExportError(
                f"example_input_array of {type(module).__name__} has keyword arguments, which are not exported; "
                f"{SHAPE_HINT}"
            )
        arrays = _arrays(example)
        batch_size = None
    else:
        given = load_samples(samples) if isinstance(samples, str | os.PathLike) else samples
        if isinstance(given, Mapping):
            given = _in_order(given, _parameters(module) if names is None else list(names))
        arrays = _arrays(given)
    if shapes is None:
        # An example array is usually drawn at random, to say the shape: it is not data to calibrate on.
        return _cut(arrays, batch_size), samples is not None
    if [array.shape[1:] for array in arrays] != [shape[1:] for shape in shapes]:
        given = [array.shape for array in arrays]
        raise ExportError(f"samples have shapes {given}, which do not fit input_shape {shapes}")
    return _cut(arrays, shapes[0][0]), True


def _parameters(module: nn.Module | None) -> list[str]:
    """Names of what ``forward`` takes by position."""
    if module is None:
        return []
    found = inspect.signature(module.forward).parameters.values()
    return [one.name for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]


def _in_order(named: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, ...]:
    """The samples of a mapping in the order of the inputs; its own where no input has any of its names.

    Raises:
        ExportError: Some names are those of inputs, and others are not, or inputs before them are missing.
    """
    if not any(name in names for name in named):
        return tuple(named.values())
    first = list(names[: len(named)])
    if set(first) != set(named):
        raise ExportError(
            f"samples are named {', '.join(named)}, and the inputs are {', '.join(names)}: the first {len(named)} must "
            "be named, in any order; or give a tuple"
        )
    return tuple(named[name] for name in first)


def load_samples(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Read the arrays of an .npz or .npy file by their names, in the file's order.

    Raises:
        ExportError: The file is missing, damaged, or holds something else than plain arrays.
    """
    path = user_path(path, "samples")
    try:
        named = read_arrays(path)
    except FileNotFoundError as error:
        raise ExportError(f"samples file {str(path)!r} does not exist") from error
    except Exception as error:  # zip, zlib and header errors have no common class
        raise ExportError(f"samples file {str(path)!r} is not a readable .npz or .npy file: {reason(error)}") from error
    if not named:
        raise ExportError(f"samples file {str(path)!r} holds no array")
    if all(_OF_ARTIFACT.fullmatch(name) for name in named) and "output0" in named:
        raise ExportError(
            f"samples file {str(path)!r} is that of an artifact, with outputs and an axis for the runs; "
            "give the samples that the artifact was made with"
        )
    return named


def _arrays(samples: Any) -> Batch:
    """Arrays of an input each; doubles become float32, as networks are."""
    items = samples if isinstance(samples, tuple | list) else (samples,)
    arrays = []
    for item in items:
        array = item.detach().cpu().numpy() if hasattr(item, "detach") else item  # a tensor
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            way = (
                "; wrap a module that takes one so that its forward takes tensors" if isinstance(item, Mapping) else ""
            )
            raise ExportError(f"samples must be arrays or tensors of numbers, got {type(item).__name__}{way}")
        arrays.append(array.astype(np.float32) if array.dtype.kind == "f" else array)
    return tuple(arrays)


def _cut(arrays: Batch, size: int | None) -> list[Batch]:
    if size is None:
        return [arrays]
    counts = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(counts) != 1:
        raise ExportError(f"samples of different inputs have different lengths {[array.shape for array in arrays]}")
    (count,) = counts
    if count < size:
        raise ExportError(f"{count} samples do not fill a batch of {size}")
    return [tuple(array[start : start + size] for array in arrays) for start in range(0, count - size + 1, size)]


def _random_batches(shapes: Sequence[tuple[int, ...]], seed: int, count: int = 8) -> list[Batch]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(shape, generator=generator).numpy() for shape in shapes) for _ in range(count)]


def _shapes(given: Shapes) -> list[tuple[int, ...]]:
    nested: Any = [given] if all(isinstance(size, int) for size in given) else given
    shapes = [tuple(int(size) for size in shape) for shape in nested]
    if not shapes or any(not shape or min(shape) < 1 for shape in shapes):
        raise ValueError(f"input_shape must hold positive sizes, got {given}")
    return shapes
