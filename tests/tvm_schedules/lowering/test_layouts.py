"""Layouts of planes: every tap of every output pixel finds its pixel, or what surrounds the image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tvm_schedules.ir.graph import Clip, GlobalPool, Graph, Linear, Node, Pool, Quant, Value, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering import layouts
from tvm_schedules.lowering.layouts import LOWEST, Key, Layouts, home, in_planes, in_rows, input_key

HALF = Quant(0.5, 0)


def ternary(rows: int, fan: int, *kernel: int, zeros: float = 0.0) -> TernaryTensor:
    codes = np.ones((1, rows, fan, *kernel), np.int8)
    codes.reshape(-1)[: round(codes.size * zeros)] = 0
    return TernaryTensor(codes, np.ones((1, 1), np.float32), np.ones((1, 1), np.float32))


def graph_of(nodes: list[Node], **values: Value) -> Graph:
    return Graph("net", nodes, {name: replace(v, name=name) for name, v in values.items()}, {}, ["x"], ["y"])


def value(*shape: int, quant: Quant | None = None) -> Value:
    return Value("", shape, "float32" if quant is None else "uint8", quant)


def one(node: Node, x: Value, y: Value, **options: Any) -> tuple[Graph, Layouts]:
    graph = graph_of([node], x=x, y=y)
    return graph, Layouts(graph, [node], **options)


WINDOWS = {
    "one pixel": Window((1, 1, 1)),
    "three by three": Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1))),
    "unequal pads": Window((1, 3, 2), pads=((0, 0), (2, 0), (0, 1))),
    "strides": Window((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1))),
    "a stride along one axis": Window((1, 2, 5), (1, 1, 3), ((0, 0), (0, 1), (2, 2))),
    "dilations": Window((1, 3, 2), dilations=(1, 2, 3), pads=((0, 0), (2, 2), (3, 0))),
    "three dimensions": Window((2, 3, 2), (2, 1, 2), ((1, 0), (1, 1), (0, 2)), (1, 2, 1)),
    "wide pads": Window((1, 3, 3), pads=((0, 0), (4, 3), (5, 2))),
    "growing": Window((1, 2, 2), pads=((0, 0), (3, 3), (3, 3))),
    "none of one axis": Window((1, 1, 4), (1, 1, 4)),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("kind", ["Conv", "Conv of bytes", "max", "average"])
def test_every_tap_finds_its_pixel(name: str, kind: str) -> None:
    window, dims = WINDOWS[name], (3, 7, 6)
    quant = Quant(0.5, 9) if kind == "Conv of bytes" else None
    out = window.output(dims)
    x, y = value(2, 3, *dims, quant=quant), value(2, 3, *out)
    if kind.startswith("Conv"):
        node: Node = Windowed("", "Conv", ["x"], ["y"], window=window, weight=ternary(3, 3, *window.kernel))
        fill = 9.0 if quant else 0.0
    else:
        node = Pool("", "Pool", ["x"], ["y"], window=window, kind="max" if kind == "max" else "average")
        fill = LOWEST if kind == "max" and np.any(window.pads) else 0.0
    graph, found = one(node, x, y)
    layout, target = found[input_key(graph, node)], found[home(graph, "y")]
    assert layout.pitch == target.pitch
    image = np.random.default_rng(1).integers(0, 256, x.shape).astype(x.dtype)
    memory = layout.pack(image)
    padded = np.pad(image, ((0, 0), (0, 0), *window.pads), constant_values=np.asarray(fill, x.dtype))
    run = [target.origin + (d * target.pitch[0] + h) * target.pitch[1] + w for d, h, w in np.ndindex(*out)]
    assert len(set(run)) == np.prod(out), "two output pixels in one place"
    assert max(run) < target.plane
    for tap, (phase, shift) in zip(np.ndindex(*window.kernel), window.taps(), strict=True):
        rules = zip(tap, window.dilations, window.strides, out, strict=True)
        slices = [slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in rules]
        for channel in range(3):
            at = layout.offset(channel, phase, shift)
            have = memory[[at + p - target.origin for p in run]].reshape(out)
            np.testing.assert_array_equal(have, padded[(0, channel, *slices)], err_msg=f"tap {tap}")


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 5, 7), (2, 3, 4, 5, 7)])
def test_global_pooling_needs_no_halo(shape: tuple[int, ...]) -> None:
    node = GlobalPool("", "GlobalAveragePool", ["x"], ["y"])
    graph, found = one(node, value(*shape), value(2, 3, *[1] * (len(shape) - 2)))
    dims = (1, 1, *shape[2:])[-3:]
    assert found[input_key(graph, node)] == Halo(2, 3, dims, "float32", dims[1:])
    assert home(graph, "y") not in found


def test_rows_of_a_linear_layer() -> None:
    node = Linear("", "MatMul", ["x"], ["y"], weight=ternary(5, 8))
    graph, found = one(node, value(2, 9, 8), value(2, 9, 5))
    assert found[Key("x", True)] == Halo(1, 8, (1, 1, 18), "float32", (1, 18))
    assert found[Key("y", True)] == Halo(1, 5, (1, 1, 18), "float32", (1, 18))
    assert in_planes(graph, node)


@pytest.mark.parametrize(
    ("shape", "planes"), [((16, 8), True), ((15, 8), False), ((2, 8, 8), True), ((3, 5, 8), False)]
)
def test_linear_layers_of_few_rows_are_not_in_planes(shape: tuple[int, ...], planes: bool) -> None:
    node = Linear("", "MatMul", ["x"], ["y"], weight=ternary(5, 8))
    graph = graph_of([node], x=value(*shape), y=value(*shape[:-1], 5))
    assert in_planes(graph, node) == planes
    node.weight = None
    assert not in_planes(graph, node)


def test_pitches_apart() -> None:
    """Where kernels may write another pitch than they read, only a tensor with a halo has gaps between its rows."""
    near, far = Window((1, 1, 1)), Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1)))
    nodes: list[Node] = [
        Windowed("", "Conv", ["x"], ["h"], window=near, weight=ternary(3, 3, 1, 1, 1)),
        Windowed("", "Conv", ["h"], ["s"], window=far, weight=ternary(3, 3, 1, 3, 3)),
        Windowed("", "Conv", ["s", "r"], ["t"], window=near, weight=ternary(3, 3, 1, 1, 1), residual="r"),
        GlobalPool("", "GlobalAveragePool", ["t"], ["y"]),
    ]
    size = value(1, 3, 6, 6)
    graph = graph_of(nodes, x=size, h=size, s=size, r=size, t=size, y=value(1, 3, 1, 1))
    found = Layouts(graph, nodes, apart=True)
    assert {name: found[home(graph, name)].pitch[1] for name in "xhsrt"} == {"x": 6, "h": 7, "s": 6, "r": 6, "t": 7}
    tied = Layouts(graph, nodes)  # floats are averaged in the order in which other targets have them
    assert {tied[home(graph, name)].pitch[1] for name in "xhsrt"} == {7}
    pair = value(2, 3, 6, 6)
    graph = graph_of(nodes[:2], x=pair, h=pair, s=pair)  # rows of several images are written by turns
    assert Layouts(graph, nodes[:2], apart=True)[home(graph, "x")].pitch[1] == 7


def test_what_nodes_share_has_one_pitch() -> None:
    """A residual is read where the output is written, and the next layer's halo is the widest."""
    near = Window((1, 1, 1))
    far = Window((1, 5, 5), pads=((0, 0), (2, 2), (2, 2)))
    nodes: list[Node] = [
        Windowed("", "Conv", ["x"], ["h"], window=near, weight=ternary(3, 3, 1, 1, 1)),
        Windowed("", "Conv", ["h", "x"], ["s"], window=near, weight=ternary(3, 3, 1, 1, 1), residual="x"),
        Windowed("", "Conv", ["s"], ["y"], window=far, weight=ternary(3, 3, 1, 5, 5)),
    ]
    size = value(1, 3, 6, 6)
    graph = graph_of(nodes, x=size, h=size, s=size, y=size)
    found = Layouts(graph, nodes)
    assert {name: found[home(graph, name)].pitch for name in "xhsy"} == dict.fromkeys("xhsy", (8, 8))
    assert {name: found[home(graph, name)].lo for name in "xhsy"} == {**dict.fromkeys("xhy", (0, 0, 0)), "s": (0, 2, 2)}
    nodes[1] = replace(nodes[1], inputs=["h"], residual=None)
    nodes[0] = Windowed("", "Conv", ["z"], ["h"], window=near, weight=ternary(3, 3, 1, 1, 1))
    nodes.append(Pool("", "MaxPool", ["x"], ["z"], window=Window((1, 2, 2), (1, 2, 2))))
    graph = graph_of(nodes, x=value(1, 3, 12, 12), z=size, h=size, s=size, y=size)
    found = Layouts(graph, nodes)
    assert found[home(graph, "z")].pitch == (8, 8)
    assert found[Key("x", phase=(1, 2, 2))].grid == (1, 6, 6)
    assert home(graph, "x") not in found


def maximum(**changes: Any) -> Pool:
    window = Window((1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))
    return replace(Pool("", "MaxPool", ["x"], ["y"], window=window, kind="max"), **changes)


ROWS: dict[str, tuple[Node, Value, Value, bool]] = {
    "a maximum": (maximum(), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), True),
    "one dimension": (
        maximum(window=Window((1, 1, 3), (1, 1, 2))), value(1, 3, 9, quant=HALF), value(1, 3, 4, quant=HALF), True,
    ),
    "an average": (maximum(kind="average"), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), False),
    "a residual": (maximum(residual="y"), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), False),
    "other steps": (maximum(), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=Quant(0.25, 0)), False),
    "floats": (maximum(), value(1, 3, 8, 8), value(1, 3, 4, 4), False),
    "bytes that are no numbers": (maximum(), replace(value(1, 3, 8, 8), dtype="uint8"), value(1, 3, 4, 4), False),
    "a bound within": (
        maximum(clip=Clip(0.5)), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), False,
    ),
    "a bound at the end": (
        maximum(clip=Clip(0.0, 127.5)), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), True,
    ),
    "a bound before the end": (
        maximum(clip=Clip(0.0, 127.0)), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), False,
    ),
    "a zero point and pads": (
        maximum(), value(1, 3, 8, 8, quant=Quant(0.5, 3)), value(1, 3, 4, 4, quant=Quant(0.5, 3)), False,
    ),
    "a zero point without pads": (
        maximum(window=Window((1, 2, 2), (1, 2, 2))),
        value(1, 3, 8, 8, quant=Quant(0.5, 3)), value(1, 3, 4, 4, quant=Quant(0.5, 3)), True,
    ),
    "a zero point and pads that nobody reads": (
        maximum(window=Window((1, 2, 2), (1, 2, 2), ((0, 0), (0, 1), (0, 1)))),
        value(1, 3, 8, 8, quant=Quant(0.5, 3)), value(1, 3, 4, 4, quant=Quant(0.5, 3)), True,
    ),
    "three dimensions": (maximum(), value(1, 3, 2, 8, 8, quant=HALF), value(1, 3, 2, 4, 4, quant=HALF), False),
    "three pixels a step": (
        maximum(window=Window((1, 3, 3), (1, 2, 3))),
        value(1, 3, 9, 9, quant=HALF), value(1, 3, 4, 3, quant=HALF), False,
    ),
    "a deep window": (
        maximum(window=Window((2, 3, 3), (1, 2, 2), ((1, 0), (0, 0), (0, 0)))),
        value(1, 3, 9, 9, quant=HALF), value(1, 3, 4, 4, quant=HALF), False,
    ),
    "a factor": (
        maximum(scale=np.float32([2])), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), False,
    ),
    "a bias": (
        maximum(bias=np.float32([1])), value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), False,
    ),
    "no pooling": (
        Windowed("", "Conv", ["x"], ["y"], weight=ternary(3, 3, 1, 1, 1)),
        value(1, 3, 8, 8, quant=HALF), value(1, 3, 8, 8, quant=HALF), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_maxima_that_are_read_in_rows(name: str) -> None:
    node, x, y, fits = ROWS[name]
    graph = graph_of([node], x=x, y=y)
    assert in_rows(graph, node) is fits
    assert not Layouts(graph, [node]).reads_rows(node)
    found = Layouts(graph, [node], rows=True)
    assert found.reads_rows(node) is fits
    assert (home(graph, "x") in found) == (fits or name == "no pooling")


def test_reach_of_a_maximum_in_rows() -> None:
    node = maximum(window=Window((1, 3, 5), (1, 2, 2), ((0, 0), (1, 0), (1, 3))))
    graph, found = one(node, value(1, 3, 8, 8, quant=HALF), value(1, 3, 4, 4, quant=HALF), rows=True)
    layout = found[home(graph, "x")]
    # The last row read is 3 * 2 + 2 - 1 = 7, inside; the last column 3 * 2 + 4 - 1 = 9, two behind the eighth.
    assert (layout.lo, layout.hi, layout.phase) == ((0, 1, 1), (0, 0, 2), (1, 1, 1))
    assert found[home(graph, "y")].hi == (0, 0, 0)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("padded", [False, True])
def test_what_surrounds_an_image_under_a_maximum(dtype: str, padded: bool) -> None:
    node = maximum(window=Window((1, 2, 2), (1, 2, 2), ((0, 0), (0, 0), (0, int(padded)))))
    quant = Quant(0.5, 7) if dtype == "uint8" else None
    graph = graph_of([node], x=value(1, 3, 8, 8, quant=quant), y=value(1, 3, 4, 4, quant=quant))
    usual = 7.0 if quant else 0.0
    assert input_key(graph, node).fill == ((0.0 if quant else np.finfo(np.float32).min) if padded else usual)
    assert input_key(graph, replace(node, kind="average")).fill == usual
    assert home(graph, "x").fill == usual


@pytest.mark.parametrize(
    ("rows", "pitch", "width", "few", "found"),
    [
        (16, 15, 14, False, 16),  # a quarter of a vector of 64: 4 vectors either way
        (16, 13, 12, False, 16),
        (15, 13, 12, False, 16),  # 195 bytes are 4 vectors, and so are 240
        (13, 13, 12, False, 13),  # 169 bytes are 3 vectors, 208 are 4
        (16, 12, 11, False, 12),  # more than a quarter wider
        (16, 16, 14, False, 16),
        (16, 17, 14, False, 17),
        (30, 30, 28, False, 30),  # half of one is for layers of few taps
        (30, 30, 28, True, 32),
        (30, 29, 28, True, 32),
        (30, 28, 27, True, 28),  # more than an eighth wider
        (30, 30, 29, True, 30),  # no room behind every seven
        (30, 33, 28, True, 33),
        (58, 58, 56, True, 64),
        (58, 57, 56, True, 64),
        (58, 56, 55, True, 56),
        (58, 58, 57, True, 58),
        (58, 65, 56, True, 65),
    ],
)
def test_rows_that_are_a_part_of_a_vector(rows: int, pitch: int, width: int, few: bool, found: int) -> None:
    assert layouts._widened(rows, pitch, width, 64, few) == found


@pytest.mark.parametrize(
    ("zeros", "groups", "kernel", "quant", "pitch"),
    [
        (0.75, 1, 3, HALF, 32),
        (0.7, 1, 3, HALF, 29),  # many taps
        (0.75, 2, 3, HALF, 29),  # no panels for groups
        (0.75, 1, 3, None, 29),  # nor for floats
        (0.75, 1, 1, HALF, 28),
    ],
)
def test_rows_are_widened_for_panels_alone(
    zeros: float, groups: int, kernel: int, quant: Quant | None, pitch: int
) -> None:
    pad = kernel // 2
    window = Window((1, kernel, kernel), pads=((0, 0), (pad, pad), (pad, pad)), groups=groups)
    weight = ternary(4, 4 // groups, 1, kernel, kernel, zeros=zeros)
    node = Windowed("", "Conv", ["x"], ["y"], window=window, weight=weight)
    size = value(1, 4, 28, 28, quant=quant)
    graph, found = one(node, size, size, vector=64)
    assert found[home(graph, "x")].pitch[1] == pitch
    assert one(node, size, size)[1][home(graph, "x")].pitch[1] == 28 + pad


def test_what_a_window_reads_beside_an_image_in_every_dimension() -> None:
    window = Window((2, 3, 5), (1, 2, 1), ((0, 1), (1, 2), (3, 0)), (1, 1, 2))
    before, after = layouts._reach(window, (4, 6, 9))
    # The last output of 4, of 4 and of 4 begins at 3, at 6 - 1 and at 3 - 3, and reads 2, 3 and 9 pixels.
    assert window.output((4, 6, 9)) == (4, 4, 4)
    assert before == (0, 1, 3)
    assert after == (3 + 2 - 4, 6 - 1 + 3 - 6, max(0, 3 - 3 + 9 - 9))
