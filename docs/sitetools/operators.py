"""Tables of operators and kernels, asked of the code: small networks are lowered for ``c``, each with one operator."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from sitetools.links import ROOT

ASKED = ROOT / "benchmarks" / "zoo" / "operators.json"
FORMS = ("floats", "bytes")
"""What an operator works on: floats, or tensors that are rounded to 8 bits, as its result is."""
Case = tuple[tuple[int, ...], list[Any], dict[str, Any]]
IMAGE = (1, 8, 6, 6)
ROW = (1, 8)
STEPS = (3, 1, 8)
WEIGHT = np.linspace(-1, 1, 8 * 8 * 9, dtype=np.float32).reshape(8, 8, 3, 3)
ONE = np.ones(8, np.float32)
SCALE, ZERO = np.full((), 0.1, np.float32), np.full((), 128, np.uint8)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
OTHERS = {"Add": ["x"], "Concat": ["x"], "Attention": ["x", "x"]}
"""Operators of several computed tensors: those beside the first one, as a residual is."""
SINCE = {"Swish": 24, "Attention": 23}
"""Operators that are newer than the version that others are asked for in."""
PAIR = ("QuantizeLinear", "DequantizeLinear")
"""Operators that are there in pairs, in both forms."""


def _cases() -> dict[str, Case]:
    """Input shape, constant inputs and attributes of a small node of every operator that is asked for."""
    ints = lambda *values: np.array(values, np.int64)  # noqa: E731
    plain = (
        "Identity Relu LeakyRelu Sigmoid Tanh Gelu HardSwish HardSigmoid Elu Exp Sqrt Softmax Abs Neg Erf Reciprocal"
    )
    plain += (
        " Softplus Softsign Swish Cos Log Sum GlobalAveragePool GlobalMaxPool Flatten Transpose ReduceMax ReduceMin"
    )
    plain += " ReduceMean ReduceSum LogSoftmax Add Concat Attention"
    cases: dict[str, Case] = {name: (IMAGE, [], {}) for name in plain.split()}
    cases |= {name: (IMAGE, [np.ones(IMAGE, np.float32)], {}) for name in ("Sub", "Mul", "Div", "Max", "Min")}
    cases |= {name: (IMAGE, [], {"kernel_shape": [2, 2], "strides": [2, 2]}) for name in ("MaxPool", "AveragePool")}
    cases |= {name: (IMAGE, [], {"axis": 1}) for name in ("ArgMax", "ArgMin", "Concat")}
    cases |= {name: (STEPS, _matrices(gates), {"hidden_size": 8}) for name, gates in GATES.items()}
    cases |= {name: (IMAGE, [SCALE, ZERO], {}) for name in PAIR}
    others: dict[str, Case] = {
        "Conv": (IMAGE, [WEIGHT], {"pads": [1, 1, 1, 1]}),
        "ConvTranspose": (IMAGE, [WEIGHT], {}),
        "Gemm": (ROW, [WEIGHT[:, :, 0, 0], ONE], {}),
        "MatMul": (ROW, [WEIGHT[:, :, 0, 0]], {}),
        "BatchNormalization": (IMAGE, [ONE, ONE, ONE, ONE], {}),
        "InstanceNormalization": (IMAGE, [ONE, ONE], {}),
        "GroupNormalization": (IMAGE, [ONE, ONE], {"num_groups": 2}),
        "LayerNormalization": (ROW, [ONE, ONE], {}),
        "Clip": (IMAGE, [np.float32(0), np.float32(6)], {}),
        "PRelu": (IMAGE, [ONE[:, None, None]], {}),
        "Pow": (IMAGE, [np.float32(2)], {}),
        "Pad": (IMAGE, [ints(0, 0, 1, 1, 0, 0, 1, 1)], {}),
        "Slice": (IMAGE, [ints(0), ints(2), ints(1)], {}),
        "Split": (IMAGE, [ints(8)], {"axis": 1}),
        "Expand": (IMAGE, [ints(2, 8, 6, 6)], {}),
        "Reshape": (IMAGE, [ints(1, 288)], {}),
        "Gather": (IMAGE, [ints(0, 2)], {"axis": 1}),
        "Resize": (IMAGE, [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {}),
        "DepthToSpace": (IMAGE, [], {"blocksize": 2}),
    }
    return dict(sorted((cases | others).items()))


def _matrices(gates: int) -> list[np.ndarray]:
    """The weights of a recurrent operator of eight units."""
    made = np.linspace(-1, 1, gates * 64, dtype=np.float32).reshape(1, gates * 8, 8)
    return [made, made[:, ::-1].copy()]


def model_of(name: str, form: str = "floats") -> bytes:
    """A network of a layer and one operator after it, as ONNX.

    Args:
        name: Of the operator.
        form: One of :data:`FORMS`.
    """
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    shape, constants, attributes = _cases()[name]
    kept = {f"c{index}": value for index, value in enumerate(constants)}
    first = np.ascontiguousarray(WEIGHT[:, :, :1, :1] if len(shape) == 4 else WEIGHT[:, :, 0, 0])
    nodes = [helper.make_node("Conv" if len(shape) == 4 else "MatMul", ["x", "first"], ["h"])]
    if name in PAIR:
        nodes += _rounded("h", "y")
    elif form == "bytes":
        nodes += [*_rounded("h", "h8"), *_rounded("x", "x8")]
        others = [f"{one}8" for one in OTHERS.get(name, [])] or list(kept)
        nodes.append(helper.make_node(name, ["h8", *others], ["z"], **attributes))
        nodes += _rounded("z", "y")
    else:
        nodes.append(helper.make_node(name, ["h", *(OTHERS.get(name) or kept)], ["y"], **attributes))
    made_of = {"first": first, "scale": SCALE, "zero": ZERO, **kept}
    known = shape if name == "GroupNormalization" else None  # a function in ONNX, whose shapes are not inferred
    result = TensorProto.INT64 if name.startswith("Arg") and form == "floats" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", result, known)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in made_of.items()],
        value_info=[helper.make_tensor_value_info("z", TensorProto.FLOAT, known)] if known else None,
    )
    opset = helper.make_opsetid("", SINCE.get(name, 22))
    return bytes(shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[opset])).SerializeToString())


def _rounded(tensor: str, result: str) -> list[Any]:
    """A tensor rounded to 8 bits, as numbers again."""
    from onnx import helper

    return [
        helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], [f"{tensor}_q"]),
        helper.make_node("DequantizeLinear", [f"{tensor}_q", "scale", "zero"], [result]),
    ]


def supported(target: str, operators: Sequence[str] | None = None) -> dict[str, tuple[bool, ...]]:
    """Which of :data:`FORMS` a target compiles, of each of some operators or of all that there is a case for."""
    from tvm_schedules import pipeline
    from tvm_schedules.errors import UnsupportedOperatorError
    from tvm_schedules.targets.registry import resolve

    def compiles(name: str, form: str) -> bool:
        if name.startswith("Arg") and form == "bytes":
            return False  # its result is a number of an element, and no tensor that is rounded
        try:
            pipeline.compile_graph(pipeline.read_graph(model_of(name, form)), spec)
        except UnsupportedOperatorError:
            return False
        return True

    spec = resolve(target)
    return {name: tuple(compiles(name, form) for form in FORMS) for name in operators or _cases()}


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


def compared() -> set[str]:
    """Operators that tests compare with onnxruntime over odd shapes, on CPUs and through OpenCL."""
    from tests.tvm_schedules.fallback.operator_cases import CASES

    return {node.op_type for build in CASES.values() for node in build().graph.node}


def tables() -> dict[str, Callable[[], str]]:
    """What makes the tables of back ends, by the name that their pages have for it."""
    from tvm_schedules.backends import registry

    back_ends = [module.split(".")[-2] for module in registry.MODULES]
    return {
        **{f"kernels_{name}": partial(_kernel_table, name) for name in back_ends},
        "operators_c": _operator_table,
        "compared": lambda: _listed(compared()),
        "accepted": lambda: _listed(set(_asked()["accepted"]) - compared()),
        "refused": lambda: _listed(set(_asked()["refused"]) - compared()),
    }


def _kernel_table(back_end: str) -> str:
    rows = [f"| `{name}` | {text} |" for name, text in sorted(kernels(back_end).items())]
    return "\n".join(["| Kernel | |", "|---|---|", *rows]) + "\n"


def _operator_table() -> str:
    rows = [
        f"| {name} | {' | '.join('yes' if there else '' for there in forms)} |"
        for name, forms in supported("c").items()
    ]
    return "\n".join(["| Operator | on floats | on bytes |", "|---|---|---|", *rows]) + "\n"


def _asked() -> dict[str, list[str]]:
    return dict(json.loads(ASKED.read_text()))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) + "\n"
