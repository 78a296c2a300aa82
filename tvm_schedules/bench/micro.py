"""What this machine can do at best, kind by kind: sums, multiply-adds, reads from every level of memory.

``python -m tvm_schedules.bench.micro '{"library": "probe.so", "cpus": [1], "seconds": 0.2}'`` measures on these CPUs,
a thread each, and prints JSON; :func:`measure_apart` does that from here. Rates are 1e9 a second, all threads together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules import compat
from tvm_schedules.backends import toolchain as linking
from tvm_schedules.errors import BenchError
from tvm_schedules.targets.registry import TargetSpec

ACCUMULATORS = 12  # enough to hide the latency of a multiply-add
ROUND = 1000  # times that a kernel repeats its accumulators' operations in one round
LARGEST = 1 << 28
READS = {"read_l1": 1 << 14, "read_l2": 1 << 18, "read_l3": 1 << 23, "read_dram": LARGEST}
"""Bytes that are read again and again, all threads together: far from the limits of common caches."""

ACROSS = "read_l1_across"
"""As ``read_l1``, by vectors that begin four bytes behind a line: those as long as a line lie across two."""


def _operations(spec: TargetSpec) -> dict[str, tuple[str, int, Callable[[Any, Any, list[Any]], Any]]]:
    """Operations without memory: type of an accumulator's element, operations an element, how the next value is made.

    Operands are accumulators and values from memory: what a compiler cannot sum up beforehand.
    """
    from tvm_schedules.backends.cpu.kernels.common.dot_product import available

    def multiply_add(e: compat.Emitter, old: Any, given: list[Any]) -> Any:
        return e.fma(old, given[0], given[1])

    found: dict[str, Any] = {"add_u8": ("uint8", 1, None), "add_f32": ("float32", 1, None)}
    if "fma" in spec.features or "aarch64" in str(spec.tvm.get("mtriple", "")):
        found["fma_f32"] = ("float32", 1, multiply_add)
    dot = available(spec)
    if dot is not None:

        def products(e: compat.Emitter, old: Any, given: list[Any]) -> Any:
            size = 4 * dot.lanes
            return dot(e, old, e.bits(given[0], f"uint8x{size}"), e.bits(given[1], f"int8x{size}"))

        found["dot_i8"] = ("int32", 4, products)
    return found


def _compute(kind: str, dtype: str, make: Any, width: int) -> tuple[Any, Any, Any]:
    """Kernel without loads: ``x, out, counts [rounds, tasks, -]``."""
    lanes = width // np.dtype(dtype).itemsize

    def kernel(e: compat.Emitter, pointers: list[Any]) -> None:
        x, out = e.view(pointers[0], LARGEST // np.dtype(dtype).itemsize, dtype), e.view(pointers[1], 1 << 16, dtype)
        counts = e.view(pointers[2], 3, "int32")
        with e.loop(e.load(counts, 1), parallel=True) as task:
            sums = [e.local(lanes, dtype) for _ in range(ACCUMULATORS)]
            for k, part in enumerate(sums):
                e.store(part, 0, e.load(x, k * lanes, lanes), lanes)
            given = [e.load(x, (ACCUMULATORS + i) * lanes, lanes) for i in range(2)]
            with e.loop(e.load(counts, 0)), e.loop(ROUND):
                for k, part in enumerate(sums):
                    old = e.load(part, 0, lanes)
                    beside = e.load(sums[(k + 5) % ACCUMULATORS], 0, lanes)
                    e.store(part, 0, old + beside if make is None else make(e, old, given), lanes)
            for k, part in enumerate(sums):
                e.store(out, (task * ACCUMULATORS + k) * lanes, e.load(part, 0, lanes), lanes)

    return _exported(kind, dtype, kernel)


def _read(kind: str, width: int, shift: int) -> tuple[Any, Any, Any]:
    """Kernel that reads ``counts[2]`` vectors a task again and again, from word ``shift`` on."""
    lanes = width // 4

    def kernel(e: compat.Emitter, pointers: list[Any]) -> None:
        x, out = e.view(pointers[0], LARGEST // 4, "int32"), e.view(pointers[1], 1 << 16, "int32")
        counts = e.view(pointers[2], 3, "int32")
        with e.loop(e.load(counts, 1), parallel=True) as task:
            sums = [e.local(lanes, "int32") for _ in range(8)]
            for part in sums:
                e.store(part, 0, e.const(0, f"int32x{lanes}"), lanes)
            base = task * e.load(counts, 2) * lanes + shift
            with e.loop(e.load(counts, 0)), e.loop(e.load(counts, 2) // 8) as i:
                for k, part in enumerate(sums):
                    # The sum so far is in it, so that a round is not a copy of the one before.
                    word = e.load(x, base + (i * 8 + k) * lanes, lanes) ^ e.load(part, 0, lanes)
                    e.store(part, 0, word, lanes)
            for k, part in enumerate(sums):
                e.store(out, (task * 8 + k) * lanes, e.load(part, 0, lanes), lanes)

    return _exported(kind, "int32", kernel)


def _exported(kind: str, dtype: str, write: Callable[[compat.Emitter, list[Any]], None]) -> tuple[Any, Any, Any]:
    function = compat.private_function(
        [("x", dtype), ("out", dtype), ("counts", "int32")], lambda e, *pointers: write(e, list(pointers))
    )
    variable = compat.global_var(f"kernel_{kind}")

    def call(e: compat.Emitter, *buffers: Any) -> None:
        compat.call_private(variable, function, [buffer.data for buffer in buffers])

    size = np.dtype(dtype).itemsize
    shapes = [("x", (LARGEST // size,), dtype), ("out", (1 << 16,), dtype), ("counts", (3,), "int32")]
    return variable, function, compat.main_function(f"micro_{kind}", shapes, (), call)


def build(spec: TargetSpec, output: Path) -> None:
    """Compile the probes into a shared library.

    Raises:
        LinkError: No linker for the target.
    """
    import tvm

    made = [_compute(kind, dtype, make, spec.vector_bytes) for kind, (dtype, _, make) in _operations(spec).items()]
    functions: dict[Any, Any] = {}
    reads = [_read("read", spec.vector_bytes, 0), _read("across", spec.vector_bytes, 1)]
    for variable, kernel, caller in [*made, *reads]:
        functions |= {variable: kernel, compat.global_var(str(caller.attrs["global_symbol"])): caller}
    module = tvm.tirx.build(tvm.IRModule(functions), target=compat.make_target(spec.tvm))
    linking.export_library(module, output, spec.triple)


def _best(function: Any, arguments: list[Any], counts: Any, seconds: float) -> float:
    """Seconds of a round in the best of several tries: others only ever take time away."""
    best, finish = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < finish or best == float("inf"):
        start = time.perf_counter()
        function(*arguments)
        took = time.perf_counter() - start
        if took < 2e-3:
            counts[0] *= 2
            continue
        best = min(best, took / int(counts[0]))
    return best


def measure(library: Path, spec: TargetSpec, threads: int, seconds: float) -> dict[str, float]:
    """Rates of every kind: element operations (a dot product's four count four), and bytes for ``read_...``."""
    import tvm

    from tvm_schedules.backends.cpu.libraries import load_library
    from tvm_schedules.backends.cpu.threads import setter
    from tvm_schedules.runtime.buffers import aligned

    loaded, width = load_library(library), spec.vector_bytes
    setter(loaded)(threads)
    x, out, counts = aligned(LARGEST, 1), aligned(1 << 18), aligned(12).view(np.int32)

    def rate(function: str, dtype: str, amount: float, vectors: int = 0) -> float:
        counts[:] = 1, threads, vectors
        arrays = [x.view(dtype), out[: (1 << 16) * np.dtype(dtype).itemsize].view(dtype), counts]
        arguments = [tvm.runtime.from_dlpack(array) for array in arrays]
        return amount / _best(loaded[function], arguments, counts, seconds) / 1e9

    result = {}
    for kind, (dtype, each, _) in _operations(spec).items():
        lanes = width // np.dtype(dtype).itemsize
        result[kind] = rate(f"micro_{kind}", dtype, each * lanes * ACCUMULATORS * ROUND * threads)
    for kind, total in (READS | {ACROSS: READS["read_l1"]}).items():
        vectors = total // threads // width // 8 * 8
        function = "micro_across" if kind == ACROSS else "micro_read"
        result[kind] = rate(function, "int32", vectors * width * threads, vectors)
    return result


def measure_apart(library: Path, cpus: Sequence[int], seconds: float = 0.2) -> dict[str, float]:
    """Measure in a process of its own, on these CPUs, a thread each.

    Raises:
        BenchError: The library cannot be loaded, or its process ends.
    """
    config = json.dumps({"library": str(library), "cpus": list(cpus), "seconds": seconds, "parent": os.getpid()})
    done = subprocess.run([sys.executable, "-m", __name__, config], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"measuring the machine's ceilings failed: {' '.join(done.stderr.split()[-30:])}")
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure what the first argument says."""
    from tvm_schedules.engines.worker import end_with
    from tvm_schedules.targets.registry import resolve

    config = json.loads(sys.argv[1])
    end_with(config["parent"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, config["cpus"])
    print(json.dumps(measure(Path(config["library"]), resolve("host"), len(config["cpus"]), config["seconds"])))


if __name__ == "__main__":
    main()
