"""Attributes that change a shape, between guard pages: what TVM takes a result for is what ONNX says, or an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.fallback.operator_cases import f, graph, ints
from tests.tvm_schedules.fallback.program_runner import compile_onnx
from tests.tvm_schedules.fallback.test_operators import inputs_of, reference
from tests.tvm_schedules.guarded import guarded
from tvm_schedules import compat
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.targets.registry import resolve

FLOAT, I64 = TensorProto.FLOAT, TensorProto.INT64


def several(
    op: str, shape: tuple[int, ...], runs: list[dict[str, Any]], *more: np.ndarray, opset: int = 22, out: int = FLOAT
) -> Any:
    """One network with a node for every set of attributes, all of which read ``x``."""
    constants = {f"c{i}": value for i, value in enumerate(more)}
    nodes = [
        helper.make_node(op, ["x", *constants], [f"y{i}"], name=f"node{i}", **attributes)
        for i, attributes in enumerate(runs)
    ]
    names = [f"y{i}" for i in range(len(runs))]
    return graph(nodes, {"x": shape}, " ".join(names), constants, dict.fromkeys(names, out), opset)


PADS = [
    {"pads": [1, 0, 2, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 1]},
    {"auto_pad": "VALID", "strides": [1, 2]},
]
POOLS = [{"kernel_shape": [3, 2], **p} for p in PADS] + [
    {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "dilations": [2, 3]},
]
TRANSPOSED = [
    {},
    {"strides": [2, 3]},
    {"strides": [2, 3], "output_padding": [1, 2]},
    {"strides": [3, 2], "pads": [1, 0, 0, 2], "dilations": [2, 1]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID", "strides": [2, 1]},
    {"output_shape": [9, 8], "strides": [2, 2]},
    {"output_shape": [10, 7], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"output_shape": [10, 9], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"output_shape": [6, 5]},
    {"output_shape": [11, 9], "strides": [2, 2], "output_padding": [1, 1]},
]
NETWORKS: dict[str, Any] = {
    "Conv": lambda: several("Conv", (1, 4, 9, 8), [*PADS, {"dilations": [2, 1]}], f(3, 4, 3, 2), f(3)),
    "Conv, groups": lambda: several("Conv", (1, 4, 9, 8), [{"group": 2, **p} for p in PADS], f(6, 2, 3, 2)),
    "ConvTranspose": lambda: several("ConvTranspose", (1, 4, 5, 4), TRANSPOSED, f(4, 3, 3, 3), f(3)),
    "ConvTranspose, groups": lambda: several(
        "ConvTranspose", (1, 4, 5, 4), [{"group": 2, **t} for t in TRANSPOSED[6:9]], f(4, 3, 3, 3)
    ),
    "ConvTranspose, one dimension": lambda: several(
        "ConvTranspose", (1, 2, 5), [{"output_shape": [9], "strides": [2]}, {"strides": [2]}], f(2, 3, 3)
    ),
    "MaxPool": lambda: several("MaxPool", (1, 2, 9, 8), POOLS),
    "AveragePool": lambda: several("AveragePool", (1, 2, 9, 8), [*POOLS[:5], {**POOLS[0], "count_include_pad": 1}]),
    "LpPool": lambda: several("LpPool", (1, 2, 9, 8), [{"kernel_shape": [3, 2], "pads": [1, 0, 1, 0]}], opset=18),
    "Flatten": lambda: several("Flatten", (2, 3, 4), [{"axis": a} for a in (0, 1, 2, 3, -1)]),
    "Concat": lambda: several("Concat", (2, 3), [{"axis": a} for a in (0, 1, -1)], f(2, 3)),
    "Transpose": lambda: several("Transpose", (2, 3, 4), [{"perm": [1, 2, 0]}, {"perm": [2, 1, 0]}, {}]),
    "ReduceSum": lambda: several("ReduceSum", (2, 3, 4), [{"keepdims": k} for k in (0, 1)], ints(-1, 0)),
    "ReduceMax": lambda: several("ReduceMax", (2, 3, 4), [{"keepdims": k, "noop_with_empty_axes": k} for k in (0, 1)]),
    "ArgMax": lambda: several(
        "ArgMax", (2, 3, 4), [{"axis": a, "keepdims": k} for a in (0, -1) for k in (0, 1)], out=I64
    ),
    "DepthToSpace": lambda: several(
        "DepthToSpace", (1, 8, 2, 3), [{"blocksize": 2, "mode": m} for m in ("DCR", "CRD")]
    ),
    "SpaceToDepth": lambda: several("SpaceToDepth", (1, 2, 4, 6), [{"blocksize": 2}]),
    "Resize": lambda: several(
        "Resize", (1, 1, 4, 5),
        [
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        ],
        np.float32([]), np.float32([1, 1, 2, 1.6]),
    ),
    "Softmax": lambda: several("Softmax", (2, 3, 4), [{"axis": a} for a in (0, 1, -1)]),
    "CumSum": lambda: several(
        "CumSum", (2, 5), [{"exclusive": e, "reverse": r} for e in (0, 1) for r in (0, 1)], np.int64(1)
    ),
    "Gemm": lambda: several(
        "Gemm", (4, 4), [{"transA": a, "transB": b} for a in (0, 1) for b in (0, 1)], f(4, 4), f(4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_attributes(name: str) -> None:
    model = onnx.shape_inference.infer_shapes(NETWORKS[name]())
    x = inputs_of(model)["x"]
    wanted = reference(model, {"x": x})
    for have, want in zip(guarded(model, x), wanted, strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4)


def test_larger_output_shape_than_there_is_is_refused_by_name() -> None:
    model = several("ConvTranspose", (1, 4, 5, 4), [{"output_shape": [30, 30]}], f(4, 3, 3, 3))
    with pytest.raises(UnsupportedOperatorError, match=r"'node0'.*ConvTranspose.*\[1, 3, 7, 6\].*\[1, 3, 30, 30\]"):
        compile_onnx(model)


def test_every_operator_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A front end that gets an inner shape or type wrong, which no output shows."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"], name="first"),
        helper.make_node("Sin", ["a"], ["b"], name="second"),
        helper.make_node("ReduceSum", ["b"], ["y"], name="third"),
    ]
    model = graph(nodes, {"x": (3, 5)})
    compile_onnx(model)
    right = compat.output_tensors
    for wrong in (((3, 7), "float32"), ((3, 5), "float64")):

        def tensors(module: Any, wrong: Any = wrong) -> Any:
            found = right(module)
            assert len(found) == 4  # the output, and the three results
            return [found[0], found[1], wrong, found[3]]

        monkeypatch.setattr(compat, "output_tensors", tensors)
        with pytest.raises(UnsupportedOperatorError, match=r"'second'.*Sin.*where ONNX says float32\[3, 5\]"):
            compile_onnx(model)


def test_a_network_keeps_its_outputs_only() -> None:
    """What the comparison asks for besides is not computed at run time."""
    nodes = [helper.make_node("Tanh", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    model = graph(nodes, {"x": (3, 5)})
    plan = compile_model(onnx.shape_inference.infer_shapes(model), resolve("host")).plan
    assert [entry.name for entry in plan.outputs] == ["y"]
    assert len(plan.steps) == 1
