"""Every operator against onnxruntime over odd shapes, with one and two threads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

pytest.importorskip("tvm")
ort = pytest.importorskip("onnxruntime")

from tests.tvm_schedules.fallback.operator_cases import CASES, I64, RNG, f  # noqa: E402
from tests.tvm_schedules.fallback.program_runner import compile_onnx  # noqa: E402


def reference(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(model.SerializeToString(), options).run(None, inputs)


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    made = {}
    for value in model.graph.input:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        made[value.name] = RNG.integers(0, 5, shape) if value.type.tensor_type.elem_type == I64 else f(*shape)
    return made


def check(model: onnx.ModelProto, rtol: float = 2e-5, atol: float = 2e-5) -> None:
    import tvm

    inputs = inputs_of(model)
    expected = reference(model, inputs)
    runnable = compile_onnx(model)
    for threads in (1, 2):
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        for got, want in zip(runnable(inputs), expected, strict=True):
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, caplog: pytest.LogCaptureFixture) -> None:
    check(CASES[name]())
    assert not caplog.records  # a rule that fails falls back, correct but slow
