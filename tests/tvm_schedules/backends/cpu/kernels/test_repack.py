"""Rows become planes and planes rows, in squares that are turned in registers: against numpy, memory guarded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.guarded import Guarded
from tvm_schedules import compat
from tvm_schedules.backends.cpu.kernels import repack
from tvm_schedules.ir.layout import Halo
from tvm_schedules.lowering.rules.repack import Strided
from tvm_schedules.targets.registry import resolve

PARAMS = np.array([0.25, 7.0, 0.0, 255.0], np.float32)


def run(spec: repack.Spec, source: np.ndarray) -> np.ndarray:
    """What the compiled copy writes over noise."""
    function, name = repack.emit(spec), compat.global_var("copy")
    noise = np.random.default_rng(1).integers(0, 100, spec.target.elements).astype(spec.target.dtype)
    arrays = [source, PARAMS, noise]

    def body(e: Any, *arguments: Any) -> None:
        compat.call_private(name, function, [compat.pointer(argument) for argument in arguments], "serial")

    buffers = [(f"b{i}", array.shape, str(array.dtype)) for i, array in enumerate(arrays)]
    main = compat.main_function("main", buffers, [], body)
    module = compat.build_module({"copy": (name, function)}, main, resolve("host").tvm)
    memory = [Guarded(array) for array in arrays]
    module["main"](*(part.tensor() for part in memory))
    np.testing.assert_array_equal(memory[0].array, source)
    return np.array(memory[2].array)


def converted(x: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers in another type, as QuantizeLinear and DequantizeLinear make them."""
    if x.dtype == dtype:
        return x
    if dtype == "float32":
        return (x.astype(np.float32) - PARAMS[1]) * PARAMS[0]
    with np.errstate(over="ignore"):
        return np.clip(np.rint(x / PARAMS[0]) + PARAMS[1], 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("rows", "channels", "source", "target", "vector"),
    [
        (37, 50, "float32", "uint8", 16),
        (37, 50, "float32", "uint8", 32),
        (37, 50, "float32", "uint8", 64),
        (21, 17, "uint8", "float32", 64),
        (16, 83, "uint8", "uint8", 64),
        (21, 15, "uint8", "uint8", 64),
        (64, 33, "float32", "float32", 64),
    ],
)
def test_rows_and_planes(rows: int, channels: int, source: str, target: str, vector: int) -> None:
    rng = np.random.default_rng(rows * channels)
    x = rng.integers(0, 256, (rows, channels)).astype(np.uint8) if source == "uint8" else None
    x = rng.normal(size=(rows, channels)).astype(np.float32) * 40 if x is None else x
    y = converted(x, target)

    def plain(dtype: str) -> Strided:
        return Strided(1, channels, (1, 1, rows), dtype, (0, 1, 0, 0, channels), rows * channels)

    def planes(dtype: str) -> Halo:
        return Halo(1, channels, (1, 1, rows), dtype, (1, rows + 3), (0, 0, 1), (0, 0, 2), fill=9.0)

    def packed(layout: Halo, values: np.ndarray) -> np.ndarray:
        return layout.pack(values.T.reshape(1, channels, 1, 1, rows))

    def real(layout: Halo, flat: np.ndarray) -> np.ndarray:
        """Pixels and halo, without what lies between planes."""
        begin = layout.origin - layout.front
        return flat.reshape(channels, layout.plane)[:, begin : layout.origin + layout.end]

    wide, made = planes(source), planes(target)
    there = run(repack.Spec(plain(source), made, vector, True, True), x.ravel())
    np.testing.assert_array_equal(real(made, there), real(made, packed(made, y)))
    back = run(repack.Spec(wide, plain(target), vector, False, False), packed(wide, x))
    np.testing.assert_array_equal(back.reshape(rows, channels), y)


EDGES = [3.4e38, -3.4e38, np.inf, -np.inf, 0.125, 0.375, -0.125, 62.0, 62.125, 61.875, -1.75, -1.875, -0.0, 1e-40]
"""Ends of float32, ties that are rounded to even, and the ends of the 8 bits and what is next to them."""


@pytest.mark.parametrize(("rows", "columns"), [(5, 131), (5, 64), (5, 40), (5, 21), (5, 5), (40, 7), (41, 12)])
@pytest.mark.parametrize("phases", [(1, 1, 1), (1, 2, 2), (1, 1, 2), (1, 3, 1)])
@pytest.mark.parametrize("arch", ["", resolve("host").architecture])
def test_images_become_bytes_in_planes(rows: int, columns: int, phases: tuple[int, int, int], arch: str) -> None:
    host, channels = resolve("host"), 3
    random = np.random.default_rng(columns)
    x = (random.normal(size=(channels, rows, columns)) * 40).astype(np.float32)
    places = random.permutation(x.size)[: 2 * len(EDGES)]
    x.flat[places] = np.resize(np.array(EDGES, np.float32), places.size)
    strides = (0, rows * columns, 0, columns, 1)
    source = Strided(1, channels, (1, rows, columns), "float32", strides, x.size)
    made = Halo(
        1, channels, (1, rows, columns), "uint8", (rows + 3, columns + 2), (0, 1, 1), (0, 1, 1), phases, fill=9.0
    )
    there = run(repack.Spec(source, made, host.vector_bytes, False, "fma" in host.features, arch), x.ravel())
    expected = made.pack(converted(x, "uint8").reshape(1, channels, 1, rows, columns))
    begin, length = made.origin - made.front, made.front + made.end
    planes = (channels * made.phases, made.plane)
    np.testing.assert_array_equal(
        there.reshape(planes)[:, begin : begin + length], expected.reshape(planes)[:, begin : begin + length]
    )
