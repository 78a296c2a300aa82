"""Attention and layers of other packages, from a ternary module to onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from tern_lightning.exporter import write_onnx
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import lend, swap
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.exporter.export_nets import relative_error, run, unpack_int2


class Decoder(nn.Module):
    """Self-attention, attention to another sequence, and one whose keys and values differ."""

    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        options: dict[str, Any] = {"batch_first": True, "bias": bias}
        self.own = nn.MultiheadAttention(width, 2, **options)
        self.other = nn.MultiheadAttention(width, 2, **options)
        self.three = nn.MultiheadAttention(width, 2, **options)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.own(x, x, x, need_weights=False)[0]
        x = x + self.other(x, memory, memory, need_weights=False)[0]
        return x + self.three(x, memory, memory.flip(1))[0]


def make(net: nn.Module, method: str = "twn", **options: Any) -> nn.Module:
    for layer in list(net.modules()):
        if isinstance(layer, nn.MultiheadAttention):
            nn.init.normal_(layer.in_proj_weight)
            for part in (layer, layer.out_proj):
                swap(part, LayerState(get_quantizer(method, **options), 0, "ternary"))
    lend(net)
    return net.eval()


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: unpack_int2(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT2}


# 96 x 96 weights are larger than what the optimizer of onnxscript folds.
@pytest.mark.parametrize(("width", "bias"), [(8, True), (96, False)])
def test_projections_are_ternary_in_the_file(width: int, bias: bool) -> None:
    net = make(Decoder(width, bias))
    x, memory = torch.randn(2, 5, width), torch.randn(2, 7, width)
    written = write_onnx(net, (x, memory))
    assert set(written.ternary) == {f"{name}{part}" for name in ("own", "other", "three") for part in ("", ".out_proj")}
    assert not written.dense
    with torch.no_grad():
        assert relative_error(run(written.model, x, memory)[0], net(x, memory)) < 1e-5
    codes = stored(written.model)
    assert sorted(map(len, codes.values())) == sorted([width] * 3 + [3 * width] + [width, 2 * width] + [width] * 3)
    assert not any(t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1 for t in written.model.graph.initializer)
    signs = net.own.state_dict()["in_proj_weight"].sign().numpy()
    np.testing.assert_array_equal(codes["own.weight"], signs)
    signs = net.other.state_dict()["in_proj_weight"].sign().numpy()
    np.testing.assert_array_equal(np.concatenate([codes["other.weight"], codes["other_1.weight"]]), signs)


@pytest.mark.parametrize(
    ("method", "options"),
    [("absmean", {"per_channel": True}), ("multilevel", {"terms": 2}), ("ttq", {})],
)
def test_levels_of_slices(method: str, options: dict[str, Any]) -> None:
    net = make(Decoder(8), method, **options)
    x, memory = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    written = write_onnx(net, (x, memory))
    assert not written.dense
    with torch.no_grad():
        assert relative_error(run(written.model, x, memory)[0], net(x, memory)) < 1e-5


@pytest.mark.parametrize("batch_first", [True, False])
def test_eight_bits(batch_first: bool) -> None:
    net = Decoder(16)
    for layer in net.children():
        layer.batch_first = batch_first
    net = make(net)
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    if not batch_first:
        x, memory = x.transpose(0, 1).contiguous(), memory.transpose(0, 1).contiguous()
    samples = [(x.numpy(), memory.numpy()), (torch.randn_like(x).numpy(), torch.randn_like(memory).numpy())]
    written = write_onnx(net, (x, memory), activations="uint8", samples=samples)
    assert written.quantized_check is not None
    assert written.quantized_check.passed
    with torch.no_grad():
        expected = net(x, memory).numpy()
    assert np.linalg.norm(run(written.model, x, memory)[0] - expected) < 0.1 * np.linalg.norm(expected)


class Conv1D(nn.Module):
    """Known by the name that it has in the transformers package; its weight is inputs by outputs."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


@pytest.mark.parametrize(("method", "options"), [("absmean", {"per_channel": True}), ("multilevel", {"terms": 2})])
def test_weights_of_inputs_by_outputs(method: str, options: dict[str, Any]) -> None:
    net = nn.Sequential(Conv1D(6, 8), nn.ReLU(), Conv1D(8, 5))
    for layer in (net[0], net[2]):
        swap(layer, LayerState(get_quantizer(method, **options), 1, "ternary"))
    x = torch.randn(2, 3, 6)
    written = write_onnx(net.eval(), x)
    assert list(written.ternary) == ["0", "2"]
    assert not written.dense
    with torch.no_grad():
        assert relative_error(run(written.model, x)[0], net(x)) < 1e-5
    assert any(codes.shape == (8, 6) for codes in stored(written.model).values())


def test_a_library_of_ternary_attention(tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    import tern_lightning
    import tvm_schedules

    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), nn.Linear(8, 4))
    tern_lightning.ternarize(net, "twn", [tern_lightning.Rule("0.*", "twn")])
    samples = torch.randn(4, 5, 8)
    result = tern_lightning.export(net.eval(), tmp_path / "net", samples=samples, activations="uint8")
    found = tvm_schedules.load(tmp_path / "net")(samples[:1].numpy())
    np.testing.assert_allclose(found, run(onnx.load(result.onnx), samples[:1])[0], rtol=1e-3, atol=1e-4)
    layers = {one["name"]: one["terms"] for one in result.artifact.metadata["layers"]}
    assert {path for path, terms in layers.items() if terms} == {f"0.{name}" for name in NAMES}


NAMES = ("self_attn", "self_attn.out_proj", "linear1", "linear2")
