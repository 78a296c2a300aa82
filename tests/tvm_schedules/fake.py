"""A compiler small enough to read at a glance, for tests of everything around the real one.

It knows one network, ``y = relu(x @ (W * scale) + bias)``, and emits it as two steps of a hand-written ``tern_main``.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tvm_schedules import compat
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.ir import ternary_codec as huffman
from tvm_schedules.ir.graph import Graph, Linear
from tvm_schedules.ir.plan import Plan
from tvm_schedules.ir.ternary_tensor import TernaryTensor, pack_int2

N, K = 3, 8


def model(batch: int | str = 1, seed: int = 0) -> onnx.ModelProto:
    """MatMul with a ternary weight, bias and ReLU, by the ONNX contract."""
    random = np.random.default_rng(seed)
    codes = random.integers(-1, 2, (K, N)).astype(np.int8)
    codes[0, :], codes[1, :] = 1, -1
    scale = random.uniform(0.5, 1.5, N).astype(np.float32)
    weight = helper.make_tensor("fc.weight", TensorProto.INT2, [K, N], pack_int2(codes).tobytes(), raw=True)
    arrays = [onnx.numpy_helper.from_array(scale, "fc.weight_scale")]
    arrays += [onnx.numpy_helper.from_array(random.standard_normal(N).astype(np.float32), "fc.bias")]
    nodes = [
        helper.make_node("DequantizeLinear", ["fc.weight", "fc.weight_scale"], ["fc.w"], name="fc/dequantize", axis=1),
        helper.make_node("MatMul", ["x", "fc.w"], ["fc.out"], name="fc/matmul"),
        helper.make_node("Add", ["fc.out", "fc.bias"], ["fc.sum"], name="fc/add"),
        helper.make_node("Relu", ["fc.sum"], ["y"], name="relu"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, K])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, N])
    graph = helper.make_graph(nodes, "fake", [x], [y], [weight, *arrays])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)


@dataclass
class Compiled:
    """As the real compiler's."""

    module: Any
    plan: Plan
    arrays: dict[str, np.ndarray]
    wakes: bool = True


def compile_graph(graph: Graph, target: Any, error: float = 0.0) -> Compiled:
    """Compile :func:`model`; ``error`` is added to the bias, to make a library that is wrong."""
    import tvm

    (node,) = graph.nodes
    assert isinstance(node, Linear)
    tensor = node.weight
    assert isinstance(tensor, TernaryTensor)
    batch = graph.values[graph.inputs[0]].shape[0]
    scale, bias = tensor.positive[0], node.bias + np.float32(error)

    def matmul(e: compat.Emitter, x: Any, w: Any, y: Any) -> None:
        xs, ws, ys = (e.view(p, size, "float32") for p, size in ((x, batch * K), (w, (K + 1) * N), (y, batch * N)))
        with e.loop(batch) as b, e.loop(N) as n:
            total = e.load(ws, K * N + n)
            for k in range(K):
                total = total + e.load(xs, b * K + k) * e.load(ws, k * N + n)
            e.store(ys, b * N + n, total)

    def relu(e: compat.Emitter, x: Any, y: Any) -> None:
        xs, ys = e.view(x, batch * N, "float32"), e.view(y, batch * N, "float32")
        with e.loop(batch * N) as i:
            e.store(ys, i, e.max(e.load(xs, i), e.const(0.0, "float32")))

    steps = {
        "matmul": compat.private_function([(name, "float32") for name in ("x", "w", "y")], matmul),
        "relu": compat.private_function([(name, "float32") for name in ("x", "y")], relu),
    }
    functions = {name: (tvm.ir.GlobalVar(name), function) for name, function in steps.items()}
    arena_bytes, constant_bytes = 4 * batch * N, 4 * (K + 1) * N

    def main(e: compat.Emitter, x: Any, y: Any, arena: Any, constant: Any, begin: Any, end: Any) -> None:
        inner, weights = e.b.address_of(arena[0]), e.b.address_of(constant[0])
        calls = [("matmul", [x.data, weights, inner]), ("relu", [inner, y.data])]
        for index, (name, pointers) in enumerate(calls):
            with e.when(e.t.And(begin <= index, e.t.LT(e.expr(index), end))):
                compat.call_private(*functions[name], pointers)

    buffers = [("x", (batch, K), "float32"), ("y", (batch, N), "float32")]
    buffers += [("arena", (arena_bytes,), "uint8"), ("constants", (constant_bytes,), "uint8")]
    exported = compat.main_function("tern_main", buffers, ("begin", "end"), main)
    layer = {
        "name": "fc",
        "shape": [K, N],
        "terms": 1,
        "sparsity": tensor.sparsity(),
        "entropy": tensor.entropy(),
        "bits": 2,
        "levels": [float(scale.min()), float(scale.max())],
        "kernel": "fake_f32",
        "reason": "the only one",
        "bytes": tensor.nbytes(),
    }
    step = {
        "reason": "the only one",
        "op": "MatMul",
        "macs": batch * K * N,
        "nonzero_macs": batch * int(np.abs(tensor.codes).sum()),
    }
    plan = Plan.from_json(
        {
            "inputs": [{"name": "x", "shape": [batch, K], "dtype": "float32"}],
            "outputs": [{"name": "y", "shape": [batch, N], "dtype": "float32"}],
            "memory": {"arena_bytes": arena_bytes, "constant_bytes": constant_bytes},
            "steps": [
                {"name": "fc", "kernel": "fake_f32", "bytes_weights": tensor.nbytes(), **step},
                {
                    "name": "relu",
                    "kernel": "relu_f32",
                    "bytes_weights": 0,
                    **step,
                    "op": "Relu",
                    "macs": 0,
                    "nonzero_macs": 0,
                },
            ],
            "layers": [layer],
        }
    )
    arrays = {"codes": tensor.stored["codes"], "scale": scale, "bias": bias}
    return Compiled(compat.build_module(functions, exported, target.tvm), plan, arrays)


def expand(constants: Any, nbytes: int, arrays: Any) -> np.ndarray:
    """As :func:`tvm_schedules.packing.registry.expand`."""
    weight = huffman.decode(arrays["codes"], 1, K * N).reshape(N, K).T * arrays["scale"]
    return np.concatenate([weight, arrays["bias"][None]]).astype(np.float32).reshape(-1).view(np.uint8)


def install(replace: Callable[[Any, str, Any], None], error: float = 0.0) -> None:
    """Put this compiler in the real one's place, by ``replace(modules, name, module)``."""

    def usual(graph: Graph, target: Any, *_: Any, **__: Any) -> Compiled:
        return compile_graph(graph, target, error)

    compiler = types.ModuleType("tvm_schedules.backends.cpu.compile")
    compiler.compile_graph = usual  # type: ignore[attr-defined]
    constants = types.ModuleType("tvm_schedules.packing.registry")
    constants.expand = expand  # type: ignore[attr-defined]
    replace(sys.modules, "tvm_schedules.backends.cpu.compile", compiler)
    replace(sys.modules, "tvm_schedules.packing.registry", constants)


def reference(x: np.ndarray, proto: onnx.ModelProto) -> np.ndarray:
    """The network in numpy."""
    constants = onnxtools.constant_arrays(proto)
    return np.maximum(x @ constants["fc.w"] + constants["fc.bias"], 0)
