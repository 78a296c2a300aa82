"""Float convolution and transposed convolution of one to three spatial axes.

Enough output channels: they are the vector lanes, a register tile is pixels by channels, weights come in panels
packed at compile time. Few (depthwise, narrow groups): pixels of a row are the lanes. Padding is written once, into
scratch.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.matmul import PARALLEL_PRODUCTS, tile_rows
from tvm_schedules.backends.cpu.schedules.writer import accumulators, evenly, lanes_of, scratch, template
from tvm_schedules.fallback.conv_geometry import Geometry
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged convolution; None for other functions."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "conv":
        return None
    geometry = Geometry.from_json(tag)
    width = tag["width"]
    make = _Channels if width > 1 else _Pixels
    return template(function, make(geometry, width, target).write)


class _Convolution:
    """Padding and addresses that both forms share."""

    def __init__(self, geometry: Geometry, width: int, target: TargetSpec) -> None:
        self.g, self.width, self.target = geometry, width, target
        self.lanes = lanes_of(target)
        self.panels = -(-geometry.outputs // width)
        self.taps = math.prod(geometry.kernel)
        self.work = (
            geometry.batch * geometry.groups * geometry.outputs * geometry.inputs * self.taps * math.prod(geometry.grid)
        )
        self.total_phases = math.prod(geometry.phases)
        self.ordinary = self.total_phases == 1 and geometry.shift == (0, 0, 0)

    def padded_input(self, e: Any, x: Any) -> Any:
        """The input with its padding; the input itself where there is none."""
        g = self.g
        if g.padded == g.size and g.begin == (0, 0, 0):
            return x
        depth, height, width = g.padded
        channels = g.batch * g.groups * g.inputs
        buffer = e.b.alloc_buffer((channels * depth * height * width,), "float32")
        rows = channels * depth * height
        # Input columns that are read: the rest of a row is zero.
        first, count = g.begin[2], max(0, min(g.size[2], width - g.begin[2]))
        with e.loop(rows, parallel=rows * width >= PARALLEL_ELEMENTS and rows > 1) as row:
            z = row // height % depth - g.begin[0]
            y = row % height - g.begin[1]
            base, source = row * width, ((row // (height * depth) * g.size[0] + z) * g.size[1] + y) * g.size[2]
            zero = e.const(0.0, "float32")
            inside = e.t.all(z >= 0, z < g.size[0], y >= 0, y < g.size[1])
            with e.b.If(inside):
                with e.b.Then():
                    for start, stop in ((0, first), (first + count, width)):
                        if stop > start:
                            with e.loop(stop - start) as i:
                                e.store(buffer, base + start + i, zero)
                    if count:
                        with e.loop(count) as i:
                            e.store(buffer, base + first + i, e.load(x, source + i))
                with e.b.Else(), e.loop(width) as i:
                    e.store(buffer, base + i, zero)
        return buffer

    def each_tap(self, e: Any, write: Any) -> None:
        """Calls ``write(offset in the padded input, number of the tap)`` inside of loops over the taps.

        They stay loops around the one over channels: neighboring taps share pixels, and LLVM would keep those in
        registers at the cost of spilling accumulators.
        """
        _, height, width = self.g.padded
        _, kh, kw = self.g.kernel
        dz, dy, dx = self.g.dilation
        with e.loop(math.prod(self.g.kernel[:2])) as row, e.loop(kw) as column:
            write((row // kh * (dz * height) + row % kh * dy) * width + column * dx, row * kw + column)

    def store(
        self, e: Any, out: Any, image: Any, channel: Any, at: tuple[Any, Any, Any], count: int, value: Any
    ) -> None:
        """Writes ``value(i)``, i < count, to grid pixels from ``at`` on; ``channel`` counts over all groups."""
        g = self.g
        _, height, width = g.out
        if self.ordinary:
            base = ((image * (g.groups * g.outputs) + channel) * g.out[0] + at[0]) * height + at[1]
            with e.loop(count) as i:
                e.store(out, base * width + at[2] + i, value(i))
            return
        pd, ph, pw = g.phases
        phase, real = channel % self.total_phases, channel // self.total_phases
        z = at[0] * pd + phase // (ph * pw) + g.shift[0]
        y = at[1] * ph + phase // pw % ph + g.shift[1]
        start = phase % pw + g.shift[2]
        base = ((image * (g.groups * g.outputs // self.total_phases) + real) * g.out[0] + z) * height + y
        with e.when(e.t.all(z >= 0, z < g.out[0], y >= 0, y < height)), e.loop(count) as i:
            x = (at[2] + i) * pw + start
            with e.when(e.t.all(x >= 0, x < width)):
                e.store(out, base * width + x, value(i))


class _Channels(_Convolution):
    """Output channels as lanes."""

    def write(self, e: Any, x: Any, w: Any, out: Any) -> None:
        """The function's body."""
        g, lanes = self.g, self.lanes
        vectors = self.width // lanes
        most = tile_rows(self.target, vectors)
        columns, tile_x = evenly(g.grid[2], most)
        rows, tile_y = evenly(g.grid[1], max(1, most // tile_x))
        data = self.padded_input(e, x)
        depth, height, width = g.padded
        plane = depth * height * width
        tasks = g.batch * g.groups * self.panels * g.grid[0] * rows * columns
        with e.loop(tasks, parallel=self.work >= PARALLEL_PRODUCTS and tasks > 1) as task:
            column = e.min(task % columns * tile_x, e.integer(g.grid[2] - tile_x))
            rest = task // columns
            row = e.min(rest % rows * tile_y, e.integer(g.grid[1] - tile_y))
            rest = rest // rows
            layer, rest = rest % g.grid[0], rest // g.grid[0]
            panel, rest = rest % self.panels, rest // self.panels
            group, image = rest % g.groups, rest // g.groups
            base = (image * g.groups + group) * (g.inputs * plane) + (
                (layer * g.strides[0] * height + row * g.strides[1]) * width + column * g.strides[2]
            )
            weights = (group * self.panels + panel) * (g.inputs * self.taps * self.width)
            pixels = list(itertools.product(range(tile_y), range(tile_x)))
            acc = accumulators(e, len(pixels), vectors, lanes)

            def step(offset: Any, tap: Any) -> None:
                with e.loop(g.inputs) as channel:
                    at_w = weights + (tap * g.inputs + channel) * self.width
                    right = [e.load(w, at_w + v * lanes, lanes) for v in range(vectors)]
                    for (py, px), cells in zip(pixels, acc, strict=True):
                        at_x = base + channel * plane + offset + (py * g.strides[1] * width + px * g.strides[2])
                        left = e.splat(e.load(data, at_x), lanes)
                        for v in range(vectors):
                            cell = e.integer(v * lanes)
                            e.store(cells, cell, e.fma(left, right[v], e.load(cells, cell, lanes)), lanes)

            self.each_tap(e, step)
            tile = scratch(e, len(pixels) * self.width)
            for p, cells in enumerate(acc):
                for v in range(vectors):
                    e.store(
                        tile, e.integer(p * self.width + v * lanes), e.load(cells, e.integer(v * lanes), lanes), lanes
                    )
            last = g.outputs - (self.panels - 1) * self.width
            count = e.integer(self.width)
            if last != self.width:
                count = e.select(panel == self.panels - 1, e.integer(last), count)
            with e.loop(count) as j:
                channel = group * g.outputs + panel * self.width + j
                for py in range(tile_y):
                    self.store(
                        e,
                        out,
                        image,
                        channel,
                        (layer, row + py, column),
                        tile_x,
                        lambda i, py=py, j=j: e.load(tile, (i + py * tile_x) * self.width + j),
                    )


class _Pixels(_Convolution):
    """Pixels of a row as lanes."""

    def write(self, e: Any, x: Any, w: Any, out: Any) -> None:
        """The function's body."""
        g = self.g
        lanes = min(self.lanes, 1 << (g.grid[2].bit_length() - 1))
        vectors, _ = evenly(g.grid[2], lanes)
        blocks, across = evenly(vectors, 4)
        span = min(across * lanes, g.grid[2])
        across = -(-span // lanes)
        # A run of whole vectors, moved back at the end of the row.
        span = across * lanes
        if span > g.grid[2]:
            across, span = across - 1, (across - 1) * lanes
            blocks = -(-g.grid[2] // span)
        tile_y = max(1, min(g.grid[1], 8 // across))
        rows = -(-g.grid[1] // tile_y)
        data = self.padded_input(e, x)
        depth, height, width = g.padded
        plane = depth * height * width
        tasks = g.batch * g.groups * g.outputs * g.grid[0]
        with e.loop(tasks, parallel=self.work >= PARALLEL_PRODUCTS and tasks > 1) as task:
            layer, rest = task % g.grid[0], task // g.grid[0]
            output, rest = rest % g.outputs, rest // g.outputs
            group, image = rest % g.groups, rest // g.groups
            weights = (group * g.outputs + output) * (g.inputs * self.taps)
            source = (image * g.groups + group) * (g.inputs * plane) + layer * (g.strides[0] * height * width)
            with e.loop(rows * blocks) as block:
                row = e.min(block // blocks * tile_y, e.integer(g.grid[1] - tile_y))
                column = e.min(block % blocks * span, e.integer(g.grid[2] - span))
                base = source + row * (g.strides[1] * width) + column * g.strides[2]
                acc = accumulators(e, tile_y, across, lanes)

                def step(offset: Any, tap: Any) -> None:
                    with e.loop(g.inputs) as channel:
                        left = e.splat(e.load(w, weights + tap * g.inputs + channel), lanes)
                        for py, cells in enumerate(acc):
                            for v in range(across):
                                at = (
                                    base
                                    + channel * plane
                                    + offset
                                    + (py * g.strides[1] * width + v * lanes * g.strides[2])
                                )
                                right = e.load(data, at, lanes, g.strides[2])
                                cell = e.integer(v * lanes)
                                e.store(cells, cell, e.fma(left, right, e.load(cells, cell, lanes)), lanes)

                self.each_tap(e, step)
                for py, cells in enumerate(acc):
                    if self.ordinary:
                        start = (
                            (image * (g.groups * g.outputs) + group * g.outputs + output) * g.out[0] + layer
                        ) * g.out[1]
                        for v in range(across):
                            at = (start + row + py) * g.out[2] + column + v * lanes
                            e.store(out, at, e.load(cells, e.integer(v * lanes), lanes), lanes)
                    else:
                        self.store(
                            e,
                            out,
                            image,
                            group * g.outputs + output,
                            (layer, row + py, column),
                            span,
                            lambda i, cells=cells: e.load(cells, i),
                        )
