"""Checks an artifact on the device and times it, where there is no server for ``tern-bench``: ``check.py ARTIFACT``.

Needs this package and what the artifact needs: pyopencl for OpenCL, the driver for CUDA, TVM's runtime for CPUs.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import tvm_schedules
from tvm_schedules.artifact import load_samples
from tvm_schedules.engines.worker import relative_error

WARM_UPS, RUNS = 3, 50
TOLERANCE = 0.02
"""Of a difference from onnxruntime, relative to the largest output."""


def main(folder: str) -> int:
    """Compares the stored samples, then times; 1 if a result differs."""
    model = tvm_schedules.load(folder)
    print(model)
    inputs, outputs = load_samples(folder)
    error = relative_error(lambda arrays: model(*arrays), inputs, outputs)
    print(f"{len(inputs)} samples, largest relative difference from onnxruntime {error:.1e}")
    taken = []
    for _ in range(WARM_UPS + RUNS):
        started = time.perf_counter()
        model(*inputs[0])
        taken.append(1e3 * (time.perf_counter() - started))
    low, median, high = np.percentile(taken[WARM_UPS:], [25, 50, 75])
    print(
        f"median {median:.3f} ms (quartiles {low:.3f} - {high:.3f}) of {RUNS} runs, copies to the device and back in it"
    )
    return 0 if error <= TOLERANCE else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} ARTIFACT")
    sys.exit(main(sys.argv[1]))
