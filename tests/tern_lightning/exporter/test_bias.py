"""Biases that are added by nodes of their own: the same numbers, and no convolution of 2-bit weights with a bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tern_lightning.exporter.bias import separate_biases
from tests.tvm_schedules.nets import Net, run_onnx

DIMS = [(9,), (6, 7), (4, 5, 6)]


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["2 bits", "two terms", "floats"])
def test_nothing_changes(dims: tuple[int, ...], bias: bool, kind: str) -> None:
    net = Net((2, 3, *dims))
    weight = net.weight((5, 3, *[3] * len(dims)), None if kind == "floats" else 0.4, terms=1 + (kind == "two terms"))
    y = net.op("Conv", "input_0", weight, *([net.bias(5)] if bias else []))
    model = net.model(net.op("Relu", y), y, net.op("Add", net.op("Neg", y), y))
    made = ir.from_proto(model)
    separate_biases(made.graph)
    new = ir.to_proto(made)
    x = np.random.default_rng(0).normal(size=(2, 3, *dims)).astype(np.float32)
    for have, want in zip(run_onnx(new, x), run_onnx(model, x), strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
    (conv,) = (node for node in new.graph.node if node.op_type == "Conv")
    added = [node for node in new.graph.node if node.name == f"{conv.name}/bias"]
    assert len(added) == (kind == "2 bits")
    assert [value.name for value in new.graph.output] == [value.name for value in model.graph.output]
    if added:
        assert len(conv.input) == 2
        assert list(conv.output) == [f"{y}/sum"]
        assert list(added[0].output) == [y]
        (values,) = (tensor for tensor in new.graph.initializer if tensor.name == added[0].input[1])
        assert list(values.dims) == [1, 5, *[1] * len(dims)]


def test_other_layers_keep_their_biases() -> None:
    net = Net((2, 6))
    y = net.op("Gemm", "input_0", net.weight((5, 6), 0.4), net.bias(5), transB=1)
    made = ir.from_proto(net.model(y))
    before = [node.op_type for node in made.graph]
    separate_biases(made.graph)
    assert [node.op_type for node in made.graph] == before
