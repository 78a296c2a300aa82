"""What tern-bench and CompressionReport write, small, with names that try to be code."""

from __future__ import annotations

import copy
from typing import Any

HOSTILE = "</script><img src=x onerror=alert(1)>&\u2028$data"

BENCH: dict[str, Any] = {
    "artifact": {"path": "out", "target": "host"},
    "machine": {"cpu": "A <b>CPU</b>", "cores": 2},
    "results": [
        {
            "threads": threads,
            "engines": [
                {"name": "tern", "median_ms": 1.0 / threads, "q25_ms": 0.9 / threads, "q75_ms": 1.1 / threads,
                 "min_ms": 0.8, "ratio": 1.0, "file_bytes": 10, "own_rss_bytes": 1 << 20, "load_seconds": 0.1},
                {"name": "onnxruntime int8", "median_ms": 3.0, "q25_ms": 2.0, "q75_ms": 5.0, "min_ms": 2.0,
                 "ratio": 3.0, "file_bytes": 20, "own_rss_bytes": None, "load_seconds": 0.2},
                {"name": "onnxruntime fp32", "median_ms": 4.0, "q25_ms": 4.0, "q75_ms": 4.0, "min_ms": 4.0,
                 "ratio": 4.0, "file_bytes": 40, "own_rss_bytes": None, "load_seconds": 0.2},
            ],
            "steps": [
                {"name": "step_b", "op": "Conv", "kernel": "sparse", "operand": "uint8", "us": 7.0, "share": 0.7,
                 "dense_gmacs": 1.0, "gadds": 2.0, "ceiling_share": 0.5},
                {"name": "step_a", "op": "Gemm", "kernel": "linear_dot", "operand": "uint8", "us": 3.0, "share": 0.3,
                 "dense_gmacs": 0.0, "gadds": 0.0, "ceiling_share": None},
            ],
        }
        for threads in (1, 2)
    ],
}  # fmt: skip


def layer(name: str, stored: int, **more: Any) -> dict[str, Any]:
    """A layer as ``tern-inspect --json`` prints it, of 8 x 4 weights."""
    plain = {"op": "Conv", "shape": [8, 4], "kind": "ternary", "terms": 1, "sparsity": 0.75, "entropy": 1.1}
    plain |= {"bits": 8 * stored / 32, "levels": [0.5, 0.6], "kernel": "sparse", "reason": "75 % zeros", "step": None}
    return {"name": name, "bytes": stored, **plain, **more}


INSPECTION: dict[str, Any] = {
    "path": "out",
    "kind": "artifact",
    "layers": [layer(HOSTILE, 9, step="step_a"), layer("b", 30, step="step_b", sparsity=0.5), layer("c", 11)],
    "files": {"model.so": 1000, "weights.npz": 70, "model.onnx": 5000},
    "details": {
        "target": {"name": "host", "architecture": "x86_64"},
        "unverified": None,
        "verification": {
            "passed": True, "runs": 4, "where": "library",
            "outputs": [{"name": "y", "cosine": 1.0, "relative": float("nan"), "max_abs": 0.0, "top1": None}],
        },
    },
    "totals": {
        "all": {"layers": 3, "weights": 96, "bytes": 50, "float32_bytes": 384, "sparsity": 2 / 3},
        "ternary": {"layers": 3, "weights": 96, "bytes": 50, "float32_bytes": 384, "sparsity": 2 / 3},
    },
}  # fmt: skip


def training(epochs: int = 3, accuracy: float = 0.9) -> dict[str, Any]:
    """What CompressionReport writes; the accuracy goes up to ``accuracy``."""
    values = [
        {"val_loss": 1.0 / (index + 1), "val_acc": accuracy * (index + 1) / epochs, "ternary/sparsity": 0.1 * index}
        for index in range(epochs)
    ]
    return {
        "format": "tern-training",
        "version": 1,
        "epochs": [{"epoch": index, "step": 10 * index, "values": entry} for index, entry in enumerate(values)],
        "layers": [
            {
                "path": "b", "method": "twn", "phase": "frozen", "shape": [8, 4], "sparsity": 0.5, "entropy": 1.2,
                "levels": [0.5, 0.5], "flips": 0.01, "bytes": 30,
                "histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [[8, 0], [8, 8], [0, 8]]},
                "history": [{"epoch": index, "sparsity": 0.1 * index, "flips": None} for index in range(epochs)],
            }
        ],
    }  # fmt: skip


def bench(median: float) -> dict[str, Any]:
    """A measurement in which our library takes ``median`` milliseconds with one thread."""
    made = copy.deepcopy(BENCH)
    made["results"][0]["engines"][0]["median_ms"] = median
    return made
