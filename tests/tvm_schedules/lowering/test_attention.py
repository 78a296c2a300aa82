"""Attention found in graphs, computed from where its views say that matrices lie, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Attention, Graph
from tvm_schedules.ir.view import View
from tvm_schedules.lowering.attention import with_attention
from tvm_schedules.passes import prepare

B, H, N, K, D, W = 2, 4, 5, 7, 3, 6
"""Images, heads, queries, keys, and the sizes of keys and of values."""


def places(view: View) -> np.ndarray:
    """Where the elements of a view are in its source."""
    grid = np.indices(view.shape).reshape(len(view.shape), -1)
    return (view.offset + np.array(view.strides) @ grid).reshape(view.shape)


def computed(graph: Graph, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The result of a graph that is attention, and what makes factors and masks before it."""
    *before, node = graph.nodes
    for one in before:
        x, y, *other = (arrays.get(name, graph.constants.get(name)) for name in one.inputs)
        assert x is not None
        assert y is not None
        assert one.op in ("Mul", "Where")
        arrays[one.outputs[0]] = x * y if one.op == "Mul" else np.where(x, y, other[0])
    assert isinstance(node, Attention)
    sources = [arrays[name] if name in arrays else graph.constants[name] for name in node.inputs]
    q, k, v, *masks = (
        source.ravel().astype(np.float64)[places(view)]
        for source, view in zip(sources, (node.q, node.k, node.v, *node.masks), strict=True)
    )
    scores = q @ np.swapaxes(k, -1, -2) * node.factor
    for mask, limit in zip(masks, node.limits, strict=True):
        scores = np.minimum(scores, mask) if limit else scores + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    found = np.full(graph.values[graph.outputs[0]].shape, np.nan)
    found.ravel()[places(node.out)] = weights / weights.sum(-1, keepdims=True) @ v
    return found


Write = Callable[[Net, str, str, str], str]
FOUR, THREE = ((B, H, N, D), (B, H, K, D), (B, H, K, W)), ((B, N, H * D), (B, K, H * D), (B, K, H * W))
SHARED = (B, H, N, D), (B, 2, K, D), (B, 2, K, W)
HEADS = {"q_num_heads": H, "kv_num_heads": H}


def number(net: Net, value: float) -> str:
    return net.const(np.float32(value))


def turned(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 1, 3, 2])


def products(before: Write | None = None, behind: Callable[[Net, str], str] | None = None) -> Write:
    """Two products with a softmax between, and something done to the scores before it."""

    def write(net: Net, q: str, k: str, v: str) -> str:
        scores = net.op("MatMul", q, turned(net, k))
        weights = net.op("Softmax", behind(net, scores) if behind else scores, axis=-1)
        return net.op("MatMul", weights, before(net, q, k, v) if before else v)

    return write


def merged(net: Net, q: str, k: str, v: str) -> str:
    """Heads beside each other in rows, as networks have them."""
    parts = [
        net.op("Transpose", net.op("Reshape", x, net.const(np.array([B, -1, H, size]))), perm=[0, 2, 1, 3])
        for x, size in ((q, D), (k, D), (v, W))
    ]
    out = net.op("Transpose", products()(net, *parts), perm=[0, 2, 1, 3])
    return net.op("Reshape", out, net.const(np.array([B, N, H * W])))


def filled(net: Net, scores: str) -> str:
    hidden = np.triu(np.ones((N, K), bool), 2)
    return net.op("Where", net.const(hidden), number(net, -1e9), scores)


def kept(net: Net, scores: str) -> str:
    seen = np.tril(np.ones((N, K), bool), 1)
    return net.op("Where", net.const(seen), scores, number(net, -1e9))


def added(net: Net, scores: str) -> str:
    mask = np.random.default_rng(0).normal(size=(1, H, N, K)).astype(np.float32)
    return net.op("Add", net.const(mask), net.op("Div", scores, number(net, 2.5)))


WRITTEN: dict[str, tuple[Write, tuple[tuple[int, ...], ...]]] = {
    "operator": (lambda net, *x: net.op("Attention", *x), FOUR),
    "rows": (lambda net, *x: net.op("Attention", *x, **HEADS), THREE),
    "shared keys": (lambda net, *x: net.op("Attention", *x), SHARED),
    "scale": (lambda net, *x: net.op("Attention", *x, scale=0.7), FOUR),
    "causal": (lambda net, q, k, v: net.op("Attention", q, q, q, is_causal=1), FOUR),
    "mask": (lambda net, *x: net.op("Attention", *x, net.const(np.tril(np.ones((N, K), bool)))), FOUR),
    "factors": (
        lambda net, q, k, v: net.op(
            "Attention", net.op("Mul", q, number(net, 3)), net.op("Div", k, number(net, 4)), v
        ), FOUR,
    ),
    "moved": (
        lambda net, q, k, v: turned(net, net.op("Attention", q, k, turned(net, turned(net, v)))), FOUR,
    ),
    "products": (products(), FOUR),
    "products of rows": (merged, THREE),
    "filled": (products(behind=filled), FOUR),
    "kept": (products(behind=kept), FOUR),
    "added": (products(behind=added), FOUR),
}  # fmt: skip


def check(write: Write, shapes: tuple[tuple[int, ...], ...]) -> Graph:
    """The graph with attention, whose results are those of onnxruntime."""
    net = Net(*shapes)
    model = net.model(write(net, "input_0", "input_1", "input_2"))
    graph = with_attention(prepare(read(model)))
    rng = np.random.default_rng(2)
    arrays = {one: rng.normal(size=graph.values[one].shape).astype(np.float32) for one in graph.inputs}
    given = [arrays[value.name] for value in model.graph.input]
    np.testing.assert_allclose(computed(graph, arrays), run_onnx(model, *given)[0], rtol=1e-4, atol=1e-5)
    return graph


@pytest.mark.parametrize("name", WRITTEN)
def test_matrices_lie_where_the_views_say(name: str) -> None:
    assert len(check(*WRITTEN[name]).nodes) == 1


def scaled_values(net: Net, q: str, k: str, v: str) -> str:
    return net.op("Mul", v, number(net, 3))


@pytest.mark.parametrize("operator", [False, True])
def test_a_factor_of_values_is_none_of_the_scores(operator: bool) -> None:
    def write(net: Net, q: str, k: str, v: str) -> str:
        q = net.op("Mul", q, number(net, 2))
        v = scaled_values(net, q, k, v)
        return net.op("Attention", q, k, v, scale=0.5) if operator else products(lambda *_: v)(net, q, k, v)

    graph = check(write, FOUR)
    product, node = graph.nodes
    assert isinstance(node, Attention)
    assert product.op == "Mul"
    assert (node.inputs, node.factor) == (["input_0", "input_1", product.outputs[0]], 1.0 if operator else 2.0)


@pytest.mark.parametrize("form", ["operator", "added", "filled"])
def test_masks_that_are_inputs(form: str) -> None:
    def write(net: Net, q: str, k: str, v: str, mask: str) -> str:
        if form == "operator":
            return net.op("Attention", q, k, v, mask)
        if form == "added":
            return products(behind=lambda net, scores: net.op("Add", mask, scores))(net, q, k, v)
        return products(behind=lambda net, x: net.op("Where", mask, x, number(net, -1e9)))(net, q, k, v)

    net = Net(*FOUR)
    kind = onnx.TensorProto.FLOAT if form == "added" else onnx.TensorProto.BOOL
    net.inputs.append(onnx.helper.make_tensor_value_info("mask", kind, (B, 1, N, K)))
    model = net.model(write(net, "input_0", "input_1", "input_2", "mask"))
    graph = with_attention(prepare(read(model)))
    assert [node.op for node in graph.nodes] == ["Attention"] if form == "added" else ["Where", "Attention"]
    rng = np.random.default_rng(2)
    arrays = {one: rng.normal(size=graph.values[one].shape).astype(np.float32) for one in graph.inputs}
    if form != "added":
        arrays["mask"] = rng.random((B, 1, N, K)) < 0.5
        arrays["mask"][..., 0] = True  # no row without a key
    given = [arrays[value.name] for value in model.graph.input]
    np.testing.assert_allclose(computed(graph, arrays), run_onnx(model, *given)[0], rtol=1e-4, atol=1e-5)


def ops(write: Write, shapes: tuple[tuple[int, ...], ...] = FOUR, fewest_rows: int = 4) -> list[str]:
    net = Net(*shapes)
    graph = prepare(read(net.model(write(net, "input_0", "input_1", "input_2"))))
    return [node.op for node in with_attention(graph, fewest_rows).nodes]


@pytest.mark.parametrize(("fewest", "fits"), [(N, True), (N + 1, False)])
def test_few_queries_are_no_attention(fewest: int, fits: bool) -> None:
    assert (ops(products(), fewest_rows=fewest) == ["Attention"]) == fits


def along_queries(net: Net, q: str, k: str, v: str) -> str:
    scores = net.op("MatMul", q, turned(net, k))
    return net.op("MatMul", net.op("Softmax", scores, axis=2), v)


def read_twice(net: Net, q: str, k: str, v: str) -> str:
    weights = net.op("Softmax", net.op("MatMul", q, turned(net, k)), axis=-1)
    return net.op("Add", net.op("MatMul", weights, v), net.op("ReduceMax", weights))


def scores_twice(net: Net, q: str, k: str, v: str) -> str:
    scores = net.op("MatMul", q, turned(net, k))
    return net.op("Add", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), net.op("ReduceMax", scores))


def from_the_left(net: Net, q: str, k: str, v: str) -> str:
    weights = net.op("Softmax", net.op("MatMul", q, turned(net, k)), axis=-1)
    return net.op("MatMul", turned(net, v), turned(net, weights))


def of_constant(place: int) -> Write:
    """As a network attends with learned queries, or to a learned memory."""

    def write(net: Net, *x: str) -> str:
        q, k, v = (net.const(np.ones(FOUR[i], np.float32)) if i == place else one for i, one in enumerate(x))
        return products()(net, q, k, v)

    return write


def moderate(net: Net, scores: str) -> str:
    """A number that other scores may be below."""
    return net.op("Where", net.const(np.triu(np.ones((N, K), bool), 2)), number(net, -9e3), scores)


def scaled_later(net: Net, scores: str) -> str:
    """A factor behind a mask multiplies the mask too."""
    return net.op("Mul", net.op("Add", scores, net.const(np.ones((N, K), np.float32))), number(net, 2))


@pytest.mark.parametrize(
    "write",
    [
        along_queries, read_twice, scores_twice, from_the_left, of_constant(0), of_constant(1), of_constant(2),
        products(behind=moderate),
        products(behind=scaled_later),
        lambda net, *x: net.op("Attention", *x, softcap=2.0),
        lambda net, *x: net.op("Attention", *x, is_causal=1),  # whose queries are not as many as keys
    ],
)  # fmt: skip
def test_what_is_no_attention_stays(write: Write) -> None:
    net = Net(*FOUR)
    graph = with_attention(prepare(read(net.model(write(net, "input_0", "input_1", "input_2")))))
    assert not any(isinstance(node, Attention) for node in graph.nodes)
