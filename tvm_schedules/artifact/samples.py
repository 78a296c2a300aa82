"""Samples of an artifact: inputs and onnxruntime's outputs for them, to check a device with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.artifact import store
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import read_arrays, reading
from tvm_schedules.errors import ArtifactError

__all__ = ["load_samples", "read_runs", "save_samples", "write_runs"]

KEPT_RUNS = 8
"""Samples that are stored in an artifact at most."""

KEPT_BYTES = 1 << 20
"""Bytes of inputs and outputs from which fewer are."""


def _stacked(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``input0``, ..., each ``[runs, *shape]``."""
    return {f"input{index}": np.stack([run[name] for run in runs]) for index, name in enumerate(runs[0])}


def write_runs(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Hand inputs over to another process.

    Args:
        path: The file to write.
        runs: Inputs by name, in the network's order.
    """
    np.savez(path, allow_pickle=False, **_stacked(runs))


def read_runs(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """What :func:`write_runs` wrote, for inputs of these names."""
    with np.load(path) as file:
        stacked = [file[f"input{index}"] for index in range(len(names))]
    return [dict(zip(names, run, strict=True)) for run in zip(*stacked, strict=True)]


def save_samples(folder: Path, runs: Sequence[Mapping[str, Any]], expected: Sequence[Sequence[Any]]) -> None:
    """Store the first samples as ``input0``, ... and onnxruntime's ``output0``, ..., each ``[runs, *shape]``.

    Args:
        folder: The artifact's directory.
        runs: Inputs by name, in the network's order.
        expected: Outputs in the network's order.
    """
    one = sum(array.nbytes for array in [*runs[0].values(), *expected[0]])
    kept = max(1, min(len(runs), KEPT_RUNS, KEPT_BYTES // max(1, one)))
    arrays = _stacked(runs[:kept])
    arrays |= {f"output{i}": np.stack([run[i] for run in expected[:kept]]) for i in range(len(expected[0]))}
    np.savez_compressed(folder / store.SAMPLES, allow_pickle=False, **arrays)


def load_samples(path: str | Path) -> tuple[list[list[Any]], list[list[Any]]]:
    """An artifact's stored samples.

    Returns:
        Inputs and onnxruntime's outputs: for every run the arrays in the network's order.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    folder = user_path(path)
    path = folder / store.SAMPLES
    with reading(path, ArtifactError, "; export it again"):
        arrays = read_arrays(path)
        sides = []
        for side in ("input", "output"):
            stacked = [arrays[f"{side}{index}"] for index in range(sum(name.startswith(side) for name in arrays))]
            if not stacked or any(array.dtype.kind not in "biuf" for array in stacked):
                raise ValueError(f"it holds no {side}s that are numbers")
            sides.append([list(run) for run in zip(*stacked, strict=True)])
        if len(sides[0]) != len(sides[1]):
            raise ValueError(f"it has inputs of {len(sides[0])} runs and outputs of {len(sides[1])}")
        return sides[0], sides[1]
