"""Where tensors lie that are made by moving another one's elements: read there, they are what onnxruntime computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.tvm_schedules.lowering.test_attention import number, places
from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.view import View
from tvm_schedules.lowering.tracing import Tracer

MOVES = ["Reshape", "Flatten", "Identity", "Transpose", "Turn", "Slice", "Split", "Gather", "Mul", "Div", "Unsqueeze"]


def moved(net: Net, x: str, shape: tuple[int, ...], op: str, data: st.DataObject) -> tuple[str, tuple[int, ...]]:
    """A tensor that one operator makes of another, and its shape."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    if op == "Reshape":
        middle = len(shape) // 2
        made = (int(np.prod(shape[:middle], dtype=int)), int(np.prod(shape[middle:], dtype=int)))
        return net.op(op, x, net.const(np.array(made))), made
    if op == "Flatten":
        made = (
            int(np.prod(shape[: axis % len(shape)], dtype=int)),
            int(np.prod(shape[axis % len(shape) :], dtype=int)),
        )
        return net.op(op, x, axis=axis % len(shape)), made
    if op == "Transpose":
        order = data.draw(st.permutations(range(len(shape))))
        return net.op(op, x, perm=order), tuple(shape[a] for a in order)
    if op == "Turn":  # without an order it is the opposite one
        return net.op("Transpose", x), shape[::-1]
    if op == "Unsqueeze":
        return net.op(op, x, net.const(np.array([0]))), (1, *shape)
    cut = list(shape)
    if op == "Slice":
        start, step = data.draw(st.integers(-size, size - 1)), data.draw(st.integers(1, 3))
        cut[axis] = len(range(size)[start::step])
        parts = [np.array([n]) for n in (start, 1 << 40, axis, step)]
        return net.op(op, x, *(net.const(part) for part in parts)), tuple(cut)
    if op == "Split":
        first = data.draw(st.integers(0, size - 1))
        if not first:
            return x, shape
        which = data.draw(st.integers(0, 1))
        cut[axis] = (first, size - first)[which]
        net.op(op, x, net.const(np.array([first, size - first])), outputs=2, axis=axis)
        return net.nodes[-1].output[which], tuple(cut)
    if op == "Gather":
        index = data.draw(st.integers(-size, size - 1))
        del cut[axis]
        return (net.op(op, x, net.const(np.array(index)), axis=axis), tuple(cut)) if cut else (x, shape)
    if op in ("Mul", "Div"):
        return net.op(op, x, number(net, data.draw(st.sampled_from([0.5, 3.0, -2.0])))), shape
    return net.op(op, x), shape


@examples(60)
@given(st.lists(st.sampled_from(MOVES), min_size=1, max_size=5), st.data())
def test_elements_are_where_the_view_says(ops: list[str], data: st.DataObject) -> None:
    net = Net((3, 4, 5))
    x, shape = net.op("Identity", "input_0"), (3, 4, 5)
    for op in ops:
        x, shape = moved(net, x, shape, op, data)
    model = net.model(x)
    source, view, factor = Tracer(read(model)).trace(x)
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    (want,) = run_onnx(model, array)
    assert view.shape == want.shape
    if source == "input_0":
        np.testing.assert_allclose(array.ravel()[places(view)] * factor, want, rtol=1e-5)
    else:  # no strides reach the elements of what a reshape makes of a transposed tensor, or of a part of one
        assert {"Reshape", "Flatten"} & set(ops)
        assert {"Transpose", "Turn", "Slice", "Split", "Gather"} & set(ops)


@pytest.mark.parametrize(
    "what", ["a step back", "a computed start", "several numbers", "another operator", "the inverse"]
)
def test_what_moves_no_elements_is_a_tensor_of_its_own(what: str) -> None:
    net = Net((3, 4, 5))
    if what == "a step back":
        x = net.op("Slice", "input_0", *(net.const(np.array([n])) for n in (-1, -9, 1, -1)))
    elif what == "a computed start":
        start = net.op("Cast", net.op("ReduceMax", "input_0", net.const(np.array([0, 1, 2])), keepdims=0), to=7)
        index = net.op("Mod", start, net.const(np.int64(4)))
        x = net.op("Gather", "input_0", index, axis=1)
    elif what == "several numbers":
        x = net.op("Gather", "input_0", net.const(np.array([2, 0])), axis=1)
    elif what == "another operator":
        x = net.op("Neg", "input_0")
    else:
        x = net.op("Div", number(net, 2), "input_0")
    source, view, factor = Tracer(graph := read(net.model(x))).trace(x)
    assert (source, view, factor) == (x, View.whole(graph.values[x].shape), 1.0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1, 1), (5,)])
def test_a_factor_is_one_number_that_changes_no_shape(shape: tuple[int, ...]) -> None:
    net = Net((3, 4, 5))
    x = net.op("Mul", net.const(np.full(shape, 3, np.float32)), "input_0")
    found = Tracer(read(net.model(x))).trace(x)
    assert (found[0] == "input_0") == (shape == (1, 1))
    assert found[2] == (3.0 if shape == (1, 1) else 1.0)
