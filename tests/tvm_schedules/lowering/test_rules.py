"""Geometry that rules hand to kernels: plain tensors as planes, blocks of pixels and of output channels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net
from tvm_schedules import pipeline
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.errors import ModelError
from tvm_schedules.ir.graph import DenseWeight, GlobalPool, Graph, Linear, Value
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.lowering.epilogue import Epilogue
from tvm_schedules.lowering.rules import dense_conv, repack, sparse_conv
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.targets.registry import resolve

SSE = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}'
AVX2 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}'


def graph_of(shape: tuple[int, ...], dtype: str = "float32") -> Graph:
    return Graph("net", [], {"x": Value("x", shape, dtype)}, {}, ["x"], ["x"])


def read(made: repack.Strided, x: np.ndarray) -> np.ndarray:
    """``[batch, channels, D, H, W]`` of memory, as strides say."""
    d, h, w = made.dims
    out = np.empty((made.batch, made.channels, d, h, w), x.dtype)
    for index in np.ndindex(*out.shape):
        out[index] = x.ravel()[sum(i * s for i, s in zip(index, made.strides, strict=True))]
    return out


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_a_plain_image_as_planes(shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    made = repack.strided(graph_of(shape), "x", False)
    np.testing.assert_array_equal(read(made, x), x.reshape(2, 3, *(1,) * (5 - len(shape)), *shape[2:]))
    assert made.dtype == "float32"


@pytest.mark.parametrize("shape", [(7, 3), (2, 4, 3), (2, 2, 2, 3)])
def test_rows_as_planes(shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    made = repack.strided(graph_of(shape, "uint8"), "x", True)
    np.testing.assert_array_equal(read(made, x)[0, :, 0, 0], x.reshape(-1, 3).T)
    assert (made.batch, made.channels, made.dtype) == (1, 3, "uint8")


@pytest.mark.parametrize(
    ("shape", "dtype", "total"),
    [
        ((2, 3, 4), "float32", 24),
        ((5, 7), "uint8", 35),
        ((3, 4), "int64", 96),
        ((), "float32", 1),
        ((64, 6), "float32", 384),
    ],
)
def test_a_plain_tensor_in_the_order_of_memory(shape: tuple[int, ...], dtype: str, total: int) -> None:
    made = repack.flat(graph_of(shape, dtype), "x")
    assert made.dtype == (dtype if dtype != "int64" else "uint8")
    x = np.arange(total)
    assert read(made, x).ravel().tolist() == x.tolist()
    assert made.channels == max(c for c in (1, 2, 4, 8, 16, 32, 64) if total % c == 0)


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 16, 17, 20, 64, 100])
@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 8, 16, 40])
@pytest.mark.parametrize("jobs", [16, 5])
def test_enough_blocks_of_output_channels_for_the_threads(rows: int, blocks: int, jobs: int) -> None:
    found = sparse_conv.row_chunks(rows, blocks, jobs)
    enough = [c for c in range(1, rows + 1) if c * blocks >= jobs] or [rows]
    alike = [c for c in enough if rows % c == 0 and c < 2 * enough[0]]
    assert found == (alike[0] if alike else min(rows, 2 * enough[0]))


def test_splits_are_equal_ones() -> None:
    assert [sparse_conv.row_splits(rows) for rows in (1, 6, 16, 48)] == [
        [1],
        [1, 2],
        [1, 2, 4, 8, 16],
        [1, 2, 4, 8, 16],
    ]


@pytest.mark.parametrize(
    ("vectors", "vector", "most"), [(13, 64, 6), (13, 32, 6), (25, 16, 10), (6, 64, 6), (1, 16, 10)]
)
def test_blocks_of_pixels_alike(vectors: int, vector: int, most: int) -> None:
    (usual, limit), (narrow, _) = (sparse_conv._usual(vectors, vector, widen, False) for widen in (True, False))
    assert limit == most
    count = -(-vectors // usual)
    assert count == -(-vectors // most)
    assert vectors > (usual - 1) * count  # none could be smaller
    assert narrow == {64: 6, 32: 5, 16: 8}[vector]


def test_a_small_image_is_one_block() -> None:
    x = Halo(1, 4, (1, 8, 8), "uint8", (10, 10), (0, 1, 1), (0, 1, 1))
    window = Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1)))
    assert [sparse_conv.pixel_block(n, 16, (8, 10), x, window) for n in (1, 9, 10, 11)] == [1, 9, 10, 8]


@pytest.mark.parametrize(("channels", "size"), [(40, 8), (109, 8), (110, 6), (145, 6), (146, 4), (400, 4)])
def test_blocks_that_stay_in_the_cache(channels: int, size: int) -> None:
    """A block of n vectors reads ``16 n + 24`` bytes of each channel, in that many lines and one."""
    x = Halo(1, channels, (1, 40, 9), "uint8", (42, 11), (0, 1, 1), (0, 1, 1))
    window = Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1)))
    found = sparse_conv.pixel_block(30, 16, (8, 10), x, window)

    def fits(block: int) -> bool:
        return channels * (-(-(16 * block + 24) // 64) + 1) * 64 <= 28_000

    assert found == next((b for b in (8, 7, 6, 5) if fits(b)), 4) == size


@pytest.mark.parametrize("most", [4, 8])
def test_output_channels_of_a_register_block(most: int) -> None:
    """The largest divisor of the rows, if it is more than half of what fits."""
    for rows in range(1, 60):
        fair = [t for t in range(most, most // 2, -1) if rows % t == 0]
        assert dense_conv._tile(rows, most) == (rows if rows <= most else fair[0] if fair else most)


def test_what_an_epilogue_reads() -> None:
    out = Halo(2, 3, (1, 4, 5), "uint8", (4, 5))
    beside = Halo(2, 3, (1, 4, 5), "float32", (4, 5))
    plain = Epilogue(out, (1, 4, 5), None, False, "aarch64")
    assert [name for name, _ in plain.arguments] == ["scale", "bias", "params", "mask", "out"]
    assert plain.sizes(3, 20) == {"scale": 3, "bias": 3, "params": 4, "mask": 20, "out": out.elements}
    both = Epilogue(out, (1, 4, 5), beside, False, "aarch64")
    numbers = dict.fromkeys(("scale", "bias", "params", "residual"), "float32")
    assert dict(both.arguments) == {**numbers, "mask": "uint8", "out": "uint8"}
    assert both.sizes(3, 20)["residual"] == beside.elements


def lowered(net: Net, *outputs: str, kernel: str | None = None, target: str = "pi5", serial: int = 1000) -> CpuLowering:
    """A network's steps; ``kernel`` for its convolutions."""
    graph = pipeline.read_graph(net.model(*outputs))
    configs = {node.name: ScheduleConfig(kernel) for node in graph.nodes if kernel and node.op == "Conv"}
    made = CpuLowering(graph, resolve(target), configs)
    made.serial = serial
    made.run()
    return made


def spec_of(made: CpuLowering, kernel: str) -> Any:
    (step,) = (step for step in made.steps if step.kernel == kernel)
    return step.spec


def pooled(op: str, serial: int = 1000) -> Any:
    """The pooling of a network of one: a window of 4 pixels, 56 times."""
    net = Net((1, 2, 8, 8))
    y = net.op(op, net.quantize("input_0", 0.1, 3), kernel_shape=[2, 2], strides=[2, 1])
    return spec_of(lowered(net, net.quantize(y, 0.1, 3), serial=serial), "pool")


def test_threads_share_poolings_of_eight_times_the_work_of_other_layers() -> None:
    assert [pooled("MaxPool", serial).parallel for serial in (29, 28, 27)] == [False, False, True]


def test_the_largest_bytes_are_the_result_where_nothing_changes_them() -> None:
    assert pooled("MaxPool").plain
    assert not pooled("AveragePool").plain
    assert pooled("MaxPool").lanes == 4 * pooled("AveragePool").lanes
    net = Net((1, 2, 8, 8))
    y = net.op("MaxPool", net.quantize("input_0", 0.1, 3), kernel_shape=[2, 2], strides=[2, 1])
    y = net.quantize(net.op("Add", y, net.const(np.full((1, 2, 1, 1), 0.5, np.float32))), 0.1, 3)
    added = [step.spec.plain for step in lowered(net, y).steps if step.kernel == "pool"]
    assert added == [True, False]


@pytest.mark.parametrize(("serial", "shared"), [(54, False), (53, True)])
def test_threads_share_global_poolings_of_as_much_work(serial: int, shared: bool) -> None:
    net = Net((2, 3, 9, 8))  # 432 pixels
    made = lowered(net, net.op("GlobalAveragePool", net.quantize("input_0", 0.1, 3)), serial=serial)
    spec = spec_of(made, "global_pool")
    assert spec.parallel is shared
    assert spec.pixels == -(-spec.x.run(spec.x.dims) // 16) * 16  # as many partial sums on every target


@pytest.mark.parametrize("part", ["scale", "bias"])
def test_a_global_average_has_one_scale_and_one_bias(part: str) -> None:
    net = Net((1, 3, 9, 8))
    graph = pipeline.read_graph(net.model(net.op("GlobalAveragePool", net.quantize("input_0", 0.1, 3))))
    (node,) = (node for node in graph.nodes if isinstance(node, GlobalPool))
    setattr(node, part, np.array([1.0, 2.0, 1.0]))
    with pytest.raises(ModelError, match="fold it into the next layer"):
        CpuLowering(graph, resolve("pi5")).run()


@pytest.mark.parametrize(
    ("target", "lanes", "tile", "tiles", "block", "blocks"),
    [
        ("pi5", 8, 6, (2, 4), 1, (2, 3, 4, 6)),  # 8-bit integers are multiplied into 32-bit sums
        (AVX2, 8, 3, (2, 4, 6), 2, (1, 3, 4, 6)),  # pairs of such products
    ],
)
def test_what_is_measured_of_a_dense_layer(
    target: str, lanes: int, tile: int, tiles: tuple[int, ...], block: int, blocks: tuple[int, ...]
) -> None:
    net = Net((2, 10, 6, 10))
    weight = net.weight((12, 5, 3, 3), None, int8=True)
    y = net.op("Conv", net.quantize("input_0", 0.1, 3), weight, net.bias(12), pads=[1] * 4, group=2)
    macs = 12 * 5 * 9 * 2 * 60
    made = lowered(net, y, kernel="dense", target=target, serial=macs // 4)
    spec = spec_of(made, "dense")
    assert [step.info["macs"] for step in made.steps if step.kernel == "dense"] == [macs]
    assert not spec.parallel
    assert spec_of(lowered(net, y, kernel="dense", target=target, serial=macs // 4 - 1), "dense").parallel
    (knobs,) = (knobs for layer, knobs in made.configs.knobs.items() if "tile" in knobs)
    assert (spec.lanes, spec.tile, spec.block) == (lanes, tile, block)
    assert (knobs["tile"].others, knobs["block"].others) == (tiles, blocks)
    assert spec.pixels == -(-spec.x.run((1, 6, 10)) // lanes) * lanes


@pytest.mark.parametrize(
    ("zeros", "quantized", "exact", "lanes"), [(0.5, True, True, 8), (0.5, False, False, 4), (None, True, False, 4)]
)
def test_ternary_linear_layers_of_bytes_are_summed_in_integers(
    zeros: float | None, quantized: bool, exact: bool, lanes: int
) -> None:
    net = Net((3, 20))
    x = net.quantize("input_0", 0.1, 3) if quantized else "input_0"
    y = net.op("Gemm", x, net.weight((10, 20), zeros, int8=quantized), net.bias(10), transB=1)
    made = lowered(net, y, target=SSE, serial=75)
    spec = spec_of(made, "linear")
    assert (spec.exact, spec.lanes, spec.padded) == (exact, lanes, 16)
    (node,) = (node for node in made.graph.nodes if isinstance(node, Linear))
    used = 10 * 20 if isinstance(node.weight, DenseWeight) else np.count_nonzero(node.weight.codes)
    (info,) = (step.info for step in made.steps if step.kernel == "linear")
    assert (info["macs"], info["nonzero_macs"]) == (600, 3 * used)
    assert not spec.parallel
    assert spec_of(lowered(net, y, target=SSE, serial=74), "linear").parallel


@pytest.mark.parametrize(
    ("quantized", "int8", "target", "sums"),
    [
        (True, True, AVX2, "pairs"),
        (True, False, AVX2, "floats"),
        (False, True, AVX2, "floats"),
        (True, True, "pi4", "integers"),
        (True, False, "pi4", "floats"),
    ],
)
def test_products_of_dense_convolutions_are_integers_where_both_factors_are(
    quantized: bool, int8: bool, target: str, sums: str
) -> None:
    net = Net((1, 4, 6, 6))
    x = net.quantize("input_0", 0.1, 3) if quantized else "input_0"
    y = net.op("Conv", x, net.weight((5, 4, 3, 3), None, int8=int8), net.bias(5))
    assert spec_of(lowered(net, y, kernel="dense", target=target), "dense").sums == sums


@pytest.mark.parametrize(
    ("arm64", "architecture", "depthwise", "products", "sums"),
    [
        (False, "x86_64", False, 64_999, "pairs"),
        (False, "x86_64", True, 9, "floats"),
        (True, "aarch64", True, 64_999, "integers"),
        (False, "arm", False, 9, "floats"),
        (False, "x86_64", False, 65_794, "floats"),  # times 255 * 128 they are more than 32 bits hold
        (True, "aarch64", False, 65_794, "floats"),
    ],
)
def test_how_products_of_bytes_are_added(
    arm64: bool, architecture: str, depthwise: bool, products: int, sums: str
) -> None:
    assert 65_793 * 255 * 128 < 1 << 31 <= 65_794 * 255 * 128
    ctx: Any = SimpleNamespace(target=SimpleNamespace(arm64=arm64, architecture=architecture))
    x = Halo(1, products, (1, 1, 1), "uint8", (1, 1))
    assert dense_conv._sums(ctx, x, np.ones((1, products, 1, 1, 1), np.int8), depthwise) == sums


@pytest.mark.parametrize(
    ("zeros", "rows", "tile", "outputs"),
    [(0.5, 1, 2, 10), (0.5, 5, 2, 40), (0.5, 1, 3, 24), (None, 1, 4, 64), (None, 16, 2, 40), (None, 7, 1, 8)],
)
def test_linear_layers_of_bytes_by_pairs_with_avx2(zeros: float | None, rows: int, tile: int, outputs: int) -> None:
    net = Net((rows, 20))
    x = net.quantize("input_0", 0.1, 3)
    x = net.quantize(net.op("Relu", x), 0.1, 3)  # the network's own input may not be read past its end
    y = net.op("Gemm", x, net.weight((outputs, 20), zeros, int8=True), net.bias(outputs), transB=1)
    spec = spec_of(lowered(net, y, target=AVX2), "linear_pairs")
    assert (spec.ternary, spec.steps, spec.tile) == (zeros is not None, 10 if zeros is None else 2, tile)
    assert spec.rows == {1: 1, 5: 2, 7: 4, 16: 4}[rows]
    assert spec.padded == -(-outputs // (8 * tile)) * 8 * tile
    assert spec_of(lowered(net, y, target=SSE), "linear")


@pytest.mark.parametrize("zeros", [0.5, None])
def test_linear_layers_of_bytes_add_up_in_16_bits_on_arm_without_dot_products(zeros: float | None) -> None:
    net = Net((3, 20))
    x = net.quantize("input_0", 0.1, 3)
    x = net.quantize(net.op("Relu", x), 0.1, 3)  # the network's own input may not be read past its end
    y = net.op("Gemm", x, net.weight((10, 20), zeros, int8=True), net.bias(10), transB=1)
    spec = spec_of(lowered(net, y, target="pi4"), "linear_widened")
    assert (spec.ternary, spec.blocks, spec.steps) == (zeros is not None, 2, 1 if zeros is not None else 2)


@pytest.mark.parametrize(
    ("target", "shape", "zeros", "how", "kernel"),
    [
        ("pi4", (64, 64, 3, 3), None, {}, "winograd"),
        ("pi4", (64, 64, 3, 3), 0.4, {}, "winograd"),
        ("pi4", (64, 64, 3, 3), 0.8, {}, "sparse"),
        ("pi4", (64, 64, 3, 3), None, {"strides": [2, 2]}, "dense_widened"),
        ("pi4", (64, 32, 3, 3), None, {"group": 2}, "dense_widened"),
        ("pi4", (2, 64, 3, 3), None, {}, "dense"),  # transforms of many channels for few sums
        ("pi4", (64, 1, 3, 3), None, {"group": 64}, "depthwise_widened"),
        ("pi5", (64, 64, 3, 3), None, {}, "dense_panel"),
        ("pi5", (64, 1, 3, 3), None, {"group": 64}, "depthwise_dot"),
    ],
)
def test_kernels_of_3x3_convolutions_on_arm(
    target: str, shape: tuple[int, ...], zeros: float | None, how: dict[str, Any], kernel: str
) -> None:
    net = Net((1, 64, 16, 16))
    weight = net.weight(shape, zeros, int8=True)
    y = net.op("Conv", net.quantize("input_0", 0.1, 3), weight, net.bias(shape[0]), pads=[1] * 4, **how)
    assert spec_of(lowered(net, net.quantize(y, 0.1, 3), target=target), kernel)


@pytest.mark.parametrize(
    ("lowest", "fan", "rows", "kernel"),
    [
        (-127, 8, 4, "dense_widened"),
        (-128, 8, 4, "dense"),  # two products with it are more than 16 bits hold
        (-127, 7, 4, "dense"),
        (-127, 8, 3, "dense"),
    ],
)
def test_products_of_bytes_are_added_in_16_bits_where_they_fit(lowest: int, fan: int, rows: int, kernel: str) -> None:
    net = Net((1, fan, 6, 6))
    values = np.full((rows, fan, 1, 1), lowest, np.int8)
    y = net.op("Conv", net.quantize("input_0", 0.1, 3), net.int8(values, np.full(rows, 0.1)), net.bias(rows))
    assert spec_of(lowered(net, net.quantize(y, 0.1, 3), target="pi4"), kernel)


@pytest.mark.parametrize(
    ("target", "rows", "zeros", "kernel"),
    [
        ("pi5", 20, 0.5, "dense_panel"),
        ("pi5", 20, 0.8, "sparse"),
        ("pi4", 20, 0.5, "sparse"),
        ("neoverse-n2", 20, 0.7, "dense_panel"),
        ("pi5", 15, 0.5, "linear_dot"),
    ],
)
def test_kernels_of_ternary_linear_layers_of_some_rows_on_arm(
    target: str, rows: int, zeros: float, kernel: str
) -> None:
    net = Net((rows, 64))
    y = net.op("Gemm", net.quantize("input_0", 0.1, 3), net.weight((96, 64), zeros), net.bias(96), transB=1)
    assert spec_of(lowered(net, net.quantize(y, 0.1, 3), target=target), kernel)


@pytest.mark.parametrize(
    ("batch", "zeros", "block"),
    [(1, 0.5, (1, 4, 16)), (3, 0.5, (2, 2, 16)), (3, None, (1, 4, 0)), (9, None, (3, 4, 0))],
)
def test_sums_of_linear_layers_by_dot_products_fill_the_registers_of_arm(
    batch: int, zeros: float | None, block: tuple[int, int, int]
) -> None:
    net = Net((batch, 64))
    weight = net.weight((96, 64), zeros, int8=True)
    y = net.op("Gemm", net.quantize("input_0", 0.1, 3), weight, net.bias(96), transB=1)
    spec = spec_of(lowered(net, y, target="pi5"), "linear_dot")
    assert (spec.rows, spec.tile, spec.plus) == block


@pytest.mark.parametrize(
    ("tiles", "block", "blocks"), [(16, 8, 2), (4, 4, 1), (9, 9, 1), (15, 5, 3), (49, 7, 7), (1, 1, 1)]
)
def test_blocks_of_tiles_are_large_and_full(tiles: int, block: int, blocks: int) -> None:
    net = Net((1, 64, 4, 4 * tiles))
    y = net.op("Conv", net.quantize("input_0", 0.1, 3), net.weight((64, 64, 3, 3), None, int8=True), pads=[1] * 4)
    spec = spec_of(lowered(net, net.quantize(y, 0.1, 3), target="pi4"), "winograd")
    assert (spec.block, spec.blocks) == (block, blocks)


def ternary(shape: tuple[int, ...], target: str, serial: int = 1000) -> CpuLowering:
    net = Net(shape)
    weight = net.ternary(np.ones((16, shape[1], 1, 1), np.int8), np.ones(16))
    y = net.op("Conv", net.quantize("input_0", 0.1, 3), weight)
    return lowered(net, y, kernel="sparse", target=target, serial=serial)


@pytest.mark.parametrize(
    ("target", "lanes", "unroll", "blocks", "unrolls"),
    [
        ("pi5", 16, 2, (2, 3, 4, 5, 6), (1, 4)),
        (AVX2, 32, 1, (2, 3), (2, 4)),
    ],
)
def test_what_is_measured_of_a_sparse_layer(
    target: str, lanes: int, unroll: int, blocks: tuple[int, ...], unrolls: tuple[int, ...]
) -> None:
    """96 pixels and 16 output channels of 10 taps each."""
    made = ternary((2, 10, 8, 12), target)
    spec = spec_of(made, "sparse")
    (knobs,) = (knobs for knobs in made.configs.knobs.values() if "unroll" in knobs)
    assert (spec.lanes, spec.unroll, spec.block, spec.taps, spec.segments) == (lanes, unroll, 96 // lanes, 160, 0)
    assert sorted({spec.block, *knobs["block"].others}) == sorted({*blocks, 96 // lanes})
    assert (knobs["unroll"].others, knobs["chunks"].others) == (unrolls, (1, 2, 4, 8))
    assert spec.chunks == 16
    (info,) = (step.info for step in made.steps if step.kernel == "sparse")
    assert info["macs"] == info["nonzero_macs"] == 160 * 2 * 96
    assert not spec.parallel  # as a thousand operations a job are not shared
    shared = [spec_of(ternary((2, 10, 8, 12), target, serial), "sparse").parallel for serial in (960, 959)]
    assert shared == [False, True]


@pytest.mark.parametrize(("channels", "index"), [(16, "uint16"), (17, "int32")])
def test_offsets_have_two_bytes_where_they_reach_all_inputs(channels: int, index: str) -> None:
    made = ternary((1, channels, 64, 64), "pi5")
    spec = spec_of(made, "sparse")
    assert spec.x.channels * spec.x.plane == channels * 4096
    assert spec.index == index


@pytest.mark.parametrize(("kernel", "said"), [((3,), "max over 3"), ((1, 3), "max over 3"), ((2, 3), "max over 2x3")])
def test_what_is_said_of_a_pooling(kernel: tuple[int, ...], said: str) -> None:
    net = Net((1, 4, *(9 for _ in kernel)))
    y = net.op("Conv", net.quantize("input_0"), net.weight((4, 4, *(1 for _ in kernel)), 0.5))
    model = net.model(net.op("MaxPool", y, kernel_shape=kernel))
    lowering = CpuLowering(pipeline.read_graph(model), resolve("host"))
    lowering.run()
    assert [step.info["reason"] for step in lowering.steps if step.info["op"] == "MaxPool"] == [said]
