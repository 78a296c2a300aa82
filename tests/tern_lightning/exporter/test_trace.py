"""Whose a product is, along which axis its outputs go, names that meet, and operators that cannot be traced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern_lightning import export
from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.graph import SCOPES, Layer
from tern_lightning.exporter.trace import _Names, trace
from tern_lightning.exporter.writer import _parameter_axis


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.other = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.b.weight = self.a.weight
        self.in_weight = nn.Parameter(torch.ones(3, 3))
        self.register_buffer("matrix", torch.ones(3, 3))


@pytest.mark.parametrize(
    ("scope", "parameter", "path"),
    [
        ("a", "a.weight", "a"),
        ("b", "a.weight", "b"),  # of two that share a weight, the one that runs
        ("other", "other.weight", "other"),
        ("other", "a.weight", "a"),  # a functional call with another layer's weight
        ("", "other.weight", "other"),
        ("", "in_weight", "in"),
        ("block", "block.weight", "block"),
        ("", "weight", ""),
        ("a", "matrix", "matrix"),
    ],
)
def test_a_product_belongs_to_the_module_that_runs_it(scope: str, parameter: str, path: str) -> None:
    names = _Names(Tied())
    assert names.aliases["b.weight"] == "a.weight"
    assert names.aliases["matrix"] == "matrix"
    node = ir.node("Gemm", [], metadata_props={SCOPES: str(["", scope, "linear"])})
    assert names.path(node, parameter) == path


@pytest.mark.parametrize("axis", [0, 1])
def test_the_axis_in_the_module_and_in_the_graph(axis: int) -> None:
    net = nn.Linear(3, 5)
    weight = net.weight.detach().numpy()

    def found(array: np.ndarray, parameter: str = "weight") -> int:
        return _parameter_axis(Layer("", ir.Value(name="port"), array, axis, 1, parameter), net)

    assert found(weight) == axis
    assert found(weight.T) == 1 - axis
    assert found(weight.T, "gone") == axis
    assert found(weight.T + 1) == axis
    net.weight.data = torch.eye(3)
    assert found(np.eye(3, dtype=np.float32)) == axis
    net.weight.data = torch.arange(24.0).reshape(2, 3, 4)
    assert found(np.arange(24, dtype=np.float32).reshape(2, 3, 4).T) == axis


class Named(nn.Module):
    """Parameters with the names that torch.onnx gives the results of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(6, 16)
        self.points = nn.Parameter(torch.randn(7, 16))
        for name in ("t", "div", "mul", "linear"):
            self.register_parameter(name, nn.Parameter(torch.rand(7)))

    def forward(self, x: Tensor) -> Tensor:
        points = F.normalize(self.points, dim=1).t()  # folded: the result of t is a constant
        return self.linear + self.mul * (F.normalize(self.rows(x), dim=1) @ points) / self.div * self.t


def test_parameters_may_have_names_of_operators(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net, x = Named().eval(), torch.randn(3, 6)
    export(net, tmp_path, samples=x, onnx_only=True, activations="float32", allow_zero_layers=True, batch_size=3)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (made,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(made, net(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_an_operator_without_an_onnx_form_is_named() -> None:
    class Distances(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(x, x)

    with pytest.raises(ExportError, match=r"no ONNX form of aten\._cdist_forward, which its forward calls"):
        trace(Distances().eval(), (torch.randn(3, 6),), {})
