"""What an artifact's metadata must hold, for :func:`tvm_schedules.common.schema.check`; there may be more."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_schedules.common.schema import Every, Maybe, count, positive, real

__all__ = ["METADATA"]


def _dtype(value: Any) -> str | None:
    """The name of a type of numbers."""
    try:
        known = isinstance(value, str) and np.dtype(value).kind in "biuf" and np.dtype(value).name == value
    except TypeError:
        known = False
    return None if known else "the name of a type of numbers"


_TENSOR = {"name": str, "shape": [count], "dtype": _dtype, "batch?": bool, "in_place?": str}
_TENSOR |= {"quant?": {"scale": positive, "zero_point": count}}
_STEP: dict[str, Any] = {"name": str, "kernel": str, "op?": str, "reason?": str, "operand?": str}
_STEP |= dict.fromkeys(("macs?", "nonzero_macs?", "bytes_weights?", "work?"), count)
_LAYER: dict[str, Any] = {"name": str, "kernel": str, "reason": str, "shape": [count], "terms": count, "bytes": count}
_LAYER |= {"sparsity": real, "entropy": Maybe(real), "bits": real, "levels": [real]}
_LAUNCHES = {
    "kernels?": [{"name": str, "grid": [count], "threads": count, "order": [count]}],
    "launches?": [{"kernel": count, "args": [list]}],
}

METADATA = {
    "created": str,
    "packages": Every(str),
    "target": {"name": str, "architecture": str, "vector_bytes": count, "features": [str], "tvm": {"kind": str}},
    "quantization": dict,
    "inputs": [_TENSOR],
    "outputs": [_TENSOR],
    "steps": [_STEP],
    "layers": [_LAYER],
    "memory": {"constant_bytes": count, "arena_bytes?": count, "slots?": [count], "slack?": count, **_LAUNCHES},
    "code?": {"source?": str, "binary?": str, "images?": [str]},
    "verification": Maybe({"where": str, "runs": count}),
    "unverified?": Maybe(str),
    "versions?": Every(str),
    "batches?": Every(str),
    "lengths?": Every(str),
    "length?": {"own": count, "inputs": Every(count), "outputs": Every(count), "pad": Every(real)},
    "files": Every({"bytes": count, "sha256": str}),
}
