"""What this machine can do at best: additions whose operand comes from the L1 cache, the unit of sparse ternary work.

The probe is a small library that is built with every artifact for its target, so that a board without a compiler
measures its own ceiling with the same vector width and instructions as the network.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules import compat
from tvm_schedules.backends import toolchain as linking
from tvm_schedules.targets.registry import TargetSpec

BLOCK = 8192  # bytes that every task sums again and again: a quarter of the smallest common L1 cache
ACCUMULATORS = 8  # enough to hide the latency of an addition
MAX_TASKS = 256
KINDS = {"u8": "uint8", "f32": "float32"}


def _probe(kind: str, dtype: str, vector_bytes: int) -> tuple[Any, Any, Any]:
    """The kernel and its exported caller ``(x [BLOCK], out, rounds, tasks)``: all tasks add up half a block.

    Returns:
        Global variable and function of the private kernel, and the exported function.
    """
    import tvm

    size = np.dtype(dtype).itemsize
    lanes, block = vector_bytes // size, BLOCK // size
    vector = f"{dtype}x{lanes}"
    output = MAX_TASKS * ACCUMULATORS * lanes

    def kernel(e: compat.Emitter, x_pointer: Any, out_pointer: Any, counts_pointer: Any) -> None:
        x, out = e.view(x_pointer, block, dtype), e.view(out_pointer, output, dtype)
        counts = e.view(counts_pointer, 2, "int32")
        with e.loop(counts[1], parallel=True) as task:
            sums = e.local(ACCUMULATORS, vector)
            for k in range(ACCUMULATORS):
                e.store(sums, k * lanes, e.const(0, vector), lanes)
            with e.loop(counts[0]) as r:
                # Another start every round: a sum over the same values could be taken out of the loop.
                start = (r % 2) * (ACCUMULATORS * lanes)
                with e.loop(block // 2 // (ACCUMULATORS * lanes)) as j:
                    for k in range(ACCUMULATORS):
                        at = start + (j * ACCUMULATORS + k) * lanes
                        total = e.load(sums, k * lanes, lanes) + e.load(x, at, lanes)
                        e.store(sums, k * lanes, total, lanes)
            for k in range(ACCUMULATORS):
                e.store(out, (task * ACCUMULATORS + k) * lanes, e.load(sums, k * lanes, lanes), lanes)

    function = compat.private_function([("x", dtype), ("out", dtype), ("counts", "int32")], kernel)
    variable = tvm.ir.GlobalVar(f"kernel_{kind}")

    def call(e: compat.Emitter, x: Any, out: Any, counts: Any) -> None:
        compat.call_private(variable, function, [x.data, out.data, counts.data])

    shapes = [("x", (block,), dtype), ("out", (output,), dtype), ("counts", (2,), "int32")]
    return variable, function, compat.main_function(f"probe_{kind}", shapes, (), call)


def build_probe(spec: TargetSpec, output: Path) -> None:
    """Compile the probe for a target into a shared library.

    Raises:
        LinkError: No linker for the target.
    """
    import tvm

    functions: dict[Any, Any] = {}
    for kind, dtype in KINDS.items():
        variable, kernel, caller = _probe(kind, dtype, spec.vector_bytes)
        functions |= {variable: kernel, tvm.ir.GlobalVar(f"probe_{kind}"): caller}
    module = tvm.tirx.build(tvm.IRModule(functions), target=compat.make_target(spec.tvm))
    linking.export_library(module, output, spec.triple)


def measure(probe: Path, vector_bytes: int, threads: int = 1, seconds: float = 0.2) -> dict[str, float]:
    """Measure the ceilings of this machine.

    Args:
        probe: The library of :func:`build_probe`.
        vector_bytes: The target's vector width.
        threads: Number of threads that add at the same time.
        seconds: Time to spend on each kind; the best of several tries counts, for others only ever take time away.

    Returns:
        1e9 additions a second for ``u8`` and ``f32``, all threads together.
    """
    import tvm

    from tvm_schedules.backends.cpu.libraries import load_library
    from tvm_schedules.backends.cpu.threads import setter
    from tvm_schedules.runtime.buffers import aligned

    library = load_library(probe)
    setter(library)(threads)
    result = {}
    for kind, dtype in KINDS.items():
        x = tvm.runtime.from_dlpack(aligned(BLOCK, 1).view(dtype))
        out = tvm.runtime.from_dlpack(aligned(MAX_TASKS * ACCUMULATORS * vector_bytes).view(dtype))
        function = library[f"probe_{kind}"]
        counts = aligned(8).view(np.int32)
        counts[:] = 1000, threads
        counts_tensor, best = tvm.runtime.from_dlpack(counts), float("inf")
        finish = time.perf_counter() + seconds
        adds = BLOCK // 2 // np.dtype(dtype).itemsize
        while best == float("inf") or time.perf_counter() < finish:
            start = time.perf_counter()
            function(x, out, counts_tensor)
            took = time.perf_counter() - start
            if took < 2e-3:
                counts[0] *= 2
                continue
            best = min(best, took / int(counts[0]))
        result[kind] = adds * threads / best / 1e9
    return result
