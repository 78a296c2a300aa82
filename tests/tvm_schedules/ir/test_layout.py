"""Geometry of windows and planes, against loops over the taps."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tvm_schedules.ir.layout import ALIGN, Halo, Plain, Window, spatial3

small = st.integers(0, 2)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    kernel, strides, dilations = (tuple(draw(st.integers(1, 3)) for _ in range(3)) for _ in range(3))
    pads = tuple((draw(small), draw(small)) for _ in range(3))
    return Window(kernel, strides, pads, dilations)  # type: ignore[arg-type]


@given(windows(), st.tuples(*[st.integers(1, 7)] * 3))
def test_every_read_is_inside_of_the_halo(window: Window, dims: tuple[int, int, int]) -> None:
    sizes = []
    for axis in range(3):
        reach = (window.kernel[axis] - 1) * window.dilations[axis]
        ends = dims[axis] + sum(window.pads[axis]) - reach
        sizes.append(len(range(0, ends, window.strides[axis])))
    assume(min(sizes) > 0)
    assert window.output(dims) == tuple(sizes)
    lo, hi = window.halo(dims)
    taps = window.taps()
    for axis in range(3):
        step = window.strides[axis]
        grid = -(-dims[axis] // step)
        reads = set()
        for index, (phase, shift) in zip(product(*map(range, window.kernel)), taps, strict=True):
            at = index[axis] * window.dilations[axis] - window.pads[axis][0]
            assert shift[axis] * step + phase[axis] == at
            assert 0 <= phase[axis] < step
            reads |= {shift[axis] + out for out in range(sizes[axis])}
        assert lo[axis] == max(0, -min(reads))
        assert hi[axis] == max(0, max(reads) + 1 - grid)


@given(
    st.tuples(*[st.integers(1, 5)] * 3), st.tuples(small, small, small), st.tuples(small, small, small),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 2)), st.sampled_from(["uint8", "float32"]),
)  # fmt: skip
def test_planes(dims: tuple, lo: tuple, hi: tuple, phase: tuple, dtype: str) -> None:
    grid = tuple(-(-n // s) for n, s in zip(dims, phase, strict=True))
    pitch = (grid[1] + max(lo[1], hi[1]), grid[2] + max(lo[2], hi[2]))
    halo = Halo(2, 3, dims, dtype, pitch, lo, hi, phase, 7.0)
    assert halo.grid == grid
    assert halo.itemsize == {"uint8": 1, "float32": 4}[dtype]
    assert halo.steps() == (pitch[0] * pitch[1], pitch[1], 1)
    assert halo.phases == phase[0] * phase[1] * phase[2]

    def place(d: int, h: int, w: int) -> int:
        return (d * pitch[0] + h) * pitch[1] + w

    assert halo.front == -place(-lo[0], -lo[1], -lo[2])
    last = [n - 1 + more for n, more in zip(grid, hi, strict=True)]
    assert halo.end == place(*last) + 1
    assert halo.run(grid) == place(*(n - 1 for n in grid)) + 1
    assert halo.front <= halo.origin < halo.front + ALIGN // halo.itemsize
    assert halo.origin * halo.itemsize % 64 == 0
    assert halo.plane * halo.itemsize % 64 == 0
    assert halo.end <= halo.plane - halo.origin < halo.end + 64
    assert halo.elements == 2 * 3 * halo.phases * halo.plane
    assert halo.nbytes == halo.elements * halo.itemsize

    image = np.random.default_rng(1).integers(0, 256, (2, 3, *dims)).astype(dtype)
    flat = halo.pack(image)
    assert flat.size == halo.elements
    np.testing.assert_array_equal(halo.unpack(flat), image)
    seen = np.zeros(flat.size, bool)
    for n, c, d, h, w in np.ndindex(*image.shape):
        shift, inner = zip(*(divmod(at, step) for at, step in zip((d, h, w), phase, strict=True)), strict=True)
        index = n * 3 * halo.phases * halo.plane + halo.offset(c, inner, shift)
        assert flat[index] == image[n, c, d, h, w]
        assert not seen[index]
        seen[index] = True
    assert (flat[~seen] == 7).all()


@pytest.mark.parametrize("out", [(1, 1, 1), (2, 3, 4), (2, 2, 6), (1, 3, 5)])
def test_masks_are_of_pixels_alone(out: tuple[int, int, int]) -> None:
    halo = Halo(1, 1, (2, 3, 4), "uint8", (4, 6))
    inside = {(d * 4 + h) * 6 + w for d, h, w in np.ndindex(*out)}
    assert halo.mask(out, 70).tolist() == [255 if p in inside else 0 for p in range(70)]
    assert halo.mask(out, 3).tolist() == [255 if p in inside else 0 for p in range(3)]


def test_plain_tensors_and_short_windows() -> None:
    assert (Plain((2, 3), "float32").elements, Plain((2, 3), "float32").nbytes) == (6, 24)
    assert (Plain((), "int64").elements, Plain((), "int64").nbytes) == (1, 8)
    assert (Plain((0, 3), "uint8").elements, Plain((0, 3), "uint8").nbytes) == (1, 1)
    assert [spatial3(values, 9) for values in ((), (1,), (1, 2), (1, 2, 3))] == [
        (9, 9, 9),
        (9, 9, 1),
        (9, 1, 2),
        (1, 2, 3),
    ]
    assert Window((1, 3, 3)) == Window((1, 3, 3), (1, 1, 1), ((0, 0), (0, 0), (0, 0)), (1, 1, 1), 1)
    halo = Halo(1, 2, (1, 4, 5), "uint8", (4, 5))
    assert halo == Halo(1, 2, (1, 4, 5), "uint8", (4, 5), (0, 0, 0), (0, 0, 0), (1, 1, 1), 0.0)
