"""Linear layers by pairs of products on x86 without dot products; all memory is guarded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tests.tvm_schedules.guarded import guarded
from tests.tvm_schedules.nets import Net, Runner, run_onnx
from tvm_schedules.packing.linear_pairs import pack
from tvm_schedules.targets.registry import resolve

AVX2 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}'
without = pytest.mark.skipif("avx2" not in resolve("host").features, reason="needs a CPU with AVX2")


def layer(rows: int, inputs: int, outputs: int, zeros: float | None, residual: str | None = None) -> Any:
    """A network whose rows are quantized inside of it, so that more than a row's end may be read."""
    net = Net((rows, inputs), (rows, outputs))
    weight = net.weight((outputs, inputs), zeros, int8=True)
    x = net.quantize(net.op("Relu", net.quantize("input_0", 0.03, 7)), 0.03, 3)
    y = net.op("Gemm", x, weight, net.bias(outputs), transB=1)
    if residual:
        y = net.op("Add", y, "input_1" if residual == "float" else net.quantize("input_1", 0.03, 90))
    else:
        y = net.op("Add", y, net.op("Mul", "input_1", net.const(np.zeros(1, np.float32))))
    return net.model(net.quantize(net.op("Relu", y), 0.05, 0) if residual == "bytes" else y)


@without
@pytest.mark.parametrize("residual", [None, "float", "bytes"])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "zeros"),
    [
        (1, 48, 33, 0.6),
        (1, 1, 1, 0.0),
        (1, 129, 40, 0.8),
        (3, 260, 70, 0.5),
        (4, 15, 8, 0.3),
        (1, 21, 100, None),
        (7, 36, 130, None),
        (11, 33, 9, None),
    ],
)
def test_against_onnxruntime(rows: int, inputs: int, outputs: int, zeros: float | None, residual: str | None) -> None:
    model = layer(rows, inputs, outputs, zeros, residual)
    rng = np.random.default_rng(0)
    inputs_ = [rng.normal(size=s).astype(np.float32) for s in ((rows, inputs), (rows, outputs))]
    assert "linear_pairs" in [step.kernel for step in Runner(model, AVX2).plan.steps]
    np.testing.assert_allclose(guarded(model, *inputs_, target=AVX2)[0], run_onnx(model, *inputs_)[0], 1e-5, 1e-5)


@without
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("ternary", [True, False])
def test_the_largest_sums_are_exact(rows: int, sign: int, ternary: bool) -> None:
    """Every pixel is 255 and every weight the largest or the smallest: nothing saturates."""
    net, inputs, outputs = Net((rows, 700)), 700, 9
    whole = np.full((outputs, inputs), sign if ternary else 127 * sign - (sign < 0), np.int8)
    ones = np.ones(outputs)
    weight = net.ternary(whole, ones) if ternary else net.int8(whole, ones)
    x = net.quantize(net.op("Relu", net.quantize("input_0", 1.0, 0)), 1.0, 0)
    model = net.model(net.op("Gemm", x, weight, transB=1))
    (found,) = guarded(model, np.full((rows, inputs), 1000, np.float32), target=AVX2)
    np.testing.assert_array_equal(found, np.full((rows, outputs), 255.0 * inputs * float(whole[0, 0])))


@examples(40)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_packed_weights_are_where_the_kernel_reads_them(
    outputs: int, inputs: int, tile: int, ternary: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-1, 2, (outputs, inputs)) if ternary else rng.integers(-128, 128, (outputs, inputs))
    found = pack(values.astype(np.int8), ternary, tile)
    step, beside = (16, 4) if ternary else (2, 2)
    assert found.shape == (-(-outputs // (8 * tile)), -(-inputs // step), tile, 8, beside)
    for o, i in np.ndindex(found.shape[0] * tile * 8, found.shape[1] * step):
        byte = int(found[o // (8 * tile), i // step, o // 8 % tile, o % 8, i % beside])
        there = o < outputs and i < inputs
        if ternary:
            code = byte >> i % 16 // 4 * 2 & 3
            assert code == (values[o, i] + 1 if there else 0)
        else:
            assert byte == (values[o, i] if there else 0)
