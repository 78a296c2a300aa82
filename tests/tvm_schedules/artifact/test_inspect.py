from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules import artifact_nets, fake
from tests.tvm_schedules.nets import resnet
from tests.tvm_schedules.recurrent_nets import Case, recurrent
from tvm_schedules.artifact import inspect as inspection
from tvm_schedules.artifact import store, weights
from tvm_schedules.cli.inspect import main
from tvm_schedules.errors import TernError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(artifact_nets.conv_net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_onnx_layers(path: Path) -> None:
    found = inspection.inspect(path)
    assert [layer.name for layer in found.layers] == ["conv1", "conv2", "fc"]
    model = onnx.load(path)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for layer in found.layers:
        codes = tensors[f"{layer.name}.weight"].astype(np.int8)
        scale = tensors[f"{layer.name}.weight_scale"]
        assert layer.shape == codes.shape
        assert (layer.kind, layer.terms) == ("ternary", 1)
        assert layer.sparsity == pytest.approx(float((codes == 0).mean()))
        shares = [float((codes == value).mean()) for value in (-1, 0, 1)]
        assert layer.entropy == pytest.approx(-sum(share * math.log2(share) for share in shares))
        assert layer.bytes == math.ceil(codes.size / 4) + scale.nbytes
        assert layer.bits == pytest.approx(8 * layer.bytes / codes.size)
        assert layer.levels == pytest.approx((scale.min(), scale.max()))
    totals = found.totals()["all"]
    assert totals["compression"] == pytest.approx(4 * totals["weights"] / totals["bytes"])
    assert totals["weights"] == 2 * 16 * 16 * 9 + 160


def test_float_and_terms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = artifact_nets.Builder()
    dense = b.constant("dense.weight", b.random.standard_normal((4, 6)).astype(np.float32))
    b.op("Gemm", ["x", dense], "h", transB=0)
    values = np.array([[0.5, 0, -0.25], [0, 0.125, -0.25], [-0.5, 0.125, 0]] * 2, np.float32)
    b.op("MatMul", ["h", b.constant("byvalue.weight", values)], "g")
    terms = [b.ternary("sum", [5, 3], term=f".term{t}") for t in range(2)]
    b.op("Gemm", ["g", b.op("Add", terms, "sum.total")], "y", transB=1)
    model = b.model({"x": [1, 4]}, {"y": [1, 5]})
    onnx.save(model, tmp_path / "net.onnx")
    dense_layer, by_value, both = inspection.inspect(tmp_path / "net.onnx").layers
    assert (dense_layer.kind, dense_layer.bits, dense_layer.bytes) == ("float", 32, 96)
    assert (by_value.kind, by_value.bits) == ("ternary values", 32)
    assert by_value.levels == (0.125, 0.5)
    assert (both.name, both.terms, both.bytes) == ("sum", 2, 2 * (4 + 20))
    zeros = (6 + both.sparsity * 15) / (18 + 15)
    assert main([str(tmp_path / "net.onnx")]) == 0
    assert f"of those in ternary layers {zeros:.1%} are zeros" in " ".join(capsys.readouterr().out.split())


def test_artifact_shows_kernels(fake_compiler: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tvm_schedules.build(fake.model(), tmp_path / "out")
    layer = inspection.inspect(tmp_path / "out").layers[0]
    assert (layer.name, layer.kernel, layer.reason) == ("fc", "fake_f32", "the only one")
    assert main([str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "fake_f32" in text
    assert "verified: library, 8 runs" in text
    assert main([str(tmp_path / "out"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["layers"][0]["kernel"] == "fake_f32"
    assert data["files"]["model.so"] > 0
    assert data["totals"]["ternary"]["weights"] == fake.K * fake.N
    (tmp_path / "out" / store.MODEL).unlink()  # as on a device
    alone = inspection.inspect(tmp_path / "out")
    assert (alone.layers[0].kernel, alone.layers[0].bytes) == ("fake_f32", layer.bytes)
    assert alone.files.keys() == data["files"].keys() - {store.MODEL}


@pytest.mark.parametrize("target", ["host", "c"])
def test_bytes_of_an_artifact_are_those_in_its_files(tmp_path: Path, target: str) -> None:
    tvm_schedules.build(resnet([(16, 1), (32, 2)], 8, 0.9), tmp_path / "out", target=target, verify=False)
    found = inspection.inspect(tmp_path / "out")
    ternary = [layer for layer in found.layers if layer.kind == "ternary"]
    assert ternary
    for layer in found.layers:
        assert layer.bits == pytest.approx(8 * layer.bytes / layer.weights)
    if target == "host":
        stored, _ = weights.read(tmp_path / "out" / store.WEIGHTS)
        sizes = sorted(array.nbytes for name, array in stored.items() if name.endswith(".codes"))
        assert sorted(layer.bytes for layer in ternary) == sizes
        assert all(layer.bits < 1 for layer in ternary if layer.weights > 1000)
    else:
        assert sum(layer.bytes for layer in found.layers) <= found.details["memory"]["constant_bytes"]
        assert all(layer.bits <= 1.7 for layer in ternary if layer.weights > 1000)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_weights_are_counted(tmp_path: Path, direction: str) -> None:
    case = Case("GRU", inputs=8, hidden=8, direction=direction)
    count = 3 * 8 * (8 + 8) * (2 if direction == "bidirectional" else 1)
    onnx.save(recurrent(case), tmp_path / "net.onnx")
    of_file = inspection.inspect(tmp_path / "net.onnx")
    assert [layer.op for layer in of_file.layers] == ["GRU", "GRU"]
    assert sum(layer.weights for layer in of_file.layers) == count
    tvm_schedules.build(recurrent(case), tmp_path / "out")
    built = inspection.inspect(tmp_path / "out")
    assert sum(layer.weights for layer in built.layers) == count
    assert all(layer.kernel for layer in built.layers)


def test_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    ternary = torch.tensor([[0.5, 0.0, -0.5], [0.0, 0.25, 0.0]])
    transposed = torch.tensor([[0.5, 1.0], [0.0, -1.0], [-0.5, 0.0]])  # ternary along the second axis only
    state = {
        "net.a.weight": ternary,
        "net.b.weight": torch.randn(4, 4),
        "net.c.weight": transposed,
        "net.a.bias": torch.ones(2),
    }
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "best.ckpt")
    layers = inspection.inspect(tmp_path / "best.ckpt").layers
    assert [(layer.name, layer.kind) for layer in layers] == [
        ("net.a", "ternary values"),
        ("net.b", "float"),
        ("net.c", "ternary values"),
    ]
    assert layers[0].sparsity == 0.5


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x0d\x12")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 truncated")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("cut.onnx", "not a valid ONNX model"),
        ("cut.ckpt", "not a readable checkpoint"),
        ("empty", "has no metadata.json"),
        ("none", "does not exist"),
    ):
        with pytest.raises(TernError, match=message):
            inspection.inspect(tmp_path / name)
        assert main([str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err
