"""Attention against onnxruntime: as an operator and as products and a softmax, out of rows, slices and planes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.properties import compilations
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Runner, compared
from tvm_schedules.targets.registry import resolve

X86 = pytest.mark.skipif(resolve("host").architecture != "x86_64", reason="uses an instruction of x86")
SHORT_VECTORS = '{"kind": "llvm", "mcpu": "x86-64-v2"}'
SIZES = [1, 3, 4, 7, 8, 9, 16, 17, 24, 32, 49, 65]


def kernels(model: onnx.ModelProto) -> list[str]:
    return [step.kernel for step in compile_model(model, resolve("host")).plan.steps]


class Net:
    """A model that grows node by node."""

    def __init__(self, opset: int = 23) -> None:
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.tensors: list[Any] = []
        self.arrays: list[np.ndarray] = []
        self.opset, self.random = opset, np.random.default_rng(0)

    def input(self, name: str, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.arrays.append(self.random.standard_normal(shape).astype(np.float32))
        return name

    def constant(self, array: Any) -> str:
        name = f"constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"node{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def reshape(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.constant(np.int64(shape)))

    def model(self, result: str) -> onnx.ModelProto:
        last = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", self.inputs, [last], self.tensors)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True)

    def check(self, result: str, attentions: int = 1) -> None:
        model = self.model(result)
        assert kernels(model).count("attention") == attentions
        conditions = [place for place, one in enumerate(self.inputs) if one.name in ("mask", "numbers")]
        for theirs, ours in compared(model, Runner(model), self.arrays, conditions):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@dataclass(frozen=True)
class Case:
    batch: int
    heads: int
    queries: int
    keys: int
    depth: int
    width: int
    mask: str
    scale: bool


CASES = st.builds(
    Case,
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3]),
    st.sampled_from([size for size in SIZES if size >= 4] + [197]),
    st.sampled_from([*SIZES, 130]),
    st.sampled_from(SIZES),
    st.sampled_from(SIZES),
    st.sampled_from(["none", "all", "heads", "batch", "row", "computed", "two"]),
    st.booleans(),
)


def masks(net: Net, case: Case) -> list[str]:
    rows = {"all": (1, 1), "heads": (1, case.heads), "batch": (case.batch, 1), "row": (1, 1)}
    if case.mask in ("none", "computed"):
        return [net.input("mask", case.batch, 1, case.queries, case.keys)] if case.mask == "computed" else []
    if case.mask == "two":
        return [
            net.constant(net.random.standard_normal((*lead, case.queries, case.keys)).astype(np.float32))
            for lead in ((1, case.heads), (case.batch, 1))
        ]
    shape = (*rows[case.mask], 1 if case.mask == "row" else case.queries, case.keys)
    array = np.where(net.random.random(shape) < 0.3, -np.inf, net.random.standard_normal(shape))
    array[..., 0] = 0  # no row without a key
    return [net.constant(array.astype(np.float32))]


@compilations(25)
@given(CASES)
def test_products_and_a_softmax(case: Case) -> None:
    net = Net()
    q = net.input("q", case.batch, case.heads, case.queries, case.depth)
    k = net.input("k", case.batch, case.heads, case.keys, case.depth)
    v = net.input("v", case.batch, case.heads, case.keys, case.width)
    if case.scale:
        q = net.node("Mul", q, net.constant(np.float32(0.3)))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.node("Div", scores, net.constant(np.float32(3)))
    for mask in masks(net, case):
        scores = net.node("Add", scores, mask)
    out = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    turned = net.node("Transpose", out, perm=[0, 2, 1, 3])
    net.check(net.reshape(turned, case.batch, case.queries, case.heads * case.width))


@X86
@compilations(14)
@given(CASES, st.sampled_from(["host", SHORT_VECTORS]), st.integers(0, 12), st.booleans())
def test_results_that_are_rounded_to_bytes(case: Case, target: str, outlier: int, exact: bool) -> None:
    """Queries and keys are multiplied as 16-bit integers there, which changes a hundredth of a step, or as the bytes
    that they are, which changes nothing."""
    net = Net()
    q = net.input("q", case.batch, case.heads, case.queries, case.depth)
    k = net.input("k", case.batch, case.heads, case.keys, case.depth)
    v = net.input("v", case.batch, case.heads, case.keys, case.width)
    net.arrays[1][..., 0] *= outlier
    if exact:
        grids = [
            (net.constant(np.float32(step)), net.constant(np.uint8(zero))) for step, zero in ((0.03, 120), (0.2, 3))
        ]
        q, k = (
            net.node("DequantizeLinear", net.node("QuantizeLinear", x, *g), *g)
            for x, g in zip((q, k), grids, strict=True)
        )
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = net.node("Mul", scores, net.constant(np.float32(case.depth**-0.5)))
    for mask in masks(net, case):
        scores = net.node("Add", scores, mask)
    out = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    grid = net.constant(np.float32(0.02)), net.constant(np.uint8(128))
    model = net.model(net.node("DequantizeLinear", net.node("QuantizeLinear", out, *grid), *grid))
    runner = Runner(model, target)
    (step,) = [step for step in runner.plan.steps if step.kernel == "attention"]
    assert ("of bytes" if exact else "16 bits") in step.info["reason"]
    fixed = [place for place, one in enumerate(net.inputs) if one.name == "mask"]
    for theirs, ours in compared(model, runner, net.arrays, fixed):
        steps = np.abs(ours - theirs) / 0.02
        assert steps.max() < 1.01
        assert (steps > 0.5).mean() < (0 if exact else 0.02) + 2 / steps.size


@X86
@pytest.mark.parametrize(("zeros", "reason"), [("q", True), ("k", True), ("", False)])
def test_zeros_and_readers_of_floats(zeros: str, reason: bool) -> None:
    """Scores are zeros where a matrix has nothing but zeros; what floats read too stays in floats."""
    net = Net()
    q, k, v = (net.input(name, 1, 2, 9, 16) for name in "qkv")
    if zeros:
        net.arrays["qk".index(zeros)][:] = 0
    weights = net.node("Softmax", net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    out = net.node("MatMul", weights, v)
    grid = net.constant(np.float32(0.02)), net.constant(np.uint8(128))
    rounded = net.node("DequantizeLinear", net.node("QuantizeLinear", out, *grid), *grid)
    model = net.model(rounded if reason else net.node("Concat", rounded, out, axis=1))
    runner = Runner(model)
    (step,) = [step for step in runner.plan.steps if step.kernel == "attention"]
    assert ("16 bits" in step.info["reason"]) == reason
    for theirs, ours in compared(model, runner, net.arrays, [0, 1]):
        assert np.abs(ours - theirs).max() < 0.0201


@compilations(14)
@given(CASES, st.booleans(), st.booleans())
def test_the_operator(case: Case, causal: bool, rows: bool) -> None:
    net = Net()
    keys = case.queries if causal else case.keys
    options = {"is_causal": int(causal), **({"scale": 0.2} if case.scale else {})}
    if rows:
        shapes = [(case.queries, 2 * case.heads * case.depth), (keys, case.heads * case.depth)]
        shapes += [(keys, case.heads * case.width)]
        names = [net.input(n, case.batch, *shape) for n, shape in zip("qkv", shapes, strict=True)]
        options |= {"q_num_heads": 2 * case.heads, "kv_num_heads": case.heads}
    else:
        sizes = [(case.queries, case.depth), (keys, case.depth), (keys, case.width)]
        names = [net.input(n, case.batch, case.heads, *size) for n, size in zip("qkv", sizes, strict=True)]
    if case.mask == "all":
        allowed = net.random.random((case.queries, keys)) < 0.7
        allowed[:, 0] = True
        names.append(net.constant(allowed))
    net.check(net.node("Attention", *names, **options))


@pytest.mark.parametrize("how", ["Slice", "Split", "Gather"])
def test_one_tensor_has_queries_keys_and_values(how: str) -> None:
    """Windows as in Swin, with a bias a head and a mask a window in another shape."""
    net, (windows, tokens, heads, depth) = Net(), (6, 49, 3, 32)
    x = net.input("x", windows, tokens, 3 * heads * depth)
    turned = net.node("Transpose", net.reshape(x, windows, tokens, 3, heads, depth), perm=[2, 0, 3, 1, 4])
    shape = (windows, heads, tokens, depth)
    if how == "Split":
        parts = [net.reshape(one, *shape) for one in net.node("Split", turned, outputs=3, axis=0, num_outputs=3)]
    elif how == "Gather":
        parts = [net.node("Gather", turned, net.constant(np.int64(i)), axis=0) for i in range(3)]
    else:
        one = net.constant(np.int64([0]))
        ends = [(net.constant(np.int64([i])), net.constant(np.int64([i + 1]))) for i in range(3)]
        parts = [net.node("Squeeze", net.node("Slice", turned, *end, one), one) for end in ends]
    q, k, v = parts
    q = net.node("Mul", q, net.constant(np.float32(depth**-0.5)))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    bias = net.random.standard_normal((1, heads, tokens, tokens)).astype(np.float32)
    scores = net.reshape(net.node("Add", scores, net.constant(bias)), 2, windows // 2, heads, tokens, tokens)
    mask = np.where(net.random.random((1, windows // 2, 1, tokens, tokens)) < 0.5, -100, 0).astype(np.float32)
    scores = net.reshape(net.node("Add", scores, net.constant(mask)), windows, heads, tokens, tokens)
    out = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
    rows = net.reshape(net.node("Transpose", out, perm=[0, 2, 1, 3]), windows, tokens, heads * depth)
    net.check(rows)
    assert set(kernels(net.model(rows))) == {"attention"}  # nothing moves a tensor around


def test_a_mask_that_is_computed_in_true_and_false() -> None:
    net = Net()
    names = [net.input(name, 2, 3, 9, 8) for name in "qkv"]
    allowed = net.node("Greater", net.input("m", 2, 1, 9, 9), net.constant(np.float32(-1)))
    result = net.node("Attention", *names, allowed)
    net.arrays[-1][..., 0] = 1.0  # no row without a key
    net.check(result)


@compilations(25)
@given(
    CASES, st.sampled_from([-np.inf, -3.4028234663852886e38, -1e9, -1e4]), st.booleans(), st.booleans(), st.booleans()
)
def test_scores_that_get_the_lowest_number(case: Case, low: float, first: bool, known: bool, merged: bool) -> None:
    """``masked_fill``, written with either branch, behind an additive mask or before it, of axes that are one."""
    net = Net()
    shape, lead = (case.batch, case.heads, case.queries, case.keys), (case.batch, case.heads)
    sizes = (case.queries, case.depth), (case.depth, case.keys), (case.keys, case.width)
    q, k, v = (net.input(name, *lead, *size) for name, size in zip("qkv", sizes, strict=True))
    if merged:
        names = zip((q, k, v), sizes, strict=True)
        q, k, v = (net.reshape(name, case.batch * case.heads, *size) for name, size in names)
    scores = net.node("Mul", net.node("MatMul", q, k), net.constant(np.float32(0.3)))
    scores = net.reshape(scores, *shape) if merged else scores
    added = net.constant(net.random.standard_normal((1, 1, case.queries, case.keys)).astype(np.float32))
    scores = net.node("Add", scores, added) if case.scale else scores
    numbers = net.random.random((case.batch, 1, 1 if case.mask == "row" else case.queries, case.keys)).astype(
        np.float32
    )
    numbers[..., 0] = 1  # no row without a key
    if case.queries > 4 and np.isfinite(low):
        numbers[0, 0, -1] = 0  # but one, whose keys count the same
    if known:
        seen = net.constant(numbers > 0.3)
    else:
        seen = net.node("Greater", net.input("numbers", *numbers.shape), net.constant(np.float32(0.3)))
        net.arrays[-1] = numbers
    lowest = net.constant(np.float32(low))
    if first:
        scores = net.node("Where", seen, scores, lowest)
    else:
        scores = net.node("Where", net.node("Not", seen), lowest, scores)
    if case.mask == "two":
        scores = net.node("Add", scores, added)
    weights = net.node("Softmax", scores, axis=-1)
    weights = net.reshape(weights, case.batch * case.heads, case.queries, case.keys) if merged else weights
    out = net.node("MatMul", weights, v)
    net.check(net.reshape(out, *shape[:3], case.width) if merged else out)


@pytest.mark.parametrize("known", [False, True])
def test_rows_without_a_key_become_zeros(known: bool) -> None:
    """What PyTorch makes of scaled_dot_product_attention with a mask of true and false."""
    net = Net(18)
    q, k, v = (net.input(name, 2, 3, 9, 8) for name in "qkv")
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    seen = net.random.random((2, 1, 9, 9)) < 0.6
    seen[..., 0] = True
    zero, lowest = net.constant(np.float32(0)), net.constant(np.float32([-np.inf]))
    if known:
        allowed = net.constant(seen)
    else:
        seen[1, 0, 4] = seen[0, 0, 0] = False
        allowed = net.node("Greater", net.input("numbers", 2, 1, 9, 9), zero)
        net.arrays[-1] = seen.astype(np.float32)
    weights = net.node("Softmax", net.node("Add", scores, net.node("Where", allowed, zero, lowest)), axis=-1)
    result = net.node("MatMul", net.node("Where", net.node("IsNaN", weights), zero, weights), v)
    net.check(result)
    if not known:
        (out,) = Runner(net.model(result))(*net.arrays)
        assert not out[1, :, 4].any()
        assert out[1, :, 3].all()


def test_zeros_for_rows_that_never_see_a_key_are_left_to_the_operators() -> None:
    net = Net(18)
    q, k, v = (net.input(name, 1, 2, 9, 8) for name in "qkv")
    mask = np.zeros((9, 9), np.float32)
    mask[2] = -np.inf
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    weights = net.node("Softmax", net.node("Add", scores, net.constant(mask)), axis=-1)
    zero = net.constant(np.float32(0))
    net.check(net.node("MatMul", net.node("Where", net.node("IsNaN", weights), zero, weights), v), attentions=0)


@pytest.mark.parametrize("how", ["high", "other", "kept"])
def test_other_choices_between_scores_are_left_alone(how: str) -> None:
    net = Net()
    q, k, v = (net.input(name, 1, 2, 8, 8) for name in "qkv")
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
    seen = net.constant(net.random.random((8, 8)) < 0.6)
    other = (
        net.input("other", 1, 2, 8, 8) if how == "other" else net.constant(np.float32(-1 if how == "high" else -1e9))
    )
    weights = net.node("Softmax", net.node("Where", seen, scores, other), axis=-1)
    if how == "kept":  # not every NaN is replaced by zero
        weights = net.node("Where", net.node("IsNaN", weights), net.constant(np.float32(1)), weights)
    net.check(net.node("MatMul", weights, v), attentions=0)


def test_not_a_number_stays_one() -> None:
    net = Net()
    names = [net.input(name, 1, 1, 9, 8) for name in "qkv"]
    result = net.node("Attention", *names)
    net.arrays[0][0, 0, 2, 5] = np.nan
    (out,) = Runner(net.model(result))(*net.arrays)
    wanted = np.zeros(out.shape, bool)
    wanted[0, 0, 2] = True
    np.testing.assert_array_equal(np.isnan(out), wanted)


def test_large_scores_do_not_overflow() -> None:
    net = Net()
    names = [net.input(name, 1, 2, 20, 16) for name in "qkv"]
    net.arrays[0] *= 1e3
    net.arrays[1] *= 1e3
    net.check(net.node("Attention", *names))


def test_what_is_read_elsewhere_is_no_attention() -> None:
    net = Net()
    q, k, v = (net.input(name, 1, 2, 8, 8) for name in "qkv")
    weights = net.node("Softmax", net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    net.check(net.node("Add", net.node("MatMul", weights, v), weights), attentions=0)


@pytest.mark.parametrize("options", [{"softcap": 2.0}, {"axis": -2}])
def test_other_operators_are_left_alone(options: dict[str, Any]) -> None:
    net = Net()
    q, k, v = (net.input(name, 1, 2, 8, 8) for name in "qkv")
    if "softcap" in options:
        net.check(net.node("Attention", q, k, v, **options), attentions=0)
    else:
        scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 1, 3, 2]))
        net.check(net.node("MatMul", net.node("Softmax", scores, **options), v), attentions=0)


def test_a_row_that_may_see_no_key_is_left_to_the_operator() -> None:
    net = Net()
    names = [net.input(name, 1, 1, 8, 8) for name in "qkv"]
    allowed = np.ones((8, 8), bool)
    allowed[3] = False
    assert "attention" not in kernels(net.model(net.node("Attention", *names, net.constant(allowed))))
