from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules import artifact_nets
from tvm_schedules.errors import VerificationError
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.verify import outputs as verify
from tvm_schedules.verify.reference import reference_outputs, reference_session
from tvm_schedules.verify.samples import random_samples


def test_measures() -> None:
    expected = np.array([[1.0, 2.0, -4.0], [0.0, 1.0, 3.0]], np.float32)
    actual = expected + np.float32(0.5) * np.array([[0, 1, 0], [0, 0, -1]], np.float32)
    report = verify.compare("y", actual, expected, step=0.25)
    assert report.max_abs == 0.5
    assert report.relative == 0.125
    assert report.steps == 2.0
    assert report.top1 == 1.0
    a, b = actual.ravel(), expected.ravel()
    assert report.cosine == pytest.approx(float(a @ b / np.sqrt((a @ a) * (b @ b))))
    assert verify.compare("y", actual[:, ::-1], expected).top1 == 0.5


@pytest.mark.parametrize(
    ("error", "step", "quantized", "passed"),
    [
        (0.0, None, False, True),
        (5e-4, None, False, True),
        (5e-3, None, False, False),
        (5e-3, None, True, True),
        (0.2, None, True, False),
        (0.2, 0.2, True, True),  # one step of a coarse output
        (0.2, 0.1, True, False),
        (np.nan, None, True, False),
        (np.inf, 1.0, True, False),
    ],
)
def test_pass_criterion(error: float, step: float | None, quantized: bool, passed: bool) -> None:
    expected = np.array([[1.0, -0.5, 0.25]], np.float32)
    actual = expected.copy()
    actual[0, 2] += np.float32(error)
    assert verify.compare("y", actual, expected, step, quantized).passed is passed


def test_the_same_infinity_is_agreement() -> None:
    value = np.array([[np.inf, -np.inf, np.nan, 1.0]], np.float32)
    assert verify.compare("y", value, value).passed
    assert not verify.compare("y", -value, value).passed


def test_other_shape_or_dtype_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"output 'y' is float32\[2\], onnxruntime's is float32\[3\]"):
        verify.compare("y", np.zeros(2, np.float32), np.zeros(3, np.float32))


def test_random_samples_fill_the_range_of_the_quantizer() -> None:
    runs = random_samples(artifact_nets.conv_net())
    values = np.concatenate([run["x"].ravel() for run in runs])
    assert values.dtype == np.float32
    assert -128 * 6 / 255 <= values.min() < -2.9
    assert 2.8 < values.max() <= 127 * 6 / 255
    np.testing.assert_array_equal(runs[0]["x"], random_samples(artifact_nets.conv_net())[0]["x"])


def broken(node: str) -> Callable[[Any], verify.Runner]:
    """onnxruntime with another bias in one convolution: a library that is wrong from there on."""

    def make(probe: Any) -> verify.Runner:
        changed = onnx.ModelProto()
        changed.CopyFrom(probe)
        bias = next(tensor for tensor in changed.graph.initializer if tensor.name == f"{node}.bias")
        value = onnx.numpy_helper.to_array(bias) + np.float32(0.5)
        bias.CopyFrom(onnx.numpy_helper.from_array(value, bias.name))
        session = reference_session(changed)
        return lambda x: tuple(session.run(None, {"x": x}))

    return make


@pytest.mark.parametrize(("quantized", "expected"), [(True, "'relu2.dq'"), (False, "'conv2.out'")])
def test_the_first_difference_is_found(quantized: bool, expected: str) -> None:
    model = artifact_nets.conv_net(quantized)
    runs = random_samples(model, 2)
    found = verify.first_difference(model, runs, broken("conv2"))
    assert found is not None
    assert found.startswith(expected)
    report = verify.compare_runs(
        model, verify.run_all(broken("conv2")(model), runs), reference_outputs(model, runs), "x"
    )
    with pytest.raises(VerificationError, match="does not agree with onnxruntime"):
        report.check()


@pytest.mark.parametrize("quantized", [True, False])
def test_float_model_is_the_same_network(quantized: bool) -> None:
    model = artifact_nets.conv_net(quantized)
    runs = random_samples(model, 4)
    kept = onnxtools.float_model(model, strip_activations=False)
    stripped = onnxtools.float_model(model)
    for changed in (kept, stripped):
        onnx.checker.check_model(changed)
        assert {tensor.data_type for tensor in changed.graph.initializer} <= {
            onnx.TensorProto.FLOAT,
            onnx.TensorProto.UINT8,
        }
    exact = verify.compare_runs(model, reference_outputs(kept, runs), reference_outputs(model, runs), "")
    assert exact.outputs[0].relative < 1e-5
    assert not any("Quantize" in node.op_type for node in stripped.graph.node)
    near = verify.compare_runs(model, reference_outputs(stripped, runs), reference_outputs(model, runs), "")
    assert near.outputs[0].cosine > 0.99


def half(cast: bool) -> onnx.ModelProto:
    """Two products and a normalization, in half precision throughout or behind a cast."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    kind = TensorProto.FLOAT if cast else TensorProto.FLOAT16
    nodes = [
        *([helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16)] if cast else []),
        helper.make_node("MatMul", ["h" if cast else "x", "a"], ["p"]),
        helper.make_node("Tanh", ["p"], ["t"]),
        helper.make_node("MatMul", ["t", "b"], ["q"]),
        helper.make_node("Softmax", ["q"], ["s"]),
        *([helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT)] if cast else []),
    ]
    if not cast:
        nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, (4, 64))],
        [helper.make_tensor_value_info("y", kind, (4, 32))],
        [
            numpy_helper.from_array((random.normal(size=s) / 4).astype(np.float16), n)
            for n, s in (("a", (64, 256)), ("b", (256, 32)))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("cast", [False, True])
def test_half_precision_is_judged_by_its_own_steps(cast: bool, tmp_path: Any) -> None:
    model = half(cast)
    limit = verify.float_limit(model)
    assert limit == 16 / 1024
    assert tvm_schedules.build(model, tmp_path / "out").report.passed
    runs = random_samples(model, 2)
    expected = reference_outputs(model, runs)
    scale = np.abs(np.stack(expected)).max()
    for share, passed in ((0.5, True), (2.0, False)):
        wrong = [[y.copy() for y in run] for run in expected]
        wrong[0][0][0, 0] += np.asarray(share * limit * scale, wrong[0][0].dtype)
        report = verify.compare_runs(model, wrong, expected, "here")
        assert report.passed is passed
    with pytest.raises(VerificationError, match=r"relative <= 0.0156"):
        report.check()


def test_single_precision_keeps_its_bound() -> None:
    assert verify.float_limit(artifact_nets.conv_net(quantized=False)) == verify.FLOAT_RELATIVE
