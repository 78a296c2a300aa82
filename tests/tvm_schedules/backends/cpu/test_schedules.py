"""Schedules: polynomials against exact functions, packing against its definition, failing rules, other targets."""

from __future__ import annotations

import itertools
import logging
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tvm")
pytest.importorskip("onnxruntime")

from tests.tvm_schedules.fallback.operator_cases import CASES
from tests.tvm_schedules.fallback.test_operators import check
from tests.tvm_schedules.nets import Runner
from tvm_schedules import compat
from tvm_schedules.backends.cpu import schedules
from tvm_schedules.backends.cpu.schedules import convolution, matmul, schedule_program, writer
from tvm_schedules.fallback import approximations
from tvm_schedules.fallback import conv_geometry as packing
from tvm_schedules.fallback.program import lower_fallback
from tvm_schedules.fallback.tags import tag_of
from tvm_schedules.targets.registry import TargetSpec, resolve


def evaluate(function: Any, x: np.ndarray) -> np.ndarray:
    import tvm

    spec = resolve("host")

    def body(e: Any, a: Any, b: Any) -> None:
        source, out = e.view(a, x.size, "float32"), e.view(b, x.size, "float32")
        with e.loop(x.size) as i:
            e.store(out, i, function(e.load(source, i)))

    private = compat.private_function([("a", "float32"), ("b", "float32")], body)
    variable = tvm.ir.GlobalVar("f")

    def call(e: Any, a: Any, b: Any) -> None:
        compat.call_private(variable, private, [a.data, b.data])

    main = compat.main_function("main", [(n, x.shape, "float32") for n in "ab"], [], call)
    library = compat.build_module({"f": (variable, private)}, main, spec.tvm)
    result = compat.tensor(np.zeros_like(x))
    library["main"](compat.tensor(x), result)
    return result.numpy()


@pytest.mark.parametrize(
    ("name", "exact", "rtol", "atol"),
    [
        ("exp", np.exp, 3e-7, 0),
        ("tanh", np.tanh, 0, 4e-7),
        ("erf", np.vectorize(math.erf), 0, 4e-7),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), 1e-6, 1e-38),
    ],
)
@pytest.mark.parametrize("fma", [False, True])
def test_polynomials(name: str, exact: Any, rtol: float, atol: float, fma: bool) -> None:
    x = np.concatenate([np.linspace(-87, 88.7, 20011), np.linspace(-5, 5, 20011), [0.0]]).astype(np.float32)
    np.testing.assert_allclose(
        evaluate(partial(getattr(approximations, name), fma=fma), x), exact(x.astype(np.float64)), rtol=rtol, atol=atol
    )


@pytest.mark.parametrize(
    ("name", "low", "high"), [("exp", 0.0, np.inf), ("tanh", -1.0, 1.0), ("erf", -1.0, 1.0), ("sigmoid", 0.0, 1.0)]
)
@pytest.mark.parametrize("fma", [False, True])
def test_polynomials_at_the_ends(name: str, low: float, high: float, fma: bool) -> None:
    x = np.array([-np.inf, -1e30, np.inf, 1e30, np.nan], np.float32)
    got = evaluate(partial(getattr(approximations, name), fma=fma), x)
    np.testing.assert_allclose(got[:4], [low, low, high, high], atol=2e-7)
    assert np.isnan(got[4])


@given(st.integers(1, 300), st.integers(1, 40))
def test_tiles_cover_everything(total: int, most: int) -> None:
    count, size = writer.evenly(total, most)
    starts = [min(i * size, total - size) for i in range(count)]
    assert {s + j for s in starts for j in range(size)} == set(range(total))
    assert size <= most


@given(st.integers(1, 20), st.integers(1, 70), st.sampled_from([4, 8, 16]))
def test_packed_columns(depth: int, columns: int, lanes: int) -> None:
    matrix = np.arange(1, depth * columns + 1, dtype=np.float32).reshape(depth, columns)
    packed, width = packing.pack_columns(matrix, lanes)
    assert width % lanes == 0
    for j in range(columns):
        np.testing.assert_array_equal(packed[j // width, :, j % width], matrix[:, j])
    assert packed.sum() == matrix.sum()


@given(st.lists(st.integers(1, 3), min_size=0, max_size=3), st.data())
def test_batches_broadcast_as_numpy_does(lead: list[int], data: Any) -> None:
    a = [data.draw(st.sampled_from([1, d])) for d in lead]
    b = [d if x == 1 else data.draw(st.sampled_from([1, d])) for d, x in zip(lead, a, strict=True)]
    out = list(np.broadcast_shapes(tuple(a), tuple(b)))
    index = np.arange(math.prod(a)).reshape(a)
    expected = np.broadcast_to(index, out).reshape(-1).tolist()
    assert matmul._batch_offsets([*a, 2, 2], [*out, 2, 2]) == expected


def test_transposed_geometry_is_the_definition() -> None:
    rng = np.random.default_rng(1)

    class Attributes:
        groups, strides, dilation, padding = 1, [2], [1], [1, 0]

    x, weight = rng.standard_normal((1, 2, 5)), rng.standard_normal((2, 3, 3))
    length = 4 * 2 + 3 - 1
    full = np.zeros((3, 4 * 2 + 3))
    for i, k in itertools.product(range(5), range(3)):
        full[:, i * 2 + k] += weight[:, :, k].T @ x[0, :, i]
    made = packing.transposed_geometry([1, 2, 5], weight, [1, 3, length], Attributes)
    assert made is not None
    g, w = made
    padded = np.zeros((2, g.padded[2] + 16))
    padded[:, g.begin[2] : g.begin[2] + 5] = x[0]
    got = np.full((3, length), np.nan)
    for o, q in itertools.product(range(g.outputs), range(g.grid[2])):
        at = q * g.phases[2] + o % g.phases[2] + g.shift[2]
        if 0 <= at < length:
            got[o // g.phases[2], at] = sum(w[o, :, 0, 0, t] @ padded[:, q + t] for t in range(g.kernel[2]))
    np.testing.assert_allclose(got, full[:, 1:], atol=1e-12)


@pytest.mark.parametrize(
    "name", ["Softmax rows", "LayerNormalization", "MatMul weight", "Conv", "ConvTranspose", "MaxPool"]
)
def test_the_fallback_is_correct_when_rules_fail(name: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    *_, fallback = schedules.rules()

    def broken(function: Any, target: TargetSpec) -> Any:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(schedules, "rules", lambda: [broken, fallback])
    with caplog.at_level(logging.WARNING):
        check(CASES[name]())
    assert "broken on purpose" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "LayerNormalization",
        "Transpose square",
        "MatMul large",
        "Conv",
        "Conv depthwise stride",
        "ConvTranspose",
        "MaxPool",
    ],
)
@pytest.mark.parametrize("vector_bytes", [16, 32])
def test_narrower_vectors(name: str, vector_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    host = resolve("host")
    narrow = TargetSpec("narrow", host.tvm, vector_bytes, host.features, None)
    monkeypatch.setattr("tests.tvm_schedules.fallback.program_runner.resolve", lambda _: narrow)
    check(CASES[name]())


@pytest.mark.parametrize("target", ["pi4", "pi5"])
def test_arm_code_is_made(target: str) -> None:
    import tvm

    spec = resolve(target)
    program = lower_fallback(CASES["Conv"](), spec, "f_", schedule_program)
    module = tvm.IRModule(
        {f"f{i}": f.with_attr("global_symbol", f"f{i}") for i, f in enumerate(program.functions.values())}
    )
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        text = tvm.tirx.build(module, target=compat.make_target(spec.tvm)).inspect_source("s")
    assert text.count("fmla") >= 12


def test_only_tagged_functions_have_templates() -> None:
    from tvm import te

    x = te.placeholder((4, 4), name="x")
    function = te.create_prim_func([x, te.compute((4, 4), lambda i, j: x[i, j] * 2.0)])
    assert tag_of(function) is None
    assert all(rule(function, resolve("host")) is None for rule in (convolution.apply, matmul.apply))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Softmax rows", "softmax"),
        ("Softmax columns", "softmax"),
        ("LogSoftmax columns", "softmax"),
        ("LayerNormalization", "layer_norm"),
        ("ReduceMean (3,)", "reduce"),
        ("ReduceMax (1, 2)", "reduce"),
        ("Concat", "concat"),
        ("Concat large", "concat"),
        ("Transpose square", "transpose"),
        ("MatMul batched", "matmul"),
        ("MatMul weight", "matmul_packed"),
        ("MaxPool", "pool"),
        ("AveragePool 3d", "pool"),
        ("Conv 3d few", "conv"),
        ("CumSum", "scan"),
    ],
)
def test_operators_have_their_templates(name: str, kind: str) -> None:
    """One that lost its template computes the same, and takes many times as long."""
    functions: dict[str, Any] = {}
    lower_fallback(CASES[name](), resolve("host"), "f_", lambda program, made, target: functions.update(made))
    tags = {path: tag_of(function) for path, function in functions.items()}
    assert [tag and tag["kind"] for tag in tags.values()] == [kind]
    (function,) = functions.values()
    assert sum(rule(function, resolve("host")) is not None for rule in schedules.rules()[:-2]) == 1


@pytest.mark.parametrize("shape", [(1, 56, 56, 96), (1, 64, 9, 80), (5, 11000), (40000, 2), (2, 3, 20000), (50000,)])
def test_no_quotients_in_loops_over_whole_tensors(shape: tuple[int, ...]) -> None:
    """A piece of several axes that begins in the middle of one would need some for every element."""
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "aby"]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["y"])], "g", ends[:2], ends[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    program = lower_fallback(model, resolve("host"), "p_", schedule_program)
    (function,) = program.functions.values()
    text = function.script()
    assert "parallel" in text
    assert "//" not in text
    assert "%" not in text
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(Runner(model)(a, b)[0], a + b)
