"""How far an exported network with 8-bit activations may be from torch, which cannot round in every place."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
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

    def between(*followed: str) -> dict[str, list[str]]:
        return {name: sorted(found) for name, found in unfollowed_roundings(model, followed).items()}

    assert between() == {"y": ["r0", "r1", "x"]}
    assert between("d0") == {"d0": [], "y": ["r0", "r1"]}
    assert between("d2") == {"d2": ["r0", "x"], "y": ["x"]}
    assert between("d0", "d1", "d2") == {"d0": [], "d1": [], "d2": [], "y": []}


def test_the_bound_grows_with_the_root_of_their_number() -> None:
    tolerances = []
    for count in (1, 4):
        torch.manual_seed(0)
        found = write_onnx(Products(count), [torch.randn(8, 32)], activations="uint8").quantized_check
        assert found is not None
        assert found.passed
        tolerances.append(found.tolerance)
    assert tolerances == pytest.approx([0.02 * math.sqrt(1 + 9 * count) for count in (1, 4)])


def test_a_tensor_that_fills_little_of_its_range_has_more_noise() -> None:
    """One sample of many is large, and sets the range of a product that is no layer's."""
    torch.manual_seed(0)
    x = torch.randn(8, 32)
    x[5] *= 40
    samples = [(row.numpy(),) for row in x.split(1)]
    found = write_onnx(Products(1), [x[:1]], activations="uint8", samples=samples).quantized_check
    assert found is not None
    assert found.passed
    assert found.tolerance > 0.02 * math.sqrt(1 + 9)


@pytest.mark.parametrize("seed", range(12, 32))
def test_products_outside_of_layers_are_not_refused_by_luck(seed: int) -> None:
    class Matrices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mid, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            self.matrices = nn.ParameterList(torch.randn(16, 16) / 4 for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            for matrix in self.matrices:
                x = nn.functional.linear(x, matrix).relu()
            return self.last(self.mid(x).relu())

    torch.manual_seed(seed)
    net, x = Matrices().eval(), np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    samples = [(row,) for row in np.split(x, 32)]
    found = write_onnx(net, [torch.from_numpy(x[:1])], activations="uint8", samples=samples).quantized_check
    assert found is not None
    assert found.passed


def test_an_output_that_a_layer_reads_is_not_rounded() -> None:
    """As the latent of an autoencoder: the file rounds it for the layer, and gives it as it is."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.decoder = nn.Linear(16, 4), nn.Linear(4, 16)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean = self.mean(x)
            return self.decoder(mean), mean, mean + 1

    torch.manual_seed(0)
    x = torch.randn(8, 16)
    x[5] *= 40
    samples = [(row.numpy(),) for row in x.split(1)]
    found = write_onnx(Encoder().eval(), [x[:1]], activations="uint8", samples=samples).quantized_check
    assert found is not None
    assert found.passed
    assert found.tolerance == 0.02


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_with_a_query_that_is_a_parameter(same: bool, batch_first: bool) -> None:
    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
            self.query = nn.Parameter(torch.randn(1, 2, 16) if batch_first else torch.randn(2, 1, 16))
            self.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.attention(self.query, x, x if same else x + 1)[0])

    torch.manual_seed(0)
    x = torch.randn(1, 10, 8) if batch_first else torch.randn(10, 1, 8)
    found = write_onnx(Pooling().eval(), [x], activations="uint8").quantized_check
    assert found is not None
    assert found.passed


@pytest.mark.parametrize("where", ["whole", "part"])
def test_what_torch_compile_wraps_is_followed(where: str) -> None:
    """Code that is compiled already does not know of hooks that come later."""
    torch.manual_seed(0)
    net = nn.Sequential(stack(), nn.Linear(8, 4)).eval()
    x = torch.randn(4, 16, 64)
    (net[0] if where == "part" else net).compile(backend="eager")
    net(x)
    found = write_onnx(net, [x], activations="uint8").quantized_check
    assert found is not None
    assert found.relative_l2 < 0.005


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
