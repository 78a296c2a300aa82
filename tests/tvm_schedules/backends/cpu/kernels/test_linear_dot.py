"""Residuals of linear layers with dot products, against onnxruntime; all memory is guarded."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tvm_schedules.guarded import guarded
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.targets.registry import resolve

pytestmark = pytest.mark.skipif(available(resolve("host")) is None, reason="needs a CPU with 8-bit dot products")


@pytest.mark.parametrize("residual", ["float", "quantized"])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "ternary"),
    [(1, 48, 33, True), (3, 20, 7, False), (20, 64, 80, False), (7, 36, 130, False)],
)
def test_residuals(rows: int, inputs: int, outputs: int, ternary: bool, residual: str) -> None:
    net = Net((rows, inputs), (rows, outputs))
    weight = net.weight((outputs, inputs), 0.6) if ternary else net.weight((outputs, inputs), None, int8=True)
    y = net.op("Gemm", net.quantize("input_0", 0.03, 7), weight, net.bias(outputs), transB=1)
    y = net.op("Add", y, "input_1" if residual == "float" else net.quantize("input_1", 0.03, 90))
    model = net.model(net.op("Relu", y))
    rng = np.random.default_rng(0)
    inputs_ = [rng.normal(size=s).astype(np.float32) for s in ((rows, inputs), (rows, outputs))]
    assert "linear_dot" in [step.kernel for step in Runner(model).plan.steps]
    np.testing.assert_allclose(guarded(model, *inputs_)[0], run_onnx(model, *inputs_)[0], rtol=1e-5, atol=1e-5)
