"""Which operators target ``c`` has, found by asking it: small networks are compiled, each with one operator."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sitetools.links import DOCS, write_changed

PAGES = DOCS / "generated" / "operators"
Case = tuple[tuple[int, ...], list[Any], dict[str, Any]]
IMAGE = (1, 8, 6, 6)
ROW = (1, 8)
WEIGHT = np.zeros((8, 8, 3, 3), np.float32)
ONE = np.ones(8, np.float32)


def _cases() -> dict[str, Case]:
    """Input shape, constant inputs and attributes of a small node of every operator that is asked for."""
    ints = lambda *values: np.array(values, np.int64)  # noqa: E731
    zero, scale = np.zeros((), np.uint8), np.full((), 0.1, np.float32)
    plain = ["Identity", "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "HardSwish", "Elu", "Exp", "Sqrt", "Softmax"]
    cases: dict[str, Case] = {name: (IMAGE, [], {}) for name in plain}
    cases |= {name: (IMAGE, [np.ones(IMAGE, np.float32)], {}) for name in ("Add", "Sub", "Mul", "Div", "Max")}
    cases |= {name: (IMAGE, [], {"kernel_shape": [2, 2], "strides": [2, 2]}) for name in ("MaxPool", "AveragePool")}
    cases |= {name: (IMAGE, [], {}) for name in ("GlobalAveragePool", "GlobalMaxPool", "Flatten")}
    cases |= {name: (IMAGE, [ONE, ONE], {}) for name in ("InstanceNormalization",)}
    others: dict[str, Case] = {
        "Conv": (IMAGE, [WEIGHT], {"pads": [1, 1, 1, 1]}),
        "ConvTranspose": (IMAGE, [WEIGHT], {}),
        "Gemm": (ROW, [WEIGHT[:, :, 0, 0], ONE], {}),
        "MatMul": (ROW, [WEIGHT[:, :, 0, 0]], {}),
        "BatchNormalization": (IMAGE, [ONE, ONE, ONE, ONE], {}),
        "LayerNormalization": (ROW, [ONE, ONE], {}),
        "Clip": (IMAGE, [np.float32(0), np.float32(6)], {}),
        "PRelu": (IMAGE, [ONE[:, None, None]], {}),
        "Concat": (IMAGE, [np.ones(IMAGE, np.float32)], {"axis": 1}),
        "Pad": (IMAGE, [ints(0, 0, 1, 1, 0, 0, 1, 1)], {}),
        "Slice": (IMAGE, [ints(0), ints(2), ints(1)], {}),
        "Reshape": (IMAGE, [ints(1, 288)], {}),
        "Transpose": (IMAGE, [], {"perm": [0, 2, 3, 1]}),
        "Gather": (IMAGE, [ints(0, 2)], {"axis": 1}),
        "ReduceMean": (IMAGE, [ints(2, 3)], {}),
        "Resize": (IMAGE, [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {}),
        "QuantizeLinear": (IMAGE, [scale, zero], {}),
        "DepthToSpace": (IMAGE, [], {"blocksize": 2}),
    }
    return cases | others


def model_of(name: str) -> bytes:
    """A network of a layer and one operator after it, as ONNX."""
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    shape, constants, attributes = _cases()[name]
    names = [f"c{index}" for index in range(len(constants))]
    first = WEIGHT[:, :, :1, :1] if len(shape) == 4 else WEIGHT[:, :, 0, 0]
    before = helper.make_node("Conv" if len(shape) == 4 else "MatMul", ["x", "first"], ["h"])
    others = ["x"] if name == "Add" else names  # a sum of two images, as a residual is
    nodes = [before, helper.make_node(name, ["h", *others], ["y"], **attributes)]
    kept = [numpy_helper.from_array(np.ascontiguousarray(first), "first")]
    kept += [numpy_helper.from_array(np.asarray(value), key) for key, value in zip(names, constants, strict=True)]
    if name == "QuantizeLinear":  # and back, so that the output is float
        nodes[1].output[0] = "q"
        nodes.append(helper.make_node("DequantizeLinear", ["q", *names], ["y"]))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        kept,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return bytes(shape_inference.infer_shapes(made).SerializeToString())


def supported(target: str, operators: Sequence[str] | None = None) -> dict[str, bool]:
    """Whether a target compiles each of some operators, or of all that there is a case for."""
    import tvm_schedules
    from tvm_schedules.errors import UnsupportedOperatorError

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in operators or sorted(_cases()):
            try:
                tvm_schedules.build(model_of(name), output=Path(folder) / name, target=target, verify=False)
            except UnsupportedOperatorError:
                found[name] = False
            else:
                found[name] = True
    return found


def kernels(back_end: str) -> dict[str, str]:
    """The kernels of a back end by the name that artifacts show, with what each says of itself."""
    package = importlib.import_module(f"tvm_schedules.backends.{back_end}.kernels")
    modules = [
        importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)
    ]
    return {
        str(module.NAME): re.sub(r":\w+:`\.?(\w+)`", r"`\1`", str(inspect.getdoc(module)).splitlines()[0])
        for module in modules
        if hasattr(module, "NAME") and hasattr(module, "emit")
    }


def write_pages() -> None:
    """Write the tables that the pages of back ends include."""
    from tvm_schedules.backends import registry
    from tvm_schedules.compat.operators import known_onnx_operators

    found = supported("c")
    lines = ["| Operator | target `c` |", "|---|---|"]
    lines += [f"| {name} | {'yes' if there else ''} |" for name, there in found.items()]
    write_changed(PAGES / "c.txt", "\n".join(lines) + "\n")
    for back_end in (module.split(".")[-2] for module in registry.MODULES):
        rows = [f"| `{name}` | {text} |" for name, text in sorted(kernels(back_end).items())]
        write_changed(PAGES / f"kernels-{back_end}.txt", "\n".join(["| Kernel | |", "|---|---|", *rows]) + "\n")
    names = sorted(name for name in known_onnx_operators() if "." not in name)
    write_changed(PAGES / "general.txt", ", ".join(f"`{name}`" for name in names) + "\n")
