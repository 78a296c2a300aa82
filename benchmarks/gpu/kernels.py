"""Packed 2-bit products of a matrix and one or a few vectors: against numpy, and how fast they read their weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.backends.gpu.backend import open_device
from tvm_schedules.backends.gpu.compile import generate
from tvm_schedules.backends.gpu.kernels import linear_dot
from tvm_schedules.backends.gpu.nvrtc import fatbin
from tvm_schedules.compat.gpu import Argument, GpuEmitter, Kernel
from tvm_schedules.ir.plan import KernelInfo
from tvm_schedules.packing import gpu_linear_dot
from tvm_schedules.targets.registry import TargetSpec

Array = npt.NDArray[Any]
SLACK = 4096  # bytes that a kernel may read past its activations
COLD_BYTES = 512 << 20
"""Weights that are read in turns, so that no cache holds them: several times the largest second-level cache."""


@dataclass
class Program:
    """Kernels on a device."""

    device: Any
    entries: tuple[KernelInfo, ...]

    def launch_of(self, index: int, buffers: list[Any]) -> tuple[Any, tuple[int, int, int], int, list[Any]]:
        """A launch of a kernel with buffers in the order of its declared arguments."""
        entry = self.entries[index]
        return self.device.kernel(entry.name), entry.grid, entry.threads, [buffers[i] for i in entry.order]

    def put(self, array: Array, slack: int = 0) -> Any:
        """The array in the device's memory."""
        buffer = self.device.alloc(array.nbytes + slack)
        self.device.upload(buffer, np.ascontiguousarray(array))
        return buffer


def program(kernels: dict[str, Kernel], target: TargetSpec) -> Program:
    """Compiles kernels and loads them on this machine's device.

    Raises:
        DeviceError: There is none.
    """
    source, entries = generate(kernels, target)
    device = open_device(target.tvm["kind"], lambda: source, lambda: fatbin(source, target.tvm["sm"]))
    return Program(device, entries)


def spec_of(batch: int, inputs: int, outputs: int, target: TargetSpec) -> linear_dot.Spec:
    """The kernel that a network would get for a ternary layer."""
    lanes, vector, tile = linear_dot.arrange(inputs, outputs, True)
    shuffle = linear_dot.has_shuffles(target)
    return linear_dot.Spec(batch, inputs, outputs, True, lanes, vector, tile, 128 // lanes, shuffle, "float32")


def variants(spec: linear_dot.Spec) -> Iterator[linear_dot.Spec]:
    """The kernel with other numbers of rows a thread and threads a group; the first is the one that networks get."""
    yield spec
    for tile in (1, 2, 4):
        for groups in (2, 4, 8):
            if (tile, groups) != (spec.tile, spec.groups):
                yield replace(spec, tile=tile, groups=groups)


@dataclass
class Layer:
    """A random ternary layer with its exact results.

    Attributes:
        codes: int8 ``[outputs, inputs]``.
        x: uint8 ``[batch, inputs]``.
        scale: float32 ``[outputs]``.
        bias: float32 ``[outputs]``.
        want: float32 ``[batch, outputs]``: integer sums by numpy, then scaled.
    """

    codes: Array
    x: Array
    scale: Array
    bias: Array
    want: Array


def layer(batch: int, inputs: int, outputs: int, seed: int = 0) -> Layer:
    """Makes a layer; up to 65793 inputs float32 holds all sums that occur, so that numpy's are exact."""
    if inputs * 255 >= 1 << 24:
        raise ValueError(f"inputs must be below 65794, got {inputs}")
    random = np.random.default_rng(seed)
    codes = random.integers(-1, 2, (outputs, inputs), np.int8)
    x = random.integers(0, 256, (batch, inputs)).astype(np.uint8)
    scale, bias = random.uniform(0.5, 2, outputs).astype(np.float32), random.normal(size=outputs).astype(np.float32)
    sums = x.astype(np.float32) @ codes.astype(np.float32).T
    return Layer(codes, x, scale, bias, sums * scale + bias)


def _buffers(made: Program, spec: linear_dot.Spec, data: Layer, words: Any) -> list[Any]:
    params = np.array([0.0, -3e38, 3e38, 0.0], np.float32)
    shared = [made.put(array) for array in (data.scale, data.bias, params)]
    out = made.device.alloc(4 * spec.batch * spec.outputs)
    return [made.put(data.x, SLACK), words, *shared, out]


def _words(spec: linear_dot.Spec, data: Layer) -> Array:
    return gpu_linear_dot.pack(data.codes, True, spec.lanes, spec.vector, spec.rows)


def verify(spec: linear_dot.Spec, data: Layer, target: TargetSpec) -> float:
    """Largest difference from numpy, relative to the largest result."""
    made = program({"product": linear_dot.emit(spec)}, target)
    buffers = _buffers(made, spec, data, made.put(_words(spec, data)))
    made.device.launch(*made.launch_of(0, buffers))
    have = np.empty((spec.batch, spec.outputs), np.float32)
    made.device.download(buffers[-1], have)
    return float(np.abs(have - data.want).max() / np.abs(data.want).max())


def seconds(device: Any, launches: list[Any], least: float = 0.05) -> float:
    """Mean time of a launch, the launches one after another in one graph where the device has such."""
    start = device.record(launches)

    def run(count: int) -> float:
        device.finish()
        began = time.perf_counter()
        for _ in range(count):
            start()
        device.finish()
        return time.perf_counter() - began

    run(2)
    count = max(1, round(least / max(run(1), 1e-7)))
    return min(run(count) for _ in range(5)) / (count * len(launches))


def measure(specs: list[linear_dot.Spec], data: Layer, target: TargetSpec, cold: bool) -> list[float]:
    """Seconds of every variant; ``cold`` reads other weights at every launch, so that they come from memory."""
    made = program({f"product_{i}": linear_dot.emit(spec) for i, spec in enumerate(specs)}, target)
    found = []
    copies: dict[Any, list[Any]] = {}
    for index, spec in enumerate(specs):
        key = (spec.lanes, spec.vector, spec.rows)
        if key not in copies:
            words = _words(spec, data)
            number = max(2, -(-COLD_BYTES // words.nbytes)) if cold else 1
            for buffer in (b for buffers in copies.values() for b in buffers):
                made.device.free(buffer)
            copies = {key: [made.put(words) for _ in range(number)]}
        buffers = _buffers(made, spec, data, None)
        launches = [made.launch_of(index, [buffers[0], words, *buffers[2:]]) for words in copies[key]]
        found.append(seconds(made.device, launches * max(1, 64 // len(launches))))
    return found


def bandwidth(target: TargetSpec, nbytes: int = 2 << 30) -> float:
    """Bytes a second that a kernel reads which does nothing else: 16 bytes a thread and step, neighbors together."""
    threads, groups, steps = 256, 8192, max(1, nbytes // (16 * 256 * 8192))
    total = threads * groups * steps * 4

    def body(e: GpuEmitter, group: Any, t: Any, x: Any, out: Any) -> None:
        acc, four = e.local(1, "uint32"), e.local(4, "uint32")
        e.store(acc, 0, e.const(0, "uint32"))
        with e.loop(steps) as s:
            e.store(four, 0, e.load(x, ((s * groups + group[0]) * threads + t) * 4, 4), 4)
            for i in range(4):
                e.store(acc, 0, e.load(acc, 0) | e.load(four, i))
        with e.when(e.load(acc, 0) != e.const(0, "uint32")):  # never: what is read is zero
            e.store(out, 0, e.load(acc, 0))

    arguments = [Argument("x", "uint32", total), Argument("out", "uint32", 1)]
    made = program({"read": Kernel(arguments, (groups, 1, 1), threads, body)}, target)
    launch = made.launch_of(0, [made.device.alloc(4 * total), made.device.alloc(4)])
    return 4 * total / seconds(made.device, [launch])
