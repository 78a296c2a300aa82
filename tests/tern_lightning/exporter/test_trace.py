"""Whose a product is, and along which axis its outputs go, without tracing anything."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from tern_lightning.exporter.graph import SCOPES, Layer
from tern_lightning.exporter.trace import _Names
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
