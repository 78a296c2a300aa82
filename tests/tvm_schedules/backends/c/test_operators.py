"""Operators over plain tensors as C: onnxruntime's numbers, in floats and in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import tvm_schedules
from tests.properties import compilations, more_data
from tests.tvm_schedules.backends.c import c_runner as portable
from tests.tvm_schedules.backends.c.test_c_target import VARIANTS
from tests.tvm_schedules.compiling import compile_c
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tests.tvm_schedules.recurrent_nets import Case, recurrent
from tvm_schedules.backends.c import operators
from tvm_schedules.errors import UnsupportedOperatorError
from tvm_schedules.targets.registry import resolve

Make = Callable[..., str]
F = np.float32


def constants(net: Net, *values: object) -> list[str]:
    return [net.const(np.asarray(value)) for value in values]


UNARY: dict[str, dict[str, object]] = {
    "Sigmoid": {},
    "Tanh": {},
    "HardSwish": {},
    "HardSigmoid": {"alpha": 1 / 6, "beta": 0.5},
    "Gelu": {},
    "LeakyRelu": {"alpha": 0.1},
    "Elu": {"alpha": 0.7},
    "Relu": {},
    "Neg": {},
    "Abs": {},
    "Exp": {},
    "Erf": {},
    "Softsign": {},
}

X86 = pytest.mark.skipif(
    resolve("host").architecture != "x86_64", reason="only the library for x86 has attention of bytes as C has it"
)

IMAGE = (2, 6, 5, 7)
ATTENTION = [(2, 3, 5, 7), (2, 3, 6, 7), (2, 3, 6, 4)]


def known(net: Net, *shape: int) -> str:
    """A tensor of numbers that no input changes."""
    return net.const(np.linspace(-2, 3, prod(shape), dtype=F).reshape(shape))


def attention(net: Net, q: str, k: str, v: str, *masks: str, fill: np.floating | None = None) -> str:
    """As most networks write it: products, a factor, masks that are added or say what is filled in, a softmax."""
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(F(0.4)))
    if fill is not None:
        scores = net.op("Where", net.const(np.triu(np.ones((5, 6), bool), 2)), net.const(fill), scores)
    for mask in masks:
        scores = net.op("Add", scores, mask)
    return net.op("MatMul", net.op("Softmax", scores), v)


CASES: dict[str, tuple[list[tuple[int, ...]], Make]] = {
    "softmax": ([IMAGE], lambda n, x: n.op("Softmax", x, axis=1)),
    "softmax of rows": ([(3, 11)], lambda n, x: n.op("Softmax", x)),
    "gate": ([IMAGE, (2, 6, 1, 1)], lambda n, x, g: n.op("Mul", x, g)),
    "gate first": ([(2, 6, 1, 1), IMAGE], lambda n, g, x: n.op("Mul", g, x)),
    "sub": ([IMAGE, (5, 1)], lambda n, x, y: n.op("Sub", x, y)),
    "one minus": ([IMAGE], lambda n, x: n.op("Sub", n.const(F(1)), x)),
    "square": ([IMAGE], lambda n, x: n.op("Mul", x, x)),
    "div": ([IMAGE], lambda n, x: n.op("Div", x, n.const(np.arange(1, 8, dtype=F)))),
    "max": ([IMAGE, IMAGE], lambda n, x, y: n.op("Max", x, y)),
    "prelu": ([IMAGE], lambda n, x: n.op("PRelu", x, n.const(np.linspace(-1, 1, 6, dtype=F).reshape(6, 1, 1)))),
    "concat": ([IMAGE, (2, 3, 5, 7), (2, 1, 5, 7)], lambda n, *x: n.op("Concat", *x, axis=1)),
    "matrices times a constant": ([(2, 4, 6)], lambda n, x: n.op("MatMul", x, known(n, 2, 6, 5))),
    "a constant times matrices": ([(2, 6, 5)], lambda n, x: n.op("MatMul", known(n, 4, 6), x)),
    "attention of learned queries": (
        [ATTENTION[1], ATTENTION[2]],
        lambda n, k, v: attention(n, known(n, 2, 3, 5, 7), k, v),
    ),
    "attention to learned keys": (
        [ATTENTION[0]],
        lambda n, q: attention(n, q, known(n, 2, 3, 6, 7), known(n, 2, 3, 6, 4)),
    ),
    "log softmax": ([IMAGE], lambda n, x: n.op("LogSoftmax", x, axis=1)),
    "concat with a constant": (
        [IMAGE, (2, 1, 5, 7)],
        lambda n, x, y: n.op("Concat", n.const(np.linspace(-2, 3, 140, dtype=F).reshape(2, 2, 5, 7)), x, y, axis=1),
    ),
    "class token": (
        [(1, 5, 9)],
        lambda n, x: n.op("Concat", n.const(np.linspace(-2, 3, 9, dtype=F)[None, None]), x, axis=1),
    ),
    "constant last": ([(3, 4)], lambda n, x: n.op("Concat", x, n.const(np.ones((3, 2), F)), axis=-1)),
    "concat of the last": ([(2, 3), (2, 5)], lambda n, *x: n.op("Concat", *x, axis=-1)),
    "slice": ([IMAGE], lambda n, x: n.op("Slice", x, *constants(n, [1, 5], [6, -9], [1, 3], [2, -2]))),
    "gather": ([IMAGE], lambda n, x: n.op("Gather", x, n.const(np.array([[4, 0], [-1, 2], [2, 2]])), axis=1)),
    "gather one": ([IMAGE], lambda n, x: n.op("Gather", x, n.const(np.array(-2)), axis=2)),
    "transpose": ([IMAGE], lambda n, x: n.op("Transpose", x, perm=[2, 0, 3, 1])),
    "expand": ([(6, 1, 7)], lambda n, x: n.op("Expand", x, n.const(np.array([2, 1, 5, 1])))),
    "reflect": ([IMAGE], lambda n, x: n.op("Pad", x, n.const(np.array([0, 0, 2, 3, 0, 0, 1, 0])), mode="reflect")),
    "edge": ([IMAGE], lambda n, x: n.op("Pad", x, n.const(np.array([0, 1, 2, 0, 0, 0, 1, 9])), mode="edge")),
    "pad": ([IMAGE], lambda n, x: n.op("Pad", x, *constants(n, [0, 0, 2, 3, 1, 0, 1, 0], F(0.75)))),
    "shuffle": ([(2, 8, 3, 5)], lambda n, x: n.op("DepthToSpace", x, blocksize=2)),
    "shuffle crd": ([(2, 8, 3, 5)], lambda n, x: n.op("DepthToSpace", x, blocksize=2, mode="CRD")),
    "nearest": ([IMAGE], lambda n, x: n.op("Resize", x, "", n.const(F([1, 1, 2, 3])), mode="nearest")),
    "nearest floor": (
        [IMAGE],
        lambda n, x: n.op(
            "Resize",
            x,
            "",
            "",
            n.const(np.array([2, 6, 8, 3])),
            coordinate_transformation_mode="asymmetric",
            mode="nearest",
            nearest_mode="floor",
        ),
    ),
    "bilinear": ([IMAGE], lambda n, x: n.op("Resize", x, "", n.const(F([1, 1, 2, 1.5])), mode="linear")),
    "bilinear by corners": (
        [IMAGE],
        lambda n, x: n.op(
            "Resize",
            x,
            "",
            "",
            n.const(np.array([2, 6, 9, 4])),
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
    ),
    "largest": ([IMAGE], lambda n, x: n.op("ReduceMax", x, n.const(np.array([1, 3])), keepdims=0)),
    "smallest": ([IMAGE], lambda n, x: n.op("ReduceMin", x, n.const(np.array([2])))),
    "sum": ([IMAGE], lambda n, x: n.op("ReduceSum", x)),
    "mean of channels": ([IMAGE], lambda n, x: n.op("ReduceMean", x, n.const(np.array([1])))),
    "largest pixel": ([IMAGE], lambda n, x: n.op("GlobalMaxPool", x)),
    "scores": ([(2, 3, 5, 7), (2, 3, 7, 6)], lambda n, q, k: n.op("MatMul", q, k)),
    "scores of one for all": ([(2, 3, 5, 7), (7, 9)], lambda n, q, k: n.op("MatMul", q, k)),
    "attention": (ATTENTION, lambda n, q, k, v: attention(n, q, k, v)),
    "attention, masked": (
        ATTENTION,
        lambda n, q, k, v: attention(n, q, k, v, n.const(np.triu(np.full((5, 6), -np.inf, F), 2))),
    ),
    "attention, filled": (ATTENTION, lambda n, q, k, v: attention(n, q, k, v, fill=F(-np.inf))),
    "attention of three masks": (
        [*ATTENTION, (2, 1, 1, 6)],
        lambda n, q, k, v, m: attention(n, q, k, v, n.const(F(n.rng.normal(size=(5, 6)))), m, fill=F(-1e4)),
    ),
    "attention of two masks that are known": (
        ATTENTION,
        lambda n, q, k, v: attention(n, q, k, v, n.const(F(n.rng.normal(size=(5, 6)))), fill=F(-np.inf)),
    ),
    "attention of heads that share keys": (
        [(2, 4, 5, 6), (2, 2, 5, 6), (2, 2, 5, 6)],
        lambda n, q, k, v: n.op("Attention", q, k, v, is_causal=1),
    ),
    "attention of rows": (
        [(2, 1, 12), (2, 7, 12), (2, 7, 8)],
        lambda n, q, k, v: n.op("Attention", q, k, v, q_num_heads=4, kv_num_heads=4, scale=0.3),
    ),
    "mask": ([(2, 5, 5)], lambda n, x: n.op("Softmax", n.op("Add", x, n.const(np.triu(F([[-np.inf] * 5] * 5), 1))))),
    "layer norm": (
        [(3, 4, 10)],
        lambda n, x: n.op("LayerNormalization", x, *constants(n, n.rng.normal(size=10).astype(F), F(np.arange(10)))),
    ),
    "instance norm": (
        [IMAGE],
        lambda n, x: n.op("InstanceNormalization", x, *constants(n, F(np.arange(6)), F(np.ones(6)))),
    ),
    "batch norm": (
        [IMAGE],
        lambda n, x: n.op("BatchNormalization", x, *constants(n, *n.rng.uniform(0.5, 2, (4, 6)).astype(F))),
    ),
    "transposed": (
        [(2, 6, 4, 5)],
        lambda n, x: n.op(
            "ConvTranspose",
            x,
            n.const(n.rng.normal(size=(6, 2, 3, 4)).astype(F)),
            n.const(F([1, 2, 3, 4])),
            group=2,
            strides=[2, 3],
            pads=[1, 0, 2, 1],
            output_padding=[1, 0],
            dilations=[2, 1],
        ),
    ),
    "transposed, ternary": (
        [(1, 6, 4, 5)],
        lambda n, x: n.op(
            "ConvTranspose", x, n.ternary(n.codes((6, 4, 2, 2), 0.5), n.rng.uniform(1, 2, 4), axis=1), strides=[2, 2]
        ),
    ),
}


def inputs_of(shapes: list[tuple[int, ...]], seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(F) for shape in shapes]


def check(net: Net, output: str, folder: Path, inputs: list[np.ndarray], step: float = 0.0) -> None:
    """C against onnxruntime; in 8 bits at most one of 100 numbers may be rounded to the other side, by one step."""
    model = net.model(output)
    code = portable.host_model(model, folder, VARIANTS["words"])
    for arrays in more_data(inputs):
        (wanted,), (have,) = run_onnx(model, *arrays), portable.as_list(code(*arrays))
        assert have.shape == wanted.shape
        np.testing.assert_allclose(have, wanted, rtol=2e-5, atol=max(2e-5, step * 1.01))
        if step:
            assert np.mean(np.abs(have - wanted) > step / 2) <= 0.01


def equal(model: onnx.ModelProto, folder: Path, inputs: list[np.ndarray]) -> None:
    """The only output of C against that of the library for CPUs, bit for bit."""
    code = portable.host_model(model, folder / "c", VARIANTS["words"])
    onnx.save(model, folder / "model.onnx")
    tvm_schedules.build(folder / "model.onnx", folder / "library", "host", verify=False)
    library = tvm_schedules.load(folder / "library")
    for arrays in more_data(inputs):
        (have,), wanted = portable.as_list(code(*arrays)), library(*arrays)
        assert isinstance(wanted, np.ndarray)
        np.testing.assert_array_equal(have, wanted)


@pytest.mark.parametrize("name", CASES)
def test_in_floats(tmp_path: Path, name: str) -> None:
    shapes, make = CASES[name]
    net = Net(*shapes)
    check(net, make(net, *(f"input_{i}" for i in range(len(shapes)))), tmp_path, inputs_of(shapes))


@pytest.mark.parametrize("name", CASES)
def test_in_bytes(tmp_path: Path, name: str) -> None:
    """Inputs and output have 8 bits, with scales of their own; nothing is a float in between."""
    shapes, make = CASES[name]
    net = Net(*shapes)
    names = [net.quantize(f"input_{i}", 0.02 + 0.0051 * i, 120 + i) for i in range(len(shapes))]
    check(net, net.quantize(make(net, *names), 0.05, 100), tmp_path, inputs_of(shapes), 0.05)


@pytest.mark.parametrize("name", [pytest.param(n, marks=X86) if "attention" in n else n for n in CASES])
def test_in_bytes_as_the_cpu_library(tmp_path: Path, name: str) -> None:
    """Bit for bit."""
    shapes, make = CASES[name]
    net = Net(*shapes)
    names = [net.quantize(f"input_{i}", 0.02 + 0.0051 * i, 120 + i) for i in range(len(shapes))]
    model, inputs = net.model(net.quantize(make(net, *names), 0.05, 100)), inputs_of(shapes)
    equal(model, tmp_path, inputs)


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_number(tmp_path: Path, name: str) -> None:
    """Every byte through its table, bit for bit; floats near and far."""
    net = Net((1, 256))
    x = F((np.arange(256) - 128) * 0.05)[None]
    y = net.op(name, net.quantize("input_0", 0.05, 128), **UNARY[name])
    check(net, net.quantize(y, 0.031, 90), tmp_path / "bytes", [x], 0.031)
    assert "table8" in (tmp_path / "bytes" / "model.c").read_text()
    net = Net((1, 1000))
    far = np.concatenate([np.linspace(-12, 12, 990), [-90, -30, -1e-6, 0, 1e-6, 1e-3, 20, 30, 40, -100]]).astype(F)
    check(net, net.op(name, "input_0", **UNARY[name]), tmp_path / "floats", [far[None]])


POSITIVE = {f"Pow {e}": e for e in (2, 3, 4, 0.5, -0.5, -1, 1.5, -2, 0, 1)} | dict.fromkeys(("Log", "Sqrt", "Softplus"))


@pytest.mark.parametrize("name", POSITIVE)
def test_functions_of_one_positive_number(tmp_path: Path, name: str) -> None:
    """From the smallest numbers of float32 to large ones; bytes bit for bit."""
    exponent = POSITIVE[name]

    def make(net: Net, x: str) -> str:
        return net.op(name.split()[0], x, *([] if exponent is None else [net.const(F(exponent))]))

    net = Net((1, 256))
    x = F(np.arange(1, 257) * 0.01)[None]
    model = net.model(net.quantize(make(net, net.quantize("input_0", 0.01, 0)), 0.05, 90))
    equal(model, tmp_path, [x])
    net = Net((1, 1000))
    end = 30 if exponent is None else 30 / max(1, abs(exponent))
    x = np.concatenate([np.exp2(np.linspace(-end, end, 990)), np.linspace(0.9, 1.1, 10)]).astype(F)[None]
    model = net.model(make(net, "input_0"))
    have, (want,) = portable.host_model(model, tmp_path / "floats")(x), run_onnx(model, x)
    np.testing.assert_allclose(have, want, rtol=5e-7, atol=2e-7 if exponent is None else 0)


def test_powers_without_a_form_are_refused(tmp_path: Path) -> None:
    for exponent in (0.3, 9.0):
        net = Net((1, 8))
        with pytest.raises(UnsupportedOperatorError, match="no code for this form of the operator Pow"):
            portable.host_model(net.model(net.op("Pow", "input_0", net.const(F(exponent)))), tmp_path)


BEHIND: dict[str, Callable[[Net, str], str]] = {
    **{name: partial(lambda name, n, x: n.op(name, x), name) for name in ("Sigmoid", "HardSwish", "Gelu", "Tanh")},
    "HardSigmoid": lambda n, x: n.op("HardSigmoid", x, alpha=1 / 6),
    "SiLU": lambda n, x: n.op("Mul", x, n.op("Sigmoid", x)),  # as networks write it
    "Gelu by tanh": lambda n, x: n.op("Gelu", x, approximate="tanh"),
}


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        *((kind, "ternary") for kind in BEHIND),
        *(("SiLU", one) for one in ("two terms", "dense", "depthwise", "strided")),
    ],
)
def test_layers_compute_their_activation_function(tmp_path: Path, kind: str, layer: str) -> None:
    """What they give is never a float in memory; the next layer may read phases."""
    net = Net((1, 4, 9, 9))
    dense, groups = layer in ("dense", "depthwise"), 4 if layer == "depthwise" else 1
    weight = net.weight((8, 4 // groups, 3, 3), None if dense else 0.5, 2 if layer == "two terms" else 1, int8=dense)
    x = net.op("Conv", net.quantize("input_0", 0.02, 128), weight, net.bias(8), pads=[1] * 4, group=groups)
    y = net.quantize(BEHIND[kind](net, x), 0.02, 30)
    steps = [2, 2] if layer == "strided" else [1, 1]
    after = net.op("Conv", y, net.weight((3, 8, 3, 3), 0.5), pads=[1] * 4, strides=steps)
    model, last = net.model(y, after), net.model(after)
    for variant in ("native", "words", "fixed"):
        code = portable.host_model(model, tmp_path / variant, VARIANTS[variant])
        for (x0,) in more_data(inputs_of([(1, 4, 9, 9)])):
            away = np.abs(portable.as_list(code(x0))[0] - run_onnx(model, x0)[0]) / 0.02
            assert away.max() < 1.01
            assert (away > 0.5).mean() < 0.01
    plan = portable.generate(last, tmp_path / "plan")
    assert not [step for step in plan.steps if "each_" in step.kernel]
    sums = portable.generate(net.model(x), tmp_path / "plan")
    assert plan.arena_bytes is not None
    assert sums.arena_bytes is not None
    assert plan.arena_bytes < sums.arena_bytes


@pytest.mark.parametrize("table", ["floats", "ternary", "computed", "bytes"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_indices_that_are_computed(tmp_path: Path, table: str, dtype: type[np.integer]) -> None:
    """Embeddings of tokens; rows of another tensor, along another axis."""
    rng = np.random.default_rng(3)
    known, axis = table in ("floats", "ternary"), 0 if table in ("floats", "ternary") else 1
    net = Net((2, 9, 5))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    net.inputs.append(helper.make_tensor_value_info("tokens", kind, (2, 3)))
    x = net.quantize("input_0", 0.02, 128) if table == "bytes" else "input_0"
    if known:
        numbers = rng.normal(size=(9, 40)) if table == "floats" else rng.choice([-0.5, 0, 0.5], (9, 40))
        x = net.const(numbers.astype(F))
    y = net.op("Gather", x, "tokens", axis=axis)
    outputs = [net.quantize(y, 0.02, 128) if table == "bytes" else y, *([net.op("Neg", "input_0")] if known else [])]
    model = net.model(*outputs)
    tokens = np.array([[0, 8, -1], [4, -9, 3]], dtype)
    (x0,) = inputs_of([(2, 9, 5)])
    have = portable.as_list(portable.host_model(model, tmp_path)(x0, tokens))
    np.testing.assert_array_equal(have[0], run_onnx(model, x0, tokens)[0])
    assert ("numbers_" in (tmp_path / "model.c").read_text()) == (table == "ternary")
    if table == "computed":  # no index leads out of the table
        (far,) = portable.as_list(portable.host_model(model, tmp_path)(x0, np.full((2, 3), 2**31 - 1, dtype)))
        np.testing.assert_array_equal(far, np.broadcast_to(x0[:, None, 8:9], far.shape))


def test_several_outputs_and_places(tmp_path: Path) -> None:
    net = Net((2, 7, 3))
    left = net.op("Split", "input_0", net.const(np.array([4, 3])), outputs=2, axis=1)
    model = net.model(left, f"{left}_1")
    model.graph.node.append(helper.make_node("ArgMax", ["input_0"], ["place"], axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("place", TensorProto.INT64, (2, 3)))
    (x,) = inputs_of([(2, 7, 3)])
    x[0, 2] = x[0, 5]  # the first of equal ones
    for ours, theirs in zip(portable.host_model(model, tmp_path)(x), run_onnx(model, x), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_squeeze_and_excite_and_channel_shuffle_as_the_cpu_library(tmp_path: Path) -> None:
    """One network with most operators in 8 bits, against this package's library for CPUs."""
    net = Net((1, 8, 6, 6))
    x = net.quantize("input_0", 0.02, 128)
    y = net.quantize(net.op("Relu", net.op("Conv", x, net.weight((8, 8, 3, 3), 0.5), net.bias(8), pads=[1] * 4)), 0.03)
    s = net.op("Flatten", net.quantize(net.op("GlobalAveragePool", y), 0.02))
    s = net.op("Gemm", s, net.weight((8, 8), 0.5), net.bias(8), transB=1)
    s = net.op("Sigmoid", net.quantize(s, 0.03, 128))
    s = net.op("Reshape", net.quantize(s, 1 / 255), net.const(np.array([1, 8, 1, 1])))
    y = net.quantize(net.op("Mul", y, s), 0.02)
    y = net.op("Transpose", net.op("Reshape", y, net.const(np.array([1, 2, 4, 6, 6]))), perm=[0, 2, 1, 3, 4])
    y = net.quantize(net.op("Reshape", y, net.const(np.array([1, 8, 6, 6]))), 0.02)
    y = net.op("Conv", y, net.weight((4, 8, 1, 1), 0.4))
    model, (x0,) = net.model(y), inputs_of([(1, 8, 6, 6)])
    np.testing.assert_allclose(portable.host_model(model, tmp_path)(x0), Runner(model)(x0)[0], rtol=1e-5, atol=1e-5)


RECURRENT = [
    Case("GRU"),
    Case("GRU", kind="float", states=True, hidden=7, attrs={"linear_before_reset": 1}),
    Case("GRU", kind="int8", direction="bidirectional", hidden=5, results=(True, False, False)),
    Case("LSTM", states=True, hidden=6),
    Case("LSTM", kind="levels", direction="reverse", results=(False, True, True)),
    Case("LSTM", direction="bidirectional", batch=1, steps=5, kind="int8"),
    Case("RNN", kind="ternary", results=(True, True, False)),
    Case("RNN", kind="float", attrs={"activations": ["Relu"]}, results=(False, True, False)),
]


@pytest.mark.parametrize("case", RECURRENT, ids=lambda case: f"{case.op}-{case.kind}-{case.direction}-{case.hidden}")
def test_recurrent(tmp_path: Path, case: Case) -> None:
    model = recurrent(case, seed=3)
    inputs = inputs_of([tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input])
    have = portable.as_list(portable.host_model(model, tmp_path, VARIANTS["words"])(*inputs))
    for ours, theirs in zip(have, run_onnx(model, *inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_frame_by_frame_is_the_whole_sequence(tmp_path: Path) -> None:
    """A network of one step whose state goes in and comes out."""
    whole = recurrent(Case("GRU", steps=6, batch=1, states=True), seed=4)
    frame = recurrent(Case("GRU", steps=1, batch=1, states=True), seed=4)
    x, h = inputs_of([(6, 1, 8), (1, 1, 8)])
    want, _ = portable.host_model(whole, tmp_path / "whole")(x, h)
    step = portable.host_model(frame, tmp_path / "frame")
    for t in range(6):
        y, h = step(x[t : t + 1], h)
        np.testing.assert_array_equal(y[0], want[t])


@compilations(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    drops=st.tuples(st.integers(0, 31), st.integers(0, 31)),
    op=st.sampled_from(["Add", "Sub", "Mul", "Max", "Min", "PRelu"]),
    seed=st.integers(0, 9),
)
def test_any_two_shapes(tmp_path: Path, shape: list[int], drops: tuple[int, int], op: str, seed: int) -> None:
    """Axes of either operand may be 1 and repeated."""
    shapes = [tuple(1 if drop >> i & 1 else size for i, size in enumerate(shape)) for drop in drops]
    if op == "PRelu":
        shapes[0] = tuple(shape)
    net = Net(*shapes)
    check(net, net.op(op, "input_0", "input_1"), tmp_path, inputs_of(shapes, seed))


@compilations(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shape=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_any_order(tmp_path: Path, data: st.DataObject, shape: list[int]) -> None:
    net = Net(tuple(shape))
    perm = data.draw(st.permutations(range(len(shape))))
    check(net, net.op("Transpose", "input_0", perm=list(perm)), tmp_path, inputs_of([tuple(shape)]))


COUNTS = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@compilations(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(*[st.integers(1, 9)] * 2),
    scale=st.tuples(*[st.sampled_from([0.4, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 3.7])] * 2),
    by_scale=st.booleans(),
    count=st.sampled_from(COUNTS),
    nearest=st.sampled_from([None, None, *NEAREST]),
    scales=st.sampled_from([(0.02, 0.05), (0.03125, 0.0625), (0.017, 0.017)]),
)
@example(size=(2, 2), scale=(0.5, 1.25), by_scale=True, count="half_pixel", nearest=None, scales=(0.02, 0.05))
@example(size=(2, 2), scale=(1.25, 1.25), by_scale=True, count="half_pixel", nearest=None, scales=(0.02, 0.05))
def test_any_resize(
    tmp_path: Path,
    size: tuple[int, int],
    scale: tuple[float, float],
    by_scale: bool,
    count: str,
    nearest: str | None,
    scales: tuple[float, float],
) -> None:
    """In floats onnxruntime's numbers, in bytes the library's bit for bit, where many lie between two bytes."""
    out = [max(1, int(n * one)) for n, one in zip(size, scale, strict=True)]
    by_scale = by_scale and min(int(n * one) for n, one in zip(size, scale, strict=True)) > 0
    attributes: dict[str, object] = {"coordinate_transformation_mode": count, "mode": "linear"}
    attributes |= {"mode": "nearest", "nearest_mode": nearest} if nearest else {}
    shape = (1, 2, *size)

    def resize(net: Net, x: str) -> str:
        ends = [F([1, 1, *scale])] if by_scale else [np.zeros(0, F), np.array([1, 2, *out])]
        return net.op("Resize", x, "", *constants(net, *ends), **attributes)

    net = Net(shape)
    inputs = inputs_of([shape])
    check(net, resize(net, "input_0"), tmp_path, inputs)
    net = Net(shape)
    y = net.quantize(resize(net, net.quantize("input_0", scales[0], 120)), scales[1], 100)
    equal(net.model(y), tmp_path, inputs)


@compilations(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.integers(1, 3),
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    masked=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_attention(tmp_path: Path, heads: int, sizes: tuple[int, int, int, int], masked: bool, seed: int) -> None:
    """One step, whose scores of all rows are never there together; a mask may be computed."""
    rows, keys, depth, width = sizes
    shapes: list[tuple[int, ...]] = [(heads, rows, depth), (heads, keys, depth), (heads, keys, width)]
    shapes += [(rows, keys)] if masked else []
    net = Net(*shapes)
    scores = net.op("MatMul", "input_0", net.op("Transpose", "input_1", perm=[0, 2, 1]))
    scores = net.op("Add", scores, "input_3") if masked else scores
    y = net.op("MatMul", net.op("Softmax", scores), "input_2")
    check(net, y, tmp_path, inputs_of(shapes, seed))
    assert [step.kernel for step in portable.generate(net.model(y), tmp_path).steps] == ["attention"]


@X86
@compilations(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.integers(1, 3),
    sizes=st.tuples(st.integers(4, 9), st.integers(1, 40), st.integers(1, 19), st.integers(1, 19)),
    masks=st.lists(st.sampled_from(["all", "rows", "keys", "heads", "given"]), max_size=2),
    fill=st.sampled_from([None, -np.inf, -1e4]),
    scales=st.sampled_from([(0.02, 0.05), (0.03125, 0.015625)]),
)
def test_any_attention_of_bytes(
    tmp_path: Path,
    heads: int,
    sizes: tuple[int, int, int, int],
    masks: list[str],
    fill: float | None,
    scales: tuple[float, float],
) -> None:
    """The library's numbers, bit for bit, with up to three masks."""
    rows, keys, depth, width = sizes
    places = {"all": (rows, keys), "rows": (rows, 1), "keys": (keys,), "heads": (heads, 1, keys)}
    shapes: list[tuple[int, ...]] = [(heads, rows, depth), (heads, keys, depth), (heads, keys, width)]
    net = Net(*shapes, *[(rows, keys)] * masks.count("given"))
    q, k, v = (net.quantize(f"input_{i}", scales[0] * (1 + i / 2), 120 + i) for i in range(3))
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])), net.const(F(depth**-0.5)))
    if fill is not None:
        seen = net.rng.random((rows, keys)) < 0.6
        seen[:, 0] = True
        scores = net.op("Where", net.const(seen), scores, net.const(F(fill)))
    for number, kind in enumerate(masks):
        given_ = f"input_{3 + masks[:number].count('given')}"
        scores = net.op("Add", scores, given_ if kind == "given" else net.const(F(net.rng.normal(size=places[kind]))))
    model = net.model(net.quantize(net.op("MatMul", net.op("Softmax", scores), v), scales[1], 100))
    assert "attention" in [step.kernel for step in portable.generate(model, tmp_path / "plan").steps]
    equal(model, tmp_path, inputs_of([*shapes, *[(rows, keys)] * masks.count("given")]))


def test_attention_of_rows_without_a_key(tmp_path: Path) -> None:
    net = Net((2, 5, 6), (2, 6, 4), (2, 4, 3), (5, 4))
    weights = net.op("Softmax", net.op("Add", net.op("MatMul", "input_0", "input_1"), "input_3"))
    y = net.op("MatMul", net.op("Where", net.op("IsNaN", weights), net.const(F(0)), weights), "input_2")
    inputs = inputs_of([(2, 5, 6), (2, 6, 4), (2, 4, 3), (5, 4)])
    inputs[3][1], inputs[3][2, 1:] = -np.inf, -np.inf
    check(net, y, tmp_path, inputs)
    assert [step.kernel for step in portable.generate(net.model(y), tmp_path).steps] == ["attention"]
    assert not portable.as_list(portable.host_model(net.model(y), tmp_path)(*inputs))[0][:, 1].any()


@compilations(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.tuples(*[st.integers(1, 9)] * 4), zeros=st.tuples(*[st.integers(0, 255)] * 3), seed=st.integers(0, 9))
def test_products_of_bytes_are_exact(
    tmp_path: Path, sizes: tuple[int, int, int, int], zeros: tuple[int, int, int], seed: int
) -> None:
    """Bit for bit: the sum in integers, one product of floats, one rounding."""
    pairs, rows, inner, columns = sizes
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (pairs, rows, inner)), rng.integers(0, 256, (inner, columns))
    scales = F([0.02, 0.03, 0.5])
    net = Net((pairs, rows, inner), (inner, columns))
    names = [net.quantize(f"input_{i}", float(scales[i]), zeros[i]) for i in (0, 1)]
    model = net.model(net.quantize(net.op("MatMul", *names), float(scales[2]), zeros[2]))
    given_ = [F(q - zero) * scale for q, zero, scale in zip((a, b), zeros[:2], scales[:2], strict=True)]
    (have,) = portable.as_list(portable.host_model(model, tmp_path)(*given_))
    sums = F((a - zeros[0]) @ (b - zeros[1])) * (scales[0] * scales[1])
    codes = np.clip(np.rint(np.clip(sums / scales[2], -1024, 1024)) + zeros[2], 0, 255)
    np.testing.assert_array_equal(have, F(codes - zeros[2]) * scales[2])


def test_memory_of_operators(tmp_path: Path) -> None:
    """All cases in one network, every tensor in memory of its own, under the sanitizers."""
    shapes: list[tuple[int, ...]] = []
    for own, _ in CASES.values():
        shapes += [shape for shape in own if shape not in shapes]
    net, outputs = Net(*shapes), []
    for own, make in CASES.values():
        names = [f"input_{shapes.index(shape)}" for shape in own]
        outputs += [make(net, *names), make(net, *(net.quantize(name, 0.03, 128) for name in names))]
    outputs.append(net.op("Conv", net.quantize(names[0]), net.weight((3, 6, 1, 1), 0.5)))
    model, inputs = net.model(*outputs), inputs_of(shapes)
    plan = portable.generate(model, tmp_path)
    compiler = portable.sanitizer()
    if compiler is None:
        pytest.skip("no C compiler with sanitizers")
    portable.apart(tmp_path)
    options = [
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wno-sign-conversion",
        "-Wdouble-promotion",
        "-Wfloat-equal",
        "-Werror",
    ]
    options.append("-Wno-unused-parameter")  # the arena, which nothing lies in here
    program = portable.build_program(tmp_path, plan, [*compiler, *options])
    wanted = run_onnx(model, *inputs)
    for ours, theirs in zip(portable.run_program([str(program)], plan, inputs), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_forms_that_have_no_code_are_named() -> None:
    assert {"Softmax", "Concat", "GRU", "Resize"} <= operators.known().keys()
    net = Net((1, 2, 4, 4))
    model = net.model(net.op("Resize", "input_0", "", net.const(F([1, 1, 2, 2])), mode="cubic"))
    with pytest.raises(UnsupportedOperatorError, match="no code for this form of the operator Resize"):
        compile_c(model, resolve("c"))
