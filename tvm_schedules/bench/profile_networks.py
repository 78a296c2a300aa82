"""Networks whose layers are measured for a profile table: random chains of layers of many shapes and shares of zeros.

They are the same for every device, as they are made of fixed seeds. What is checked against estimates has to be other
networks. The large ones have weights and activations for which usual second caches have no room.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tvm_schedules.bench.networks import RandomNet

__all__ = ["large", "networks", "shortcuts"]

IMAGES = 18
"""How many chains of convolutions there are."""
ROWS = 8
"""How many chains of linear layers there are."""
TOKENS = 4
"""How many networks with attention in plain operators there are."""
HEADS = 6
"""How many networks with attention of several heads there are."""
SHARED = 9
"""How many chains of convolutions there are whose output channels share their zeros."""
TERMS = 8
"""How many chains of convolutions there are whose rows have two levels or two terms."""
SHORTCUTS = 6
"""How many residual networks there are whose shortcuts are convolutions."""
LARGE = 5
"""How many large networks of every kind there are."""

_CHANNELS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 256)
_SIZES = (7, 8, 12, 14, 16, 20, 24, 28, 32, 40, 48)
_WIDTHS = (16, 40, 64, 100, 128, 256, 400, 512, 784, 1024)
_WIDE = (512, 784, 1024, 1280, 1536, 2048)
_ZEROS = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
_MOST = 12_000_000
"""Multiply-adds of a layer, so that an emulator counts it in seconds."""
_MOST_OF_LARGE = 40_000_000


class _Chain(RandomNet):
    """A network that grows at its end.

    Attributes:
        draw: The random numbers that shapes come from; those of :attr:`rng` are for weights.
        most: Multiply-adds of a layer.
    """

    def __init__(self, shape: tuple[int, ...], seed: int, floats: bool, most: int = _MOST) -> None:
        super().__init__(shape, 0.8, None if floats else [(0.0, 6.0)] * 200, seed)
        self.most = most
        self.draw = np.random.default_rng(1000 + seed)
        self.x = self.mark("input_0")

    def any(self, values: tuple[Any, ...]) -> Any:
        """One of the values; also the share of zeros of the next layer is drawn."""
        self.zeros = float(self.draw.choice(_ZEROS))
        return values[self.draw.integers(len(values))]


def _image(seed: int, floats: bool) -> Any:
    size = int(np.random.default_rng(seed).choice(_SIZES)) * (3 if seed % 4 == 3 else 1)
    return _convolutions(_Chain((1, 3, size, size), seed, floats), size)


def _large_image(seed: int, floats: bool) -> Any:
    size = int(np.random.default_rng(seed).choice((112, 160, 224)))
    return _convolutions(_Chain((1, 3, size, size), seed, floats, _MOST_OF_LARGE), size)


def _shared(seed: int, floats: bool) -> Any:
    """Channels that share their zeros by pairs or by fours."""
    size = int(np.random.default_rng(seed).choice(_SIZES))
    net = _Chain((1, 3, size, size), 200 + seed, floats)
    net.shared = (2, 4)[seed % 2]
    return _convolutions(net, size)


def _terms(seed: int, floats: bool) -> Any:
    """Rows of two levels, or of two terms; two of the chains have channels that share their zeros by pairs."""
    size = int(np.random.default_rng(seed).choice(_SIZES))
    net = _Chain((1, 3, size, size), 300 + seed, floats)
    net.terms = ("signs", "two")[seed % 2]
    net.shared = 2 if seed // 2 == 2 else 1
    return _convolutions(net, size)


def _shortcuts(seed: int) -> Any:
    """Residual blocks, of which all but the first have a shortcut with stride 2: its sums come in parts on a board."""
    size = int(np.random.default_rng(seed).choice((16, 20, 24, 28, 32)))
    net = _Chain((1, 3, size, size), 400 + seed, False)
    inputs = net.any((8, 12, 16))
    net.x = net.relu(net.conv(net.x, 3, inputs, dense=True))
    for stride in (1, 2, 2):
        outputs = inputs if stride == 1 else net.any((inputs, 2 * inputs))
        hidden = net.relu(net.conv(net.x, inputs, outputs, 3, stride))
        net.any((0,))  # other zeros
        made = net.conv(hidden, outputs, outputs, gain=0.4)
        net.any((0,))
        beside = net.x if stride == 1 else net.conv(net.x, inputs, outputs, 1, stride)
        net.x, inputs = net.relu(net.op("Add", made, beside)), outputs
    return net.model(net.classify(net.x, inputs, 10))


def _convolutions(net: _Chain, size: int) -> Any:
    """Of images with three channels and this width and height."""
    channels = net.any(_CHANNELS[:6])
    stride = 2 if size > 40 else 1
    net.x = net.relu(net.conv(net.x, 3, channels, net.any((3, 5)), stride, dense=True))
    size = -(-size // stride)
    for _ in range(8):
        channels, size = _layer(net, channels, size)
    pooled = net.mark(net.op("Flatten", net.op("GlobalAveragePool", net.x)))
    width = net.any(_WIDTHS[:5])
    hidden = net.relu(net.linear(pooled, channels, width))
    return net.model(net.linear(hidden, width, net.any((10, 12, 100)), dense=True))


def _layer(net: _Chain, channels: int, size: int) -> tuple[int, int]:
    """Adds a layer of any kind; returns channels and size of what it writes."""
    kind = net.any(("3", "3", "3", "1", "1", "5", "residual", "depthwise", "dense", "pool"))
    outputs, stride = net.any(_CHANNELS), 2 if size >= 12 and net.any((True, False, False)) else 1
    k = {"1": 1, "5": 5}.get(kind, 3)
    while outputs > 8 and channels * outputs * k * k * (size // stride) ** 2 > net.most:
        outputs //= 2
    if kind == "pool" and size >= 8:
        net.x = net.op(net.any(("MaxPool", "AveragePool")), net.x, kernel_shape=[2, 2], strides=[2, 2])
        net.x = net.x if net.ranges is None else net.mark(net.x)
        return channels, size // 2
    if kind == "depthwise":
        net.x = net.relu(net.conv(net.x, channels, channels, 3, stride, channels, dense=True))
        return channels, -(-size // stride)
    if kind == "residual":
        added = net.op("Add", net.conv(net.x, channels, channels, gain=0.4), net.x)
        net.x = net.relu(added)
        return channels, size
    net.x = net.relu(net.conv(net.x, channels, outputs, k, stride, dense=kind == "dense"))
    return outputs, -(-size // stride)


def _mobile(seed: int, floats: bool) -> Any:
    """Inverted residuals at a high resolution: much is read and written for few additions."""
    size = (112, 144, 192)[seed % 3]
    net = _Chain((1, 3, size, size), seed, floats)
    inputs = net.any((16, 24, 32))
    net.x = net.relu6(net.conv(net.x, 3, inputs, 3, 2, dense=True))
    for index in range(5):
        outputs, hidden = net.any((16, 24, 32, 48)), inputs * net.any((2, 4, 6))
        x = net.relu6(net.conv(net.x, inputs, hidden, 1))
        x = net.relu6(net.conv(x, hidden, hidden, 3, 2 if index == 2 else 1, hidden, dense=True))
        x = net.conv(x, hidden, outputs, 1, gain=0.4)
        net.x = net.mark(net.op("Add", x, net.x) if inputs == outputs and index != 2 else x)
        inputs = outputs
    return net.model(net.classify(net.x, inputs, 10))


def _rows(seed: int, floats: bool) -> Any:
    """Linear layers of one row, or of a few."""
    rows = (1, 1, 4, 16, 1)[seed % 5]
    width = int(np.random.default_rng(seed).choice(_WIDTHS))
    return _perceptron(_Chain((rows, width), seed, floats), width, _WIDTHS, 7)


def _large_rows(seed: int, floats: bool) -> Any:
    width = int(np.random.default_rng(seed).choice(_WIDE))
    return _perceptron(_Chain((1, width), seed, floats), width, _WIDE, 4)


def _perceptron(net: _Chain, width: int, widths: tuple[int, ...], count: int) -> Any:
    """Linear layers, a third of them dense."""
    for index in range(count):
        outputs = net.any(widths)
        net.x = net.relu(net.linear(net.x, width, outputs, dense=index % 3 == 2))
        width = outputs
    return net.model(net.linear(net.x, width, 10))


def _tokens(seed: int, floats: bool) -> Any:
    """Attention over a few tokens: operators without kernels of their own."""
    tokens, width = (8, 16, 24)[seed % 3], (32, 64, 96)[seed % 3]
    net = _Chain((tokens, width), seed, floats)
    for _ in range(2):
        scale = net.const(np.ones(width, np.float32))
        normed = net.mark(net.op("LayerNormalization", net.x, scale, net.const(np.zeros(width, np.float32)), axis=-1))
        query, key, value = (net.linear(normed, width, width) for _ in range(3))
        weights = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[1, 0])), axis=-1)
        mixed = net.linear(net.mark(net.op("MatMul", weights, value)), width, width)
        net.x = net.mark(net.op("Add", net.x, mixed))
        gate = net.op("Sigmoid", net.linear(net.x, width, width))
        net.x = net.mark(net.op("Concat", net.op("Mul", net.x, gate), net.x, axis=1))
        net.x = net.mark(net.linear(net.x, 2 * width, width))
    return net.model(net.linear(net.op("ReduceMean", net.x, net.const(np.array([0])), keepdims=1), width, 10))


def _heads(seed: int, floats: bool) -> Any:
    """Two blocks of a transformer with normalization before each part, and attention of several heads."""
    tokens, heads, depth = (16, 27, 50, 64, 35, 42)[seed % 6], (2, 4)[seed % 2], (16, 32)[seed // 2 % 2]
    width = heads * depth
    net = _Chain((tokens, width), seed, floats)
    split = net.const(np.array([tokens, heads, depth]))
    scale, shift = net.const(np.ones(width, np.float32)), net.const(np.zeros(width, np.float32))
    for _ in range(2):
        normed = net.mark(net.op("LayerNormalization", net.x, scale, shift, axis=-1))
        query, key, value = (
            net.op("Transpose", net.op("Reshape", net.linear(normed, width, width), split), perm=perm)
            for perm in ([1, 0, 2], [1, 2, 0], [1, 0, 2])
        )
        scores = net.op("Mul", net.op("MatMul", query, key), net.const(np.array(depth**-0.5, np.float32)))
        mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), value), perm=[1, 0, 2])
        joined = net.mark(net.op("Reshape", mixed, net.const(np.array([tokens, width]))))
        net.x = net.op("Add", net.x, net.linear(joined, width, width))
        net.any((0,))  # other zeros
        normed = net.mark(net.op("LayerNormalization", net.x, scale, shift, axis=-1))
        hidden = net.linear(normed, width, 2 * width)
        hidden = net.mark(net.op("Gelu", hidden)) if seed % 3 else net.relu(hidden)
        net.x = net.op("Add", net.x, net.linear(hidden, 2 * width, width))
    return net.model(net.linear(net.op("ReduceMean", net.x, net.const(np.array([0])), keepdims=1), width, 10))


def large() -> Iterator[tuple[str, Any]]:
    """Name and ``onnx.ModelProto`` of every large network; for devices, as an emulator would take too long."""
    for seed in range(LARGE):
        yield f"large_image{seed}", _large_image(100 + seed, seed % 3 == 2)
        yield f"large_rows{seed}", _large_rows(100 + seed, seed % 3 == 2)
        yield f"mobile{seed}", _mobile(seed, seed % 3 == 2)


def networks() -> Iterator[tuple[str, Any]]:
    """Name and ``onnx.ModelProto`` of every network; the same at each call. Some have float activations."""
    for seed in range(IMAGES):
        yield f"image{seed}", _image(seed, seed % 3 == 2)
    for seed in range(SHARED):
        yield f"shared{seed}", _shared(seed, seed >= SHARED - 3)
    for seed in range(TERMS):
        yield f"terms{seed}", _terms(seed, seed >= TERMS - 2)
    for seed in range(ROWS):
        yield f"rows{seed}", _rows(seed, seed % 3 == 2)
    for seed in range(TOKENS):
        yield f"tokens{seed}", _tokens(seed, seed % 3 == 2)
    for seed in range(HEADS):
        yield f"heads{seed}", _heads(seed, seed == 2)


def shortcuts() -> Iterator[tuple[str, Any]]:
    """Residual networks as name and ``onnx.ModelProto``, for profiles of boards, which compute shortcuts in parts."""
    for seed in range(SHORTCUTS):
        yield f"shortcut{seed}", _shortcuts(seed)
