"""Indices and divisors that are out of range: nothing outside of the buffers is touched, and the process lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.tvm_schedules.backends.gpu.runners import GpuRunner
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.guarded import guarded as guarded_all
from tests.tvm_schedules.nets import run_onnx
from tvm_schedules.errors import ModelError
from tvm_schedules.targets.registry import resolve

F, I64, I32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
OUT = [5, 11, -6, -100, 10**6, 2**31, 10**12, 2**63 - 1, -(2**63)]


def model(
    op: str, inputs: dict[str, tuple[int, tuple[int, ...]]], out: tuple[int, tuple[int, ...]],
    constants: dict[str, Any] | None = None, order: str = "", **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, (order or " ".join(inputs)).split(), ["y"], name="here", **attributes)],
        "g",
        [info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [info("y", *out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def guarded(made: onnx.ModelProto, *inputs: np.ndarray) -> np.ndarray:
    """The only output."""
    return guarded_all(made, *inputs)[0]


def ordinary(shape: tuple[int, ...], count: int, dtype: str = "int64") -> np.ndarray:
    return np.random.default_rng(1).integers(-count, count, shape).astype(dtype)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def broken(indices: np.ndarray) -> list[np.ndarray]:
    """Copies with one index that is out of range."""
    copies = []
    for k, bad in enumerate(OUT):
        bounds = np.iinfo(indices.dtype)
        copy = indices.copy()
        copy.reshape(-1)[k % copy.size] = min(max(bad, int(bounds.min)), int(bounds.max))
        copies.append(copy)
    return copies


Reading = tuple[onnx.ModelProto, Callable[[np.ndarray, np.ndarray], np.ndarray], tuple[int, ...], tuple[int, ...]]


def clipped(i: np.ndarray, n: int) -> np.ndarray:
    i = np.clip(i, -n, n - 1)
    return np.where(i < 0, i + n, i)


READ: dict[str, Reading] = {
    "Gather": (
        model("Gather", {"x": (F, (5, 3)), "i": (I64, (2, 4))}, (F, (2, 4, 3))),
        lambda x, i: x[clipped(i, 5)], (5, 3), (2, 4),
    ),
    "Gather axis": (
        model("Gather", {"x": (F, (3, 5)), "i": (I32, (4,))}, (F, (3, 4)), axis=-1),
        lambda x, i: x[:, clipped(i, 5)], (3, 5), (4,),
    ),
    "GatherElements": (
        model("GatherElements", {"x": (F, (5, 3)), "i": (I64, (4, 3))}, (F, (4, 3)), axis=0),
        lambda x, i: np.take_along_axis(x, clipped(i, 5), 0), (5, 3), (4, 3),
    ),
    "GatherND": (
        model("GatherND", {"x": (F, (5, 5, 3)), "i": (I64, (4, 2))}, (F, (4, 3))),
        lambda x, i: x[tuple(clipped(i, 5).T)], (5, 5, 3), (4, 2),
    ),
    "GatherND batch": (
        model("GatherND", {"x": (F, (2, 5, 3)), "i": (I64, (2, 4, 1))}, (F, (2, 4, 3)), batch_dims=1),
        lambda x, i: np.stack([a[clipped(j[:, 0], 5)] for a, j in zip(x, i, strict=True)]), (2, 5, 3), (2, 4, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_reads_are_clamped(name: str) -> None:
    made, wanted, data, indices = READ[name]
    kind = helper.tensor_dtype_to_np_dtype(made.graph.input[1].type.tensor_type.elem_type)
    x, i = numbers(*data), ordinary(indices, 5, kind)
    np.testing.assert_array_equal(guarded(made, x, i), run_onnx(made, x, i)[0])
    for bad in broken(i):
        np.testing.assert_array_equal(guarded(made, x, bad), wanted(x, bad), err_msg=str(bad))


def test_embedding_that_is_a_constant() -> None:
    table = numbers(5, 3)
    made = model("Gather", {"i": (I64, (4,))}, (F, (4, 3)), {"w": table}, "w i")
    for bad in broken(ordinary((4,), 5)):
        np.testing.assert_array_equal(guarded(made, bad), table[clipped(bad, 5)])


def scattered(x: np.ndarray, i: np.ndarray, u: np.ndarray, axis: int | None, reduction: str) -> np.ndarray:
    """What ONNX says, one update after another; those out of range are left out."""
    join = {"none": lambda a, b: b, "add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[reduction]
    y = x.copy()
    for place in np.ndindex(i.shape if axis is not None else i.shape[:-1]):
        at: tuple[Any, ...] = tuple(i[place]) if axis is None else (*place[:axis], i[place], *place[axis + 1 :])
        if all(-n <= a < n for a, n in zip(at, x.shape, strict=False)):
            y[at] = join(y[at], u[place])
    return y


SCATTERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int | None]] = {
    "elements": ((5, 3), (4, 2), (4, 2), 0),
    "elements, last axis": ((2, 3, 5), (2, 2, 7), (2, 2, 7), 2),
    "nd, rows": ((5, 3), (4, 1), (4, 3), None),
    "nd, elements": ((5, 5), (2, 3, 2), (2, 3), None),
}


def scatter_model(name: str, reduction: str) -> onnx.ModelProto:
    data, indices, updates, axis = SCATTERS[name]
    inputs = {"x": (F, data), "i": (I64, indices), "u": (F, updates)}
    op, more = ("ScatterND", {}) if axis is None else ("ScatterElements", {"axis": axis})
    return model(op, inputs, (F, data), reduction=reduction, **more)


SCATTER_RUNS = [(name, "none") for name in SCATTERS] + [("elements", r) for r in ("add", "mul", "max")]
SCATTER_RUNS += [("nd, rows", "add"), ("nd, elements", "min")]


@pytest.mark.parametrize(("name", "reduction"), SCATTER_RUNS)
def test_scatter(name: str, reduction: str) -> None:
    data, indices, updates, axis = SCATTERS[name]
    made, x, u = scatter_model(name, reduction), numbers(*data), numbers(*updates)
    i = ordinary(indices, 5)
    np.testing.assert_allclose(guarded(made, x, i, u), run_onnx(made, x, i, u)[0], rtol=1e-6)
    for bad in broken(i):
        np.testing.assert_allclose(guarded(made, x, bad, u), scattered(x, bad, u, axis, reduction), rtol=1e-6)


@pytest.mark.parametrize("name", ["elements, last axis", "nd, rows"])
def test_scatter_on_opencl(name: str) -> None:
    data, indices, updates, axis = SCATTERS[name]
    x, u, i = numbers(*data), numbers(*updates), ordinary(indices, 5)
    for reduction in ("none", "add"):
        made = scatter_model(name, reduction)
        for at in (i, broken(i)[3]):
            wanted = scattered(x, at, u, axis, reduction)
            np.testing.assert_allclose(GpuRunner(made, "opencl")(x, at, u)[0], wanted, rtol=1e-5)


def test_assignment_through_indices_of_a_network() -> None:
    """``x[:, i] = 0`` and ``index_add`` are scatters; their indices may be computed."""
    made = scatter_model("nd, rows", "add")
    made.graph.node.insert(0, helper.make_node("Abs", ["i"], ["j"]))
    made.graph.node[1].input[1] = "j"
    x, i, u = numbers(5, 3), ordinary((4, 1), 4), numbers(4, 3)
    np.testing.assert_allclose(guarded(made, x, i, u), run_onnx(made, x, i, u)[0], rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_hot(axis: int) -> None:
    shape = {0: (5, 2, 4), 1: (2, 5, 4), -1: (2, 4, 5)}[axis]
    constants = {"d": np.int64(5), "v": np.float32([-1, 3])}
    made = model("OneHot", {"i": (I64, (2, 4))}, (F, shape), constants, "i d v", axis=axis)
    i = ordinary((2, 4), 5)
    for indices in (i, *broken(i)):
        np.testing.assert_array_equal(guarded(made, indices), run_onnx(made, indices)[0])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_division_of_integers(op: str, dtype: str) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = model(op, {"a": (kind, (6,)), "b": (kind, (6,))}, (kind, (6,)))
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    a = np.array([7, low, high, 100, 9, low], dtype)
    b = np.array([2, 3, 5, 7, 4, high], dtype)
    np.testing.assert_array_equal(guarded(made, a, b), run_onnx(made, a, b)[0])
    zero = np.array([0, 3, 0, 7, 0, 0], dtype)
    good = zero != 0
    found = guarded(made, a, zero)
    np.testing.assert_array_equal(found[good], run_onnx(made, a, np.where(good, zero, 1).astype(dtype))[0][good])
    if low:
        minus = np.full(6, -1, dtype)  # the smallest number has no negative
        ours = guarded(made, a, minus)
        np.testing.assert_array_equal(ours, -a if op == "Div" else np.zeros(6, dtype))


def test_constant_indices_out_of_range_are_named() -> None:
    made = model("Gather", {"x": (F, (5, 3))}, (F, (2, 3)), {"i": np.int64([1, 5])}, "x i")
    with pytest.raises(ModelError, match=r"'here'.*Gather.*between 1 and 5.*\[-5, 5\)"):
        compile_model(made, resolve("host"))


def test_roi_align_reads_no_other_image() -> None:
    inputs = {"x": (F, (2, 1, 5, 5)), "r": (F, (3, 4)), "i": (I64, (3,))}
    made = model("RoiAlign", inputs, (F, (3, 1, 2, 2)), output_height=2, output_width=2, sampling_ratio=2)
    x, rois = numbers(2, 1, 5, 5), np.tile(np.float32([0, 0, 4, 4]), (3, 1))
    i = np.int64([0, 1, 1])
    np.testing.assert_allclose(guarded(made, x, rois, i), run_onnx(made, x, rois, i)[0], rtol=1e-5)
    for bad in broken(i):
        found = guarded(made, x, rois, bad)
        np.testing.assert_allclose(found, run_onnx(made, x, rois, np.clip(bad, 0, 1))[0], rtol=1e-5)
