"""Names in a file: those of the module's parts, each once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from tern_lightning.exporter.graph import SCOPES, Layer, Network
from tern_lightning.exporter.naming import name_network
from tern_lightning.exporter.pipeline import export
from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.errors import UnsupportedOperatorError


@pytest.fixture
def named() -> tuple[ir.Graph, Net]:
    """A convolution that runs twice, a split, a sum; outputs: the sum twice, and the input."""
    net = Net((2, 3, 5, 5), (3, 3, 3, 3), (3, 3, 3, 3))
    y = net.op("Conv", "input_0", "input_1", net.bias(3), pads=[1] * 4)
    z = net.op("Conv", y, "input_2", net.bias(3), pads=[1] * 4)
    first = net.op("Split", z, net.const(np.int64([1, 1])), axis=0, outputs=2)
    total = net.op("Add", first, f"{first}_1")
    shifted = net.op("Mul", total, net.const(np.float32(2)))
    net.op("Relu", y)  # that nobody reads
    made = ir.from_proto(net.model(shifted))
    graph = made.graph
    scopes = [["", "block", "block.conv", "conv2d"]] * 2 + [["", "block", "split"], ["", "add"], ["", "mul"]]
    for node, own in zip(list(graph)[:5], scopes, strict=True):
        node.metadata_props[SCOPES] = str(own)
    graph.outputs.append(graph.outputs[0])
    graph.outputs.append(graph.inputs[0])
    nodes = list(graph)
    renamed = {nodes[0].inputs[2]: "block.conv.bias_folded", nodes[1].inputs[2]: "block.conv.bias_folded_1"}
    renamed |= {nodes[4].inputs[1]: "val_7"}
    for value, name in renamed.items():
        del graph.initializers[value.name]
        value.name = value.const_value.name = name
        graph.register_initializer(value)
    weight = np.ones((3, 3, 3, 3), np.float32)
    layers = [Layer("block.conv", graph.inputs[i], weight, 0, 1, "block.conv.weight") for i in (1, 2)]
    name_network(Network(made, layers))
    return graph, net


def test_every_part_has_a_name(named: tuple[ir.Graph, Net]) -> None:
    graph, _ = named
    assert [node.name for node in graph] == [
        "block.conv", "block.conv_1", "block/split", "add", "mul", "identity", "identity_1",
    ]  # fmt: skip
    outputs = [value.name for node in graph for value in node.outputs]
    assert outputs == [
        "block.conv", "block.conv_1", "block/split", "block/split:1", "add", "output_0", "output_1", "output_2",
    ]  # fmt: skip
    assert [value.name for value in graph.outputs] == ["output_0", "output_1", "output_2"]
    assert [value.name for value in graph.inputs] == ["input_0", "input_1", "input_2"]
    assert {"block.conv.bias", "block.conv.bias_1", "mul.const1"} < set(graph.initializers)
    assert not any(name.startswith("val_") or "folded" in name for name in graph.initializers)
    assert not any(node.metadata_props for node in graph)


def test_outputs_are_apart_and_keep_their_forms(named: tuple[ir.Graph, Net]) -> None:
    graph, _ = named
    assert [value.producer().op_type for value in graph.outputs] == ["Mul", "Identity", "Identity"]
    assert [list(value.shape) for value in graph.outputs] == [[1, 3, 5, 5], [1, 3, 5, 5], [2, 3, 5, 5]]
    assert {value.dtype for value in graph.outputs} == {ir.DataType.FLOAT}
    model = ir.to_proto(ir.Model(graph, ir_version=13))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=[int(n) for n in value.shape]).astype(np.float32) for value in graph.inputs]
    first, again, given = run_onnx(model, *inputs)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(given, inputs[0])


class Running(nn.Module):
    """Has an operator that C lacks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x, 1)


def test_what_cannot_be_compiled_is_named_by_its_module(tmp_path):
    net = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), Running()), nn.Linear(8, 2))
    with pytest.raises(
        UnsupportedOperatorError, match=r"CumSum of node '1\.1/cumsum'.* the forward of Running '1\.1'$"
    ):
        export(net, tmp_path / "out", target="c", input_shape=(1, 4))
    assert not (tmp_path / "out").exists()
