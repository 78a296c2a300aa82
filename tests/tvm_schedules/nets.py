"""Builds small ONNX networks of the contract's form, and runs them in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from tests.properties import more_data
from tvm_schedules.bench import networks

if TYPE_CHECKING:
    from tvm_schedules.backends.cpu.compile import CpuCompiled


def pack_int2(codes: np.ndarray) -> bytes:
    """Four codes a byte, least significant first, written anew here so that tests do not lean on the package."""
    flat = codes.ravel().astype(np.int64) & 3
    flat = np.concatenate([flat, np.zeros(-len(flat) % 4, np.int64)])
    return bytes((flat[0::4] | flat[1::4] << 2 | flat[2::4] << 4 | flat[3::4] << 6).astype(np.uint8))


class Net(networks.Net):
    """A network under construction, with random weights; methods take and return tensor names."""

    packed = staticmethod(pack_int2)

    def weight(
        self, shape: tuple[int, ...], zeros: float | None, terms: int = 1, int8: bool = False, shared: int = 1,
        unequal: bool = False,
    ) -> str:  # fmt: skip
        """A random weight: ternary with that share of zeros, or dense (float or int8) where it is None.

        So many neighboring output channels have their zeros at the same places, ``shared``. With ``unequal`` the first
        term is two: its positive codes, and its negative ones with levels of their own.
        """
        scale = self.rng.uniform(0.5, 1.5, shape[0]) / np.sqrt(np.prod(shape[1:]))
        if zeros is None and int8:
            values = self.rng.integers(-127, 128, shape).astype(np.int8)
            return self.int8(values, scale / 64)
        if zeros is None:
            return self.const((self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
        codes = self.codes(shape, zeros, shared)
        out = self.ternary(np.maximum(codes, 0) if unequal else codes, scale)
        if unequal:
            out = self.op("Add", out, self.ternary(np.minimum(codes, 0), scale * 0.7))
        for t in range(1, terms):
            out = self.op("Add", out, self.ternary(self.codes(shape, zeros, shared), scale / 2**t))
        return out

    def bias(self, channels: int) -> str:
        return self.const(self.rng.normal(size=channels).astype(np.float32) * 0.3)


class Reference:
    """A model in onnxruntime without graph optimization: every operator as the standard says."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        return self.session.run(None, {i.name: x for i, x in zip(self.session.get_inputs(), inputs, strict=True)})


def run_onnx(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs of :class:`Reference` for one call."""
    return Reference(model)(*inputs)


def compared(
    model: onnx.ModelProto, runner: Runner, inputs: Sequence[np.ndarray], fixed: Sequence[int] = ()
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What onnxruntime and a compiled network make, output by output: of these inputs, and in a search of many more.

    Args:
        model: The network.
        runner: The same, compiled.
        inputs: Its inputs; others are like them.
        fixed: Places of inputs that stay as they are.
    """
    reference = Reference(model)
    for arrays in more_data(inputs, fixed):
        yield from zip(reference(*arrays), runner(*arrays), strict=True)


class Runner:
    """Compiles a model with :mod:`tvm_schedules.backends.cpu.compile` and runs it, without an artifact."""

    def __init__(self, model: onnx.ModelProto | CpuCompiled, target: str = "host") -> None:
        from tests.tvm_schedules.compiling import compile_model
        from tvm_schedules import compat
        from tvm_schedules.packing import registry as constants
        from tvm_schedules.targets.registry import resolve

        made = isinstance(model, onnx.ModelProto)
        self.compiled = compile_model(model, resolve(target)) if made else model
        plan = self.compiled.plan
        self.plan = plan
        self.tensor = compat.tensor
        self.outputs = [compat.tensor(np.zeros(o.shape, o.dtype)) for o in plan.outputs]
        # Garbage in the memory: what a kernel does not write must not matter.
        noise = np.random.default_rng(0).integers(0, 256, plan.arena_bytes).astype(np.uint8)
        self.arena = compat.tensor(noise)
        self.constants = compat.tensor(constants.expand(plan.constants, plan.constant_bytes, self.compiled.arrays))
        self.function = self.function_of(self.compiled)

    @staticmethod
    def function_of(compiled: CpuCompiled) -> Callable[..., object]:
        """What runs the network; ``tests/x86`` has another one."""
        from tvm_schedules.backends.cpu.compile import ENTRY

        return compiled.module[ENTRY]

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        tensors = [self.tensor(x) for x in inputs]
        self.function(*tensors, *self.outputs, self.arena, self.constants, 0, len(self.plan.steps))
        return [o.numpy().copy() for o in self.outputs]


def resnet(
    blocks: list[tuple[int, int]], dims: int, zeros: float, stem: int = 16, int8: bool = True, seed: int = 0
) -> onnx.ModelProto:
    """A CIFAR-style residual network with 8-bit activations; ``blocks`` are (channels, stride)."""
    net = Net((1, 3, dims, dims), seed=seed)
    x = net.quantize("input_0", 0.02, 128)
    x = net.op(
        "Relu", net.op("Conv", x, net.weight((stem, 3, 3, 3), None, int8=int8), net.bias(stem), pads=[1, 1, 1, 1])
    )
    x, channels = net.quantize(x), stem
    for out, stride in blocks:
        w1, w2 = net.weight((out, channels, 3, 3), zeros), net.weight((out, out, 3, 3), zeros)
        h = net.op("Relu", net.op("Conv", x, w1, net.bias(out), pads=[1] * 4, strides=[stride] * 2))
        h = net.op("Conv", net.quantize(h), w2, net.bias(out), pads=[1] * 4)
        if stride > 1 or channels != out:
            x = net.op("Conv", x, net.weight((out, channels, 1, 1), zeros), net.bias(out), strides=[stride] * 2)
        x, channels = net.quantize(net.op("Relu", net.op("Add", h, x))), out
    x = net.quantize(net.op("Flatten", net.op("GlobalAveragePool", x)))
    return net.model(net.op("Gemm", x, net.weight((10, channels), None, int8=int8), net.bias(10), transB=1))


def few_bits() -> onnx.ModelProto:
    """Layers whose inputs have one bit, are ternary, have two bits: exact sums beside the edges of rounding."""
    net = Net((1, 24, 11, 13), seed=5)

    def rounded(x: str, zero: int, top: int) -> str:
        low, high = (net.const(np.float32(q - zero)) for q in (0, top))
        return net.quantize(net.op("Clip", x, low, high), 1.0, zero)

    first = net.ternary(net.codes((40, 24, 3, 3), 0.4), np.full(40, 0.125))
    second = net.ternary(net.codes((16, 40, 1, 1), 0.4), np.full(16, 0.25))
    last = net.ternary(net.codes((70, 16 * 6 * 7), 0.4), np.full(70, 0.5))
    biases = [net.const(np.full(n, 0.0625, np.float32)) for n in (40, 16)]
    x = net.op("Conv", rounded("input_0", 0, 1), first, biases[0], pads=[1] * 4, strides=[2, 2])
    x = net.op("Conv", rounded(x, 1, 2), second, biases[1])
    return net.model(net.op("Gemm", rounded(net.op("Flatten", x), 0, 3), last, transB=1))
