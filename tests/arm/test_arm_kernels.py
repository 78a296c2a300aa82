"""Kernels that are written differently for ARM, on the emulated board: the same bytes as on the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvm_schedules
from tests.arm import board
from tests.tvm_schedules.nets import Net
from tvm_schedules.artifact import load_samples

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(board.missing() is not None, reason=str(board.missing())),
]

RUN = """
import sys
import numpy as np
from tvm_schedules import load
from tvm_schedules.artifact import load_samples
inputs, _ = load_samples(sys.argv[1])
np.savez(sys.argv[2], *load(sys.argv[1], threads=1)(*inputs[0]))
"""


def layers() -> Any:
    """A convolution of every kind from one input, each with an output in 8 bits."""
    net = Net((1, 20, 13, 19), seed=3)
    x = net.quantize("input_0", 0.02, 3)
    shapes: list[tuple[tuple[int, int, int, int], float | None, int, dict[str, Any]]] = [
        ((16, 20, 3, 3), 0.8, 1, {"pads": [1] * 4}),  # two pixel blocks and a tail
        ((5, 20, 3, 3), 0.8, 2, {"pads": [1] * 4, "strides": [2, 2]}),
        ((3, 20, 5, 5), 0.0, 1, {}),  # more taps of a sign than 16 bits hold
        ((7, 20, 1, 1), 0.5, 1, {}),
        ((8, 20, 1, 1), 1.0, 1, {}),  # no tap at all
        ((16, 20, 3, 3), None, 1, {"pads": [1] * 4}),  # dense, eight channels at a time
        ((4, 20, 3, 3), None, 1, {"strides": [2, 2]}),
        ((7, 20, 3, 3), None, 1, {"dilations": [2, 2], "pads": [1] * 4}),
        ((20, 1, 3, 3), None, 1, {"pads": [1] * 4, "group": 20}),  # depthwise
        ((20, 4, 3, 1), None, 1, {"group": 5}),
    ]
    found = []
    for shape, zeros, terms, attributes in shapes:
        weight = net.weight(shape, zeros, terms, int8=True)
        conv = net.op("Conv", x, weight, net.bias(shape[0]), **attributes)
        found.append(net.quantize(conv, 0.03, 100))
    for shared in (2, 4):  # channels that share their zeros, the last group lacks some
        weight = net.weight((19, 20, 3, 3), 0.6, shared=shared)
        conv = net.op("Conv", x, weight, net.bias(19), pads=[1] * 4)
        found.append(net.quantize(conv, 0.03, 100))
    return net.model(*found)


def odd_layers() -> Any:
    """Dense convolutions of shapes that leave the ends of all blocks: of channels, taps, pixels, images and groups."""
    rng = np.random.default_rng(7)
    net = Net((2, 18, 11, 14), seed=5)
    x, found = net.quantize("input_0", 0.02, 60), []
    for index in range(14):
        groups = int(rng.choice([1, 1, 2, 3, 18]))
        height, width = (int(rng.integers(1, most)) for most in (5, 8))
        rows = groups * int(rng.integers(1, 3) if groups == 18 else rng.integers(4, 22))
        how: dict[str, Any] = {"group": groups, "pads": [int(rng.integers(0, k)) for k in (height, width) * 2]}
        how |= {"strides": rng.integers(1, 3, 2).tolist(), "dilations": [1 + (index == 3), 1 + (index == 4)]}
        convs = [
            net.op("Conv", x, net.weight((rows, 18 // groups, height, width), None, int8=True), net.bias(rows), **how)
            for _ in range(2)
        ]
        found.append(net.quantize(convs[0], 0.03, int(rng.integers(0, 200))))
        if index % 4 == 0:  # with a residual
            found.append(net.quantize(net.op("Add", convs[1], found[-1]), 0.05, 90))
    return net.model(*found)


def linears() -> Any:
    """Linear layers with ends of blocks, ternary ones of more inputs than 16 bits hold sums of, and residuals."""
    net = Net((3, 2500), seed=2)
    x, found = net.quantize("input_0", 0.02, 60), []
    for index, (outputs, zeros) in enumerate([(8, 0.5), (21, None), (9, 0.0), (5, None), (64, 0.9)]):
        weight = net.weight((outputs, 2500), zeros, int8=True)
        found.append(net.quantize(net.op("Gemm", x, weight, net.bias(outputs), transB=1), 0.03, 100))
        other = net.weight((21, outputs), zeros, int8=True)  # few inputs, which are no multiple of a vector
        y = net.op("Gemm", found[-1], other, net.bias(21), transB=1)
        y = net.op("Add", y, found[-1]) if outputs == 21 else y
        found.append(net.quantize(y, 0.03, 10 * index))
    return net.model(*found)


def tokens() -> Any:
    """Linear layers of many rows, with too few zeros to skip and with many, and ends of blocks."""
    net = Net((2, 19, 70), seed=4)
    x, found = net.quantize("input_0", 0.02, 60), []
    for index, (outputs, zeros) in enumerate([(33, 0.3), (5, 0.0), (40, 0.9), (33, None), (2, 0.2)]):
        y = net.op("MatMul", x, net.op("Transpose", net.weight((outputs, 70), zeros, int8=True), perm=[1, 0]))
        found.append(net.quantize(y, 0.03, 100))
        if index == 3:  # the first layer's output, which is in planes, and a residual
            weight = net.op("Transpose", net.weight((33, 33), 0.2), perm=[1, 0])
            y = net.op("Add", net.op("MatMul", found[0], weight), found[-1])
            found.append(net.quantize(y, 0.05, 90))
    return net.model(*found)


def winograd() -> Any:
    """3x3 convolutions of images with ends of tiles, channels with ends of blocks, and weights whose sums wrap."""
    net = Net((2, 21, 9, 14), seed=11)
    x, found = net.quantize("input_0", 0.02, 70), []
    for rows, zeros, pads in [(19, None, [1] * 4), (8, None, [0] * 4), (13, 0.3, [2, 0, 1, 1]), (32, None, [1] * 4)]:
        weight = net.weight((rows, 21, 3, 3), zeros, int8=True)
        found.append(net.quantize(net.op("Conv", x, weight, net.bias(rows), pads=pads), 0.03, 100))
        if rows == 19:  # planes that such a kernel wrote, read by another one, and a residual
            inner = net.op("Conv", found[-1], net.weight((19, 19, 3, 3), None, int8=True), net.bias(19), pads=[1] * 4)
            found.append(net.quantize(net.op("Add", inner, found[-1]), 0.05, 90))
    signs = np.where(np.random.default_rng(0).random((8, 21, 3, 3)) < 0.9, 127, -127).astype(np.int8)
    large = net.op("Conv", x, net.int8(signs, np.full(8, 1e-4)), net.bias(8), pads=[1] * 4)
    found.append(net.quantize(large, 0.5, 128))
    return net.model(*found)


MODELS = {"tokens": tokens, "winograd": winograd, "layers": layers, "odd": odd_layers, "linears": linears}


CORES = {"a72": "cortex-a72", "a76": "cortex-a76", "neoverse-n2": "max,sve=off"}


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize(("target", "cpu"), CORES.items())
def test_every_convolution_gives_the_same_bytes_as_on_the_host(
    name: str, target: str, cpu: str, tmp_path: Path
) -> None:
    try:
        board.prepare()
    except board.BoardError as error:
        pytest.skip(str(error))
    model = MODELS[name]()
    tvm_schedules.build(model, tmp_path / "host", verify=False)
    artifact = tvm_schedules.build(model, tmp_path / "arm", target, verify=False)
    inputs, wanted = load_samples(artifact.path)
    here = tvm_schedules.load(tmp_path / "host")(*inputs[0])
    script, output = tmp_path / "run.py", tmp_path / "out.npz"
    script.write_text(RUN)
    done = board.run([str(script), str(artifact.path), str(output)], cpu)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(output) as file:
        there = [file[name] for name in file.files]
    for index, (board_side, host_side, onnxruntime) in enumerate(zip(there, here, wanted[0], strict=True)):
        assert np.unique(host_side).size > 5 or (name, index) == ("layers", 4)
        np.testing.assert_array_equal(board_side, host_side, err_msg=f"layer {index}")
        assert np.abs(board_side - onnxruntime).max() < 0.051
