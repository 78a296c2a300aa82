"""Operators without a kernel of ours on graphics processors, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.backends.gpu.runners import GpuRunner
from tests.tvm_schedules.compiling import compile_gpu
from tests.tvm_schedules.fallback.operator_cases import CASES
from tests.tvm_schedules.fallback.test_operators import inputs_of, reference
from tvm_schedules.backends.gpu import nvrtc
from tvm_schedules.errors import LinkError
from tvm_schedules.targets.registry import resolve

SOME = [
    "Sigmoid", "Softmax columns", "LayerNormalization", "ReduceMean (1, 2)", "ArgMax", "Concat", "Gather", "Where",
    "Resize linear", "MatMul batched", "ConvTranspose odd", "CumSum",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "target"), [(name, "cuda" if index % 2 else "opencl") for index, name in enumerate(SOME)]
)
def test_operator(name: str, target: str) -> None:
    model = onnx.shape_inference.infer_shapes(CASES[name](), data_prop=True)
    inputs = inputs_of(model)
    runner = GpuRunner(model, target)
    assert all(step.kernel == "fallback" for step in runner.plan.steps)
    have = runner(*(inputs[entry.name] for entry in runner.plan.inputs))
    for got, want in zip(have, reference(model, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["Exp", "Gather"])
def test_source_compiles_without_headers(name: str) -> None:
    try:
        nvrtc.check([87])
    except LinkError as error:
        pytest.skip(str(error))
    model = onnx.shape_inference.infer_shapes(CASES[name](), data_prop=True)
    content = nvrtc.fatbin(compile_gpu(model, resolve("sm_87")).source, [87])
    assert sorted(nvrtc.images(content)) == ["compute_87", "sm_87"]
