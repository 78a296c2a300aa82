"""Maximum and average pooling of one to three spatial axes.

A window's rows are combined first, along contiguous input rows, into one padded row; then columns of that row. So
every input element is read once per window row, whatever the window's width, and only the short second pass is
strided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm_schedules import compat
from tvm_schedules.backends.cpu.schedules.injective import PARALLEL_ELEMENTS
from tvm_schedules.backends.cpu.schedules.writer import scratch, template
from tvm_schedules.fallback.tags import tag_of

if TYPE_CHECKING:
    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["apply"]

_LOWEST = -3.4028234663852886e38


def apply(function: Any, target: TargetSpec) -> Any:
    """Template of a tagged pooling; None for other functions, and for rows too long for the stack."""
    tag = tag_of(function)
    if tag is None or tag["kind"] != "pool":
        return None
    x, y = (compat.buffer_shape(buffer) for buffer in function.params)
    pooling = _Pooling(tag, x, y)
    return template(function, pooling.write) if pooling.row <= 16384 else None


def _three(values: list[int] | tuple[int, ...], fill: int) -> list[int]:
    return [fill] * (3 - len(values)) + list(values)


class _Pooling:
    def __init__(self, tag: dict[str, Any], x: tuple[int, ...], y: tuple[int, ...]) -> None:
        self.planes = x[0] * x[1]
        self.size, self.out = _three(x[2:], 1), _three(y[2:], 1)
        self.kernel, self.strides = _three(tag["kernel"], 1), _three(tag["strides"], 1)
        self.dilation, self.begin, self.end = _three(tag["dilation"], 1), _three(tag["begin"], 0), _three(tag["end"], 0)
        self.maximum, self.include_pad = tag["operation"] == "max", tag["include_pad"]
        needed = (self.out[2] - 1) * self.strides[2] + (self.kernel[2] - 1) * self.dilation[2] + 1
        self.row = max(needed, self.begin[2] + self.size[2])

    def counts(self, axis: int) -> list[int]:
        """How many taps of each window are averaged over: those in the input, or in the padded input."""
        low = -self.begin[axis] if self.include_pad else 0
        high = self.size[axis] + (self.end[axis] if self.include_pad else 0)
        starts = [o * self.strides[axis] - self.begin[axis] for o in range(self.out[axis])]
        taps = [[s + k * self.dilation[axis] for k in range(self.kernel[axis])] for s in starts]
        return [sum(low <= t < high for t in window) for window in taps]

    def combine(self, e: Any, a: Any, b: Any) -> Any:
        return e.max(a, b) if self.maximum else a + b

    def write(self, e: Any, x: Any, y: Any) -> None:
        """The function's body: planes in parallel."""
        identity = e.const(_LOWEST if self.maximum else 0.0, "float32")
        depth, height, width = self.size
        columns = self.counts(2)
        uniform = len(set(columns)) == 1
        work = self.planes * depth * height * width
        out_rows = self.out[0] * self.out[1]
        with e.loop(self.planes, parallel=self.planes > 1 and work >= PARALLEL_ELEMENTS) as plane:
            row, shares = scratch(e, self.row), scratch(e, self.out[2])
            if not self.maximum and not uniform:
                for i, count in enumerate(columns):
                    if i == 0 or count != columns[i - 1]:
                        run = next((j for j in range(i, len(columns)) if columns[j] != count), len(columns)) - i
                        with e.loop(run) as j:
                            e.store(shares, j + i, e.const(1.0 / max(1, count), "float32"))
            with e.loop(out_rows) as at:
                z, top = (
                    at // self.out[1] * self.strides[0] - self.begin[0],
                    at % self.out[1] * self.strides[1] - self.begin[1],
                )
                with e.loop(self.row) as i:
                    e.store(row, i, identity)
                taken = scratch(e, 1)
                e.store(taken, e.integer(0), e.const(0.0, "float32"))
                with e.loop(self.kernel[0]) as kz, e.loop(self.kernel[1]) as ky:
                    iz, iy = z + kz * self.dilation[0], top + ky * self.dilation[1]
                    if not self.maximum:
                        low = [-b if self.include_pad else 0 for b in self.begin]
                        high = [s + (p if self.include_pad else 0) for s, p in zip(self.size, self.end, strict=True)]
                        counted = e.t.all(iz >= low[0], iz < high[0], iy >= low[1], iy < high[1])
                        one = e.select(counted, e.const(1.0, "float32"), e.const(0.0, "float32"))
                        e.store(taken, e.integer(0), e.load(taken, e.integer(0)) + one)
                    with e.when(e.t.all(iz >= 0, iz < depth, iy >= 0, iy < height)):
                        source = ((plane * depth + iz) * height + iy) * width
                        with e.loop(width) as i:
                            left = e.load(row, i + self.begin[2])
                            e.store(row, i + self.begin[2], self.combine(e, left, e.load(x, source + i)))
                share = scratch(e, 1)
                if not self.maximum:
                    rows = e.max(e.load(taken, e.integer(0)), e.const(1.0, "float32"))
                    whole = rows * e.const(float(max(1, columns[0])), "float32") if uniform else rows
                    e.store(share, e.integer(0), e.const(1.0, "float32") / whole)
                with e.loop(self.out[2]) as i:
                    value = e.load(row, i * self.strides[2])
                    for k in range(1, self.kernel[2]):
                        value = self.combine(e, value, e.load(row, i * self.strides[2] + k * self.dilation[2]))
                    if not self.maximum:
                        value = value * e.load(share, e.integer(0))
                        value = value if uniform else value * e.load(shares, i)
                    e.store(y, (plane * out_rows + at) * self.out[2] + i, value)
