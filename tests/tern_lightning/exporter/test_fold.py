"""Normalization folded into layers: the same numbers in onnxruntime, and what has to stay as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tern_lightning.exporter.fold import fold_batch_norms
from tern_lightning.exporter.graph import Layer, Network
from tern_lightning.ternary_tensor import TernaryTensor
from tests.tvm_schedules.nets import Net, run_onnx

SHAPES = {"Conv": (5, 3, 2, 2), "ConvTranspose": (3, 5, 2, 2), "Gemm": (5, 3), "MatMul": (3, 5)}


class Case:
    """A layer whose weight is fed as ``input_1``, and a normalization behind it."""

    def __init__(self, op: str, bias: bool = True, groups: int = 1, **attributes: Any) -> None:
        self.op, self.axis = op, int(op == "ConvTranspose" and groups == 1)
        rng = np.random.default_rng(2)
        shape = SHAPES[op] if groups == 1 else (4, 2, 2, 2)
        self.x = rng.normal(size=(2, shape[0] if groups > 1 else 3, *[6, 7][: len(shape) - 2])).astype(np.float32)
        self.codes = rng.integers(-1, 2, shape).astype(np.int8)
        self.channels = 4 if groups > 1 else 5
        self.net = Net(self.x.shape, shape, seed=4)
        usual = {"Gemm": {"transB": 1}, "MatMul": {}}.get(op, {"group": groups})
        inputs = ["input_0", "input_1", *([self.net.bias(self.channels)] if bias else [])]
        self.y = self.net.op(op, *inputs, **usual, **attributes)
        self.groups = groups

    def norm(self, *parts: str, **attributes: Any) -> str:
        """A normalization with factors of either sign and a zero."""
        rng = np.random.default_rng(3)
        numbers = [rng.normal(size=self.channels) for _ in range(3)] + [rng.uniform(0.1, 2, self.channels)]
        numbers[0][1] = 0.0
        names = [self.net.const(number.astype(np.float32)) for number in numbers]
        return self.net.op("BatchNormalization", self.y, *(parts or names[:1]), *names[1:], **attributes)

    def fold(self, *outputs: str) -> list[str]:
        """Operators after folding; outputs must be what they were."""
        model = self.net.model(*outputs)
        made = ir.from_proto(model)
        level = torch.tensor([[0.5]])
        ternary = (
            TernaryTensor(torch.from_numpy(self.codes)[None], level, level, self.axis) if self.groups == 1 else None
        )
        weight = self.codes * np.float32(0.5)
        layer = Layer("layer", made.graph.inputs[1], weight, self.axis, self.groups, "layer.weight", ternary)
        network = Network(made, [layer])
        fold_batch_norms(network)
        (found,) = network.layers
        for have, want in zip(
            run_onnx(ir.to_proto(made), self.x, found.weight), run_onnx(model, self.x, weight), strict=True
        ):
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
        if found.ternary is not None:
            np.testing.assert_allclose(found.ternary.dequantize().numpy(), found.weight, rtol=1e-5, atol=1e-6)
            assert float(found.ternary.positive.min()) > 0
        return [node.op_type for node in made.graph]


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("epsilon", [None, 0.3])
def test_folded(op: str, bias: bool, epsilon: float | None) -> None:
    case = Case(op, bias)
    y = case.norm(**({} if epsilon is None else {"epsilon": epsilon}))
    assert case.fold(case.net.op("Relu", y)) == [op, "Relu"]


def test_a_small_variance_and_the_usual_epsilon() -> None:
    case = Case("Gemm")
    small = case.net.const(np.full(5, 1e-6, np.float32))
    names = [case.net.const(np.linspace(-1, 1, 5).astype(np.float32)) for _ in range(3)]
    assert case.fold(case.net.op("BatchNormalization", case.y, *names, small)) == ["Gemm"]


def test_what_stays() -> None:
    case = Case("Gemm")
    assert case.fold(case.norm(), case.net.op("Relu", case.y)) == ["Gemm", "BatchNormalization", "Relu"]
    case = Case("Gemm")
    assert case.fold(case.norm(), case.y) == ["Gemm", "BatchNormalization"]
    case = Case("Gemm", alpha=0.5)
    assert case.fold(case.norm()) == ["Gemm", "BatchNormalization"]
    case = Case("Gemm", beta=0.5)
    assert case.fold(case.norm()) == ["Gemm", "BatchNormalization"]
    case = Case("MatMul", bias=False)
    assert case.fold(case.norm()) == ["MatMul", "BatchNormalization"]
    case = Case("ConvTranspose", groups=2)
    assert case.fold(case.norm()) == ["ConvTranspose", "BatchNormalization"]
    case = Case("Gemm")
    assert case.fold(case.norm(case.net.op("Abs", case.net.bias(5)))) == ["Gemm", "Abs", "BatchNormalization"]
    case = Case("Gemm")
    assert case.fold(case.net.op("Relu", case.y)) == ["Gemm", "Relu"]
    case = Case("Gemm", bias=False)
    case.net.nodes[-1].input.append(case.net.op("Abs", case.net.bias(5)))
    case.net.nodes.reverse()
    assert case.fold(case.norm()) == ["Abs", "Gemm", "BatchNormalization"]


def test_the_layer_must_be_the_data() -> None:
    """Its result is the mean of a normalization of something else."""
    case = Case("Gemm")
    mean = case.net.op("ReduceMean", case.y, case.net.const(np.int64([0])), keepdims=0)
    other = case.net.const(np.ones((2, 5), np.float32))
    names = [case.net.bias(5), case.net.bias(5), mean, case.net.const(np.ones(5, np.float32))]
    y = case.net.op("BatchNormalization", other, *names)
    assert case.fold(y) == ["Gemm", "ReduceMean", "BatchNormalization"]


@pytest.mark.parametrize("groups", [2])
def test_grouped_convolutions(groups: int) -> None:
    case = Case("Conv", groups=groups)
    assert case.fold(case.norm()) == ["Conv"]


def test_normalization_that_trains_stays() -> None:
    case = Case("Gemm")
    y = case.norm()
    model = ir.from_proto(case.net.model(y))
    model.graph[-1].attributes["training_mode"] = ir.AttrInt64("training_mode", 1)
    layer = Layer("layer", model.graph.inputs[1], np.ones((5, 3), np.float32), 0, 1, "layer.weight")
    fold_batch_norms(Network(model, [layer]))
    assert [node.op_type for node in model.graph] == ["Gemm", "BatchNormalization"]
