"""FallbackProgram: its parts, its errors, whole networks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tvm")
pytest.importorskip("onnxruntime")

from tests.tvm_schedules.fallback.operator_cases import f, graph, ints, same, unary, with_constants
from tests.tvm_schedules.fallback.test_operators import check
from tvm_schedules.backends.cpu.schedules import schedule_program
from tvm_schedules.errors import ModelError, ShapeError, UnsupportedOperatorError
from tvm_schedules.fallback.program import FallbackProgram, lower_fallback
from tvm_schedules.targets.registry import resolve


def lower(model: onnx.ModelProto) -> FallbackProgram:
    return lower_fallback(model, resolve("host"), "p_", schedule_program)


def test_reshapes_cost_nothing() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "s"], ["t"]),
        helper.make_node("Transpose", ["t"], ["u"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["u", "a"], ["v"]),
        helper.make_node("Sigmoid", ["v"], ["y"]),
    ]
    program = lower(graph(nodes, {"x": (3, 5)}, constants={"s": ints(1, 1, 15), "a": ints(0)}))
    assert len(program.calls) <= 2
    assert not program.aliases
    assert set(program.outputs) == {"y"}
    assert program.outputs["y"] == ((1, 1, 15, 1), "float32")


def test_indices_are_not_warned_of(capfd) -> None:
    """TVM's own code for them does, also where indices are constants."""
    nodes = [helper.make_node("Gather", ["x", "i"], ["g"], axis=1), helper.make_node("Gather", ["g", "j"], ["y"])]
    program = lower(graph(nodes, {"x": (3, 5), "j": (2,)}, constants={"i": ints(4, 0)}, types={"j": TensorProto.INT64}))
    assert len(program.functions) >= 1
    assert "Fast mode" not in "".join(capfd.readouterr())


def test_outputs_that_are_other_buffers_are_aliases() -> None:
    program = lower(same())
    assert len(program.calls) == 1
    assert program.aliases["y"] == "x"
    assert {"z", "w"} >= {n for n in program.aliases if n != "y"}
    assert len(program.aliases) == 2
    assert not program.temporaries


def test_names_start_with_the_prefix_and_calls_know_their_buffers() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Softmax", ["m"], ["y"])]
    program = lower(graph(nodes, {"x": (3, 5)}, constants={"w": f(5, 7)}))
    own = [*program.functions, *program.temporaries, *program.constants]
    assert all(name.startswith("p_") for name in own)
    buffers = {*program.inputs, *program.outputs, *program.temporaries, *program.constants}
    for call in program.calls:
        assert call.function in program.functions
        assert set(call.args) <= buffers
        assert len(call.args) == len(program.functions[call.function].params)


def test_equal_constants_are_stored_once() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["s"]),
        helper.make_node("Softmax", ["s"], ["t"]),
        helper.make_node("Mul", ["t", "b"], ["y"]),
    ]
    value = f(3, 5)
    program = lower(graph(nodes, {"x": (3, 5)}, constants={"a": value, "b": value.copy()}))
    assert len(program.constants) == 1


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Det", ["x"], ["y"], name="the_det"), ("the_det", "Det", "forward")),
        (helper.make_node("NonZero", ["x"], ["y"], name="holes"), ("holes", "NonZero")),
        (helper.make_node("Unique", ["x"], ["y"], name="once"), ("once", "Unique")),
    ],
)
def test_unsupported_operators_are_named(node: onnx.NodeProto, words: tuple[str, ...]) -> None:
    relu = helper.make_node("Relu", ["a"], ["x"])
    outputs = " ".join(node.output)
    model = graph([relu, node], {"a": (4, 4)}, outputs)
    with pytest.raises(UnsupportedOperatorError) as caught:
        lower(model)
    assert all(word in str(caught.value) for word in words)


def test_a_refused_node_is_found_among_others() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("GatherND", ["a", "i"], ["b"], name="bad", batch_dims=7),
        helper.make_node("Relu", ["b"], ["y"], name="also_fine"),
    ]
    with pytest.raises(UnsupportedOperatorError, match=r"'bad'.*GatherND"):
        lower(graph(nodes, {"x": (3, 5)}, constants={"i": np.array([[0, 1]], np.int64)}))


def test_open_shapes_are_refused() -> None:
    model = unary("Relu", 3, 5)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ShapeError, match=r"'x'.*axis 0.*'batch'"):
        lower(model)


def test_empty_dimensions_are_refused() -> None:
    with pytest.raises(ShapeError, match="axis 0 must be at least 1, got 0"):
        lower(unary("Relu", 0, 5))


def test_a_model_without_outputs_is_refused() -> None:
    model = unary("Relu", 3)
    del model.graph.output[:]
    with pytest.raises(ModelError, match="no output"):
        lower(model)


def test_a_newer_opset_is_refused() -> None:
    model = unary("Relu", 3)
    model.opset_import[0].version = 99
    with pytest.raises(ModelError, match=r"at most \d+, got 99"):
        lower(model)


def test_narrow_constants_are_refused() -> None:
    model = with_constants("Add", (4,), f(4))
    model.graph.initializer.append(helper.make_tensor("narrow", TensorProto.INT4, [2], [1, 2]))
    with pytest.raises(ModelError, match="'narrow' has type INT4"):
        lower(model)


def transformer_block(tokens: int, width: int, heads: int) -> onnx.ModelProto:
    n, c = helper.make_node, {}

    def linear(x: str, name: str, i: int, o: int) -> list[onnx.NodeProto]:
        c[f"{name}.w"], c[f"{name}.b"] = f(i, o) / np.float32(i**0.5), f(o)
        return [n("MatMul", [x, f"{name}.w"], [f"{name}.m"]), n("Add", [f"{name}.m", f"{name}.b"], [name])]

    def norm(x: str, name: str) -> onnx.NodeProto:
        c[f"{name}.g"], c[f"{name}.b"] = f(width), f(width)
        return n("LayerNormalization", [x, f"{name}.g", f"{name}.b"], [name], axis=-1)

    c.update(
        {
            "split": ints(0, 0, heads, width // heads),
            "join": ints(0, 0, width),
            "scale": np.float32((width // heads) ** -0.5),
        }
    )
    nodes = [norm("x", "n1")]
    for part in "qkv":
        nodes += linear("n1", part, width, width)
        nodes.append(n("Reshape", [part, "split"], [f"{part}r"]))
        nodes.append(n("Transpose", [f"{part}r"], [f"{part}t"], perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]))
    nodes += [
        n("MatMul", ["qt", "kt"], ["scores"]),
        n("Mul", ["scores", "scale"], ["scaled"]),
        n("Softmax", ["scaled"], ["p"], axis=-1),
        n("MatMul", ["p", "vt"], ["mixed"]),
        n("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        n("Reshape", ["back", "join"], ["joined"]),
        *linear("joined", "o", width, width),
        n("Add", ["x", "o"], ["h"]),
        norm("h", "n2"),
        *linear("n2", "up", width, 4 * width),
        n("Gelu", ["up"], ["act"]),
        *linear("act", "down", 4 * width, width),
        n("Add", ["h", "down"], ["y"]),
    ]
    return graph(nodes, {"x": (2, tokens, width)}, constants=c)


def squeeze_excite() -> onnx.ModelProto:
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "w0", "b0"], ["c"], pads=[1, 1, 1, 1], group=12),
        n("HardSwish", ["c"], ["a"]),
        n("GlobalAveragePool", ["a"], ["p"]),
        n("Conv", ["p", "w1", "b1"], ["s"]),
        n("Relu", ["s"], ["r"]),
        n("Conv", ["r", "w2", "b2"], ["e"]),
        n("HardSigmoid", ["e"], ["g"], alpha=1 / 6),
        n("Mul", ["a", "g"], ["m"]),
        n("Conv", ["m", "w3"], ["o"]),
        n("Add", ["x", "o"], ["y"]),
    ]
    constants = {"w0": f(12, 1, 3, 3), "b0": f(12), "w1": f(3, 12, 1, 1), "b1": f(3), "w2": f(12, 3, 1, 1), "b2": f(12)}
    return graph(nodes, {"x": (2, 12, 13, 17)}, constants={**constants, "w3": f(12, 12, 1, 1)})


def decoder() -> onnx.ModelProto:
    n, c = helper.make_node, {}
    nodes, x = [], "x"
    for i, (a, b) in enumerate([(24, 16), (16, 8), (8, 3)]):
        c[f"w{i}"], c[f"b{i}"] = f(a, b, 4, 4) / np.float32(a**0.5 * 2), f(b)
        nodes.append(n("ConvTranspose", [x, f"w{i}", f"b{i}"], [f"t{i}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        if i < 2:
            c.update({f"g{i}": f(b), f"h{i}": f(b)})
            nodes.append(n("InstanceNormalization", [f"t{i}", f"g{i}", f"h{i}"], [f"i{i}"]))
            nodes.append(n("LeakyRelu", [f"i{i}"], [f"r{i}"], alpha=0.2))
            x = f"r{i}"
    nodes.append(n("Tanh", ["t2"], ["y"]))
    return graph(nodes, {"x": (1, 24, 5, 7)}, constants=c)


@pytest.mark.parametrize(
    "model",
    [transformer_block(11, 48, 4), transformer_block(1, 16, 2), squeeze_excite(), decoder()],
    ids=["transformer", "one token", "squeeze-excite", "decoder"],
)
def test_network(model: onnx.ModelProto, caplog: pytest.LogCaptureFixture) -> None:
    check(model, rtol=2e-4, atol=2e-4)
    assert not caplog.records


def test_constants_inside_of_the_graph() -> None:
    value = numpy_helper.from_array(f(5), "v")
    nodes = [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Add", ["x", "c"], ["y"])]
    check(graph(nodes, {"x": (3, 5)}))
