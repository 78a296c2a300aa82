"""The stored arrays of an artifact, one after another in one file, and how the kernels' constants are made of them.

A network has a hundred and more small arrays. A zip file with an entry for each takes 200 bytes for every one, a third
of the file of a ResNet-20; so there are two entries: all bytes, and an index of names, types and shapes (JSON). The
index also has the plan's list of constants, which is long, repeats itself, and is nothing to read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.common import schema
from tvm_schedules.common.dtypes import check_type
from tvm_schedules.common.reading import read_arrays, reading
from tvm_schedules.errors import ArtifactError, ModelError
from tvm_schedules.ir.plan import Constant

__all__ = ["read", "write"]

Array = npt.NDArray[Any]


def write(path: Path, arrays: Mapping[str, Array], constants: Sequence[Constant] = ()) -> None:
    """Write arrays, and how constants are made of them, as compressed ``.npz`` with the entries ``index`` and ``data``.

    Raises:
        ModelError: An array has elements of a type that is not in :data:`tvm_schedules.common.dtypes.TYPES`.
    """
    for name, array in arrays.items():
        check_type(array.dtype, f"constant {name!r}")
    places = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    index = {"arrays": places, "constants": [constant.to_json() for constant in constants]}
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    text = json.dumps(index, separators=(",", ":")).encode()
    np.savez_compressed(path, allow_pickle=False, index=np.frombuffer(text, "u1"), data=np.frombuffer(data, "u1"))


def read(path: Path, content: bytes | None = None) -> tuple[dict[str, Array], list[Constant]]:
    """What :func:`write` wrote; the arrays share memory and are read-only.

    Args:
        path: The file.
        content: Its bytes where they have been read.

    Raises:
        ArtifactError: The index is not of arrays of the types that :func:`write` takes, or they do not fill the data.
    """
    with reading(path, ArtifactError, "; export it again"):
        entries = read_arrays(path if content is None else content)
        index, data = json.loads(entries["index"].tobytes()), entries["data"].tobytes()
        schema.check(index, {"arrays": [list], "constants": [dict]})
        return _split(path, index["arrays"], data), [Constant.from_json(entry) for entry in index["constants"]]


def _split(path: Path, places: list[Any], data: bytes) -> dict[str, Array]:
    """The arrays that lie one after another in the data."""
    arrays, start = {}, 0
    for name, kind, shape in places:
        try:
            dtype = np.dtype(check_type(kind, f"array {name!r}"))
        except (ModelError, TypeError) as error:
            raise ArtifactError(f"{path}: {error}; the file is damaged, export it again") from error
        count = math.prod(shape)
        if min(shape, default=0) < 0 or start + count * dtype.itemsize > len(data):
            raise ArtifactError(f"{path}: array {name!r} ({kind} {shape}) does not fit its data; export it again")
        arrays[name] = np.frombuffer(data, dtype, count, start).reshape(shape)
        start += count * dtype.itemsize
    if start != len(data):
        raise ArtifactError(f"{path}: {len(data) - start} bytes of its data belong to no array; export it again")
    return arrays
