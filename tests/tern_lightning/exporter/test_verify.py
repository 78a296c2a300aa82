"""How far an exported network with 8-bit activations may be from torch, which cannot round in every place."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tern_lightning import export
from tern_lightning.exporter.errors import VerificationError
from tern_lightning.exporter.verify import _Error, unfollowed_roundings
from tern_lightning.exporter.writer import write_onnx


class InputsByOutputs(nn.Module):
    """A linear layer of somebody's own, of a type that nothing here knows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Products(nn.Module):
    """A chain of products that belong to no layer, then a layer."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.randn(32, 32) / 32**0.5 for _ in range(count))
        self.last = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        for matrix in self.matrices:
            x = nn.functional.gelu(x @ matrix)
        return self.last(x)


def stack() -> nn.Module:
    layers = [one for _ in range(8) for one in (InputsByOutputs(64, 64), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(64, 8))


def test_layers_of_unknown_types_are_followed_from_rounding_to_rounding() -> None:
    # Each takes the file's input, so that nothing adds up: far below what eight roundings give.
    net = stack()
    found = write_onnx(net, [torch.randn(4, 16, 64)], activations="uint8").quantized_check
    assert found is not None
    assert found.relative_l2 < 0.005 < 0.02 == found.tolerance


def test_roundings_that_torch_cannot_follow_are_counted() -> None:
    def pair(source: str, number: int) -> list[onnx.NodeProto]:
        constants = [f"s{number}", f"z{number}"]
        quantize = helper.make_node("QuantizeLinear", [source, *constants], [f"q{number}"])
        return [quantize, helper.make_node("DequantizeLinear", [f"q{number}", *constants], [f"d{number}"])]

    # x -> rounding 0 -> Relu -> rounding 1 -> Relu -> rounding 2 -> Relu -> y, and y also reads rounding 0.
    nodes, source = [], "x"
    for number in range(3):
        nodes += [*pair(source, number), helper.make_node("Relu", [f"d{number}"], [f"r{number}"])]
        source = f"r{number}"
    nodes.append(helper.make_node("Add", ["r2", "d0"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    assert unfollowed_roundings(model, []) == {"y": 3}
    assert unfollowed_roundings(model, ["d0"]) == {"d0": 0, "y": 2}
    assert unfollowed_roundings(model, ["d2"]) == {"d2": 2, "y": 1}
    assert unfollowed_roundings(model, ["d0", "d1", "d2"]) == {"d0": 0, "d1": 0, "d2": 0, "y": 0}


def test_the_bound_grows_with_the_root_of_their_number() -> None:
    tolerances = []
    for count in (1, 4):
        torch.manual_seed(0)
        found = write_onnx(Products(count), [torch.randn(8, 32)], activations="uint8").quantized_check
        assert found is not None
        assert found.passed
        tolerances.append(found.tolerance)
    assert tolerances == pytest.approx([0.02 * math.sqrt(1 + count) for count in (1, 4)])


def test_a_wrong_file_is_still_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tern_lightning.exporter import verify

    right = verify.round_weights
    monkeypatch.setattr(verify, "round_weights", lambda *a: right(*a).apply(_enlarge))
    with pytest.raises(VerificationError, match="8-bit rounding"):
        write_onnx(stack(), [torch.randn(4, 16, 64)], activations="uint8")


def _enlarge(layer: nn.Module) -> None:
    if isinstance(layer, InputsByOutputs):
        layer.weight.data *= 1.05


def test_what_is_no_number_is_beyond_every_bound() -> None:
    errors = [_Error(0.1, 0.2, "y"), _Error(math.nan, 1.0, "y"), _Error(0.01, 0.01, "y")]
    assert max(errors, key=lambda error: error.share) is errors[1]
    assert max(errors[::2], key=lambda error: error.share) is errors[2]


def test_a_magnified_rounding_is_told_where_it_is(tmp_path: Path) -> None:
    """Between two layers a product that torch does not round, and a sine of many periods."""

    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", 6 * torch.randn(3, 8))
            self.first = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            phases = x @ self.frequencies
            return self.first(torch.cat([phases.sin(), phases.cos()], -1))

    torch.manual_seed(0)
    samples = torch.randn(16, 3)
    with pytest.raises(
        VerificationError, match=r"relative l2 .* at the input of layer 'first' .*activations='float32'"
    ):
        export(Waves().eval(), tmp_path, samples=samples, onnx_only=True, allow_zero_layers=True)
