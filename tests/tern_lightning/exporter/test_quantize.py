"""8-bit activations in the file: where pairs stand, their ranges, dense weights, and agreement with numpy and torch."""

from __future__ import annotations

import copy
import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from tern_lightning.exporter import ExportError, write_onnx
from tern_lightning.exporter.quantize import QuantizedTensor, calibrate, choose_ranges
from tern_lightning.nn.activation_quantizer import ActivationRange
from tests.tern_lightning.exporter.export_nets import Residual, initializers, make_ternary, ops, run


def float_stem(net: Residual) -> Residual:
    make_ternary(net)
    net.stem.weight.data = torch.randn_like(net.stem.weight)
    return net


def batches(count: int, *shape: int, seed: int = 0) -> list[tuple[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(shape).astype(np.float32),) for _ in range(count)]


class Excited(nn.Module):
    """Squeeze and excitation, ``how`` it is written or is something else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.pool = how, nn.AdaptiveAvgPool2d(1)
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.silu(self.first(x))
        mean = x.mean((1, 2) if self.how == "rows" else (2, 3), keepdim=True) if self.how != "pool" else self.pool(x)
        if self.how == "rows":
            return self.last(x * torch.sigmoid(mean))
        gate = torch.sigmoid(self.expand(torch.relu(self.reduce(mean))))
        y = self.last((gate * x if self.how == "turned" else x * gate) + (x if self.how == "read again" else 0))
        return (y, x) if self.how == "given back" else y


GATED = {"mean": 1, "pool": 1, "turned": 1, "rows": 0, "read again": 0, "given back": 0}


@pytest.mark.parametrize("how", GATED)
@pytest.mark.parametrize("given", [True, False])
def test_images_that_are_gated_are_rounded(how: str, given: bool) -> None:
    """Their range comes from samples: without these they stay float."""
    torch.manual_seed(0)
    net = make_ternary(Excited(how)).eval()
    samples = batches(3, 2, 3, 9, 9)
    x = torch.from_numpy(samples[0][0])
    written = write_onnx(net, x, activations="uint8", samples=samples if given else None)
    assert written.quantized_check is not None
    readers: dict[str, set[str]] = {}
    for node in written.model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    pairs = {node.input[0]: node.output[0] for node in written.model.graph.node if node.op_type == "QuantizeLinear"}
    taken = {node.input[0]: node.output[0] for node in written.model.graph.node if node.op_type == "DequantizeLinear"}
    of = {name: readers[taken[pairs[name]]] for name in written.ranges}
    others = [found for found in of.values() if "Conv" not in found]
    assert others == [{"Mul", "ReduceMean"}] * (GATED[how] if given else 0)
    assert len(of) - len(others) == (2 if how == "rows" else 4)


def test_one_pair_for_each_tensor_that_feeds_a_layer() -> None:
    net = float_stem(Residual()).eval()
    samples = batches(3, 2, 3, 8, 8)
    written = write_onnx(net, torch.from_numpy(samples[0][0]), activations="uint8", samples=samples)
    model = written.model
    readers: dict[str, list[onnx.NodeProto]] = {}
    producer = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    multiplied = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(multiplied) == 6
    for node in multiplied:
        dequantize = producer[node.input[0]]
        assert dequantize.op_type == "DequantizeLinear"
        quantize = producer[dequantize.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input)[1:] == list(dequantize.input)[1:]
        source = quantize.input[0]
        assert [n.op_type for n in readers[source]] == ["QuantizeLinear"], "every reader takes the rounded tensor"
        if source in producer:  # directly behind the producer
            names = [n.name for n in model.graph.node]
            assert names.index(quantize.name) == names.index(producer[source].name) + 1
    # the input, the stem's ReLU, three inside the blocks, the flattened pool; the last block's output feeds no layer
    assert ops(model).count("QuantizeLinear") == 6
    residual = [node for node in model.graph.node if node.op_type == "Add" and not node.name.endswith("/bias")]
    assert len(residual) == 2
    for node in residual:
        assert any(producer[name].op_type == "DequantizeLinear" for name in node.input if name in producer)

    stored = initializers(model)
    zeros = {name for name in stored if name.endswith(".zero_point")}
    zero_points = {name: int(onnx.numpy_helper.to_array(stored[name])) for name in zeros}
    assert all(stored[name].data_type == onnx.TensorProto.UINT8 and not stored[name].dims for name in zero_points)
    assert zero_points.pop("x.zero_point") > 0
    assert not any(zero_points.values()), "tensors behind a ReLU are unsigned"
    assert written.quantized_check is not None
    assert written.quantized_check.relative_l2 < 0.01
    assert written.drift is not None
    assert written.drift.cosine > 0.99


def test_calibrated_ranges_are_those_of_the_tensors() -> None:
    net = float_stem(Residual()).eval()
    samples = batches(4, 2, 3, 8, 8)
    written = write_onnx(
        net, torch.from_numpy(samples[0][0]), activations="uint8", samples=samples, dense_weights="float32"
    )
    seen: dict[str, list[torch.Tensor]] = {}
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0].clone()))
    for (array,) in samples:
        net(torch.from_numpy(array))
    by_consumer = {"stem": "x", "layer1.0.conv1": "relu", "layer1.0.conv2": "layer1.0/relu"}
    for path, tensor in by_consumer.items():
        values = torch.cat([x.flatten() for x in seen[path]])
        low, high = min(values.min().item(), 0.0), values.max().item()
        assert written.ranges[tensor].scale == pytest.approx((high - low) / 255, rel=1e-5)
        assert written.ranges[tensor].zero_point == round(-low / ((high - low) / 255))


def test_a_tensor_has_the_union_of_its_layers_ranges(caplog: pytest.LogCaptureFixture) -> None:
    low, high, other = (ActivationRange.from_bounds(*bounds) for bounds in ((-1.0, 1.0), (0.0, 3.0), (0.0, 9.0)))
    tensors = [
        QuantizedTensor(ir.Value(name=name), layers, ())
        for name, layers in {"x": ("a", "b"), "y": ("c", "d"), "z": ("e",), "w": ("d", "e")}.items()
    ]
    trained = {"a": low, "b": high, "c": high, "d": high}
    with caplog.at_level(logging.DEBUG, "tern_lightning.exporter.quantize"):
        found = choose_ranges(tensors, trained, dict.fromkeys("xyzw", other))
    assert found == {"x": ActivationRange.union([low, high]), "y": high, "z": other, "w": high}
    (message,) = caplog.messages  # y's layers agree
    assert message.startswith("x feeds layers with different ranges")


def test_percentile_ignores_an_outlier() -> None:
    net = make_ternary(nn.Sequential(nn.Linear(64, 8)))
    samples = batches(3, 16, 64)
    samples[0][0][0, 0] = 1000.0
    x = torch.from_numpy(samples[1][0])
    wide = write_onnx(net, x, activations="uint8", samples=samples, verify=False).ranges["input"]
    tight = write_onnx(net, x, activations="uint8", samples=samples, percentile=99.0, verify=False).ranges["input"]
    assert wide.high == pytest.approx(1000.0, rel=0.01)
    lows, highs = zip(*[np.percentile(a, [1, 99]) for (a,) in samples], strict=True)
    assert tight.scale == pytest.approx((np.mean(highs) - np.mean(lows)) / 255, rel=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_fewer_bits_are_clipped(bits: int) -> None:
    net = make_ternary(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)))
    samples = batches(2, 8, 16)
    written = write_onnx(net, torch.from_numpy(samples[0][0]), activations="uint8", samples=samples, bits=bits)
    assert ops(written.model).count("Clip") == 2
    model = copy.deepcopy(written.model)
    codes = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(c, onnx.TensorProto.UINT8, None) for c in codes)
    _, first, second = run(model, 3 * torch.from_numpy(samples[0][0]))
    assert first.min() == 0
    assert first.max() == second.max() == 2**bits - 1


def test_dense_weights_in_eight_bits() -> None:
    net = float_stem(Residual()).eval()
    x = torch.randn(2, 3, 8, 8)
    model = write_onnx(net, x, activations="uint8").model
    stored = initializers(model)
    codes = onnx.numpy_helper.to_array(stored["stem.weight"]).astype(np.float64)
    scale = onnx.numpy_helper.to_array(stored["stem.weight_scale"]).astype(np.float64).reshape(-1, 1, 1, 1)
    factor = (net.bn.weight / (net.bn.running_var + net.bn.eps).sqrt()).detach().double().reshape(-1, 1, 1, 1)
    folded = (net.stem.weight.detach().double() * factor).numpy()
    assert stored["stem.weight"].data_type == onnx.TensorProto.INT8
    assert (np.abs(codes * scale - folded) <= scale / 2 * 1.0001).all()
    used = folded.any(axis=(1, 2, 3))
    assert (np.abs(codes).max(axis=(1, 2, 3))[used] == 127).all()
    assert stored["stem.bias"].data_type == onnx.TensorProto.FLOAT
    kept = initializers(write_onnx(net, x, activations="uint8", dense_weights="float32").model)
    np.testing.assert_allclose(onnx.numpy_helper.to_array(kept["stem.weight"]), folded, rtol=1e-5, atol=1e-7)


def test_trained_ranges_and_their_union(caplog: pytest.LogCaptureFixture) -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.a(x) + self.b(x)))

    net = make_ternary(Fork())
    ranges = {"a": ActivationRange.from_bounds(-1.0, 2.0), "b": ActivationRange.from_bounds(-3.0, 1.0)}
    with caplog.at_level(logging.DEBUG, logger="tern_lightning.exporter.quantize"):
        written = write_onnx(net, torch.randn(4, 8), activations="uint8", ranges=ranges)
    chosen = written.ranges["x"]
    assert chosen.scale == pytest.approx(5 / 255, rel=2e-3)
    assert chosen.zero_point == 153
    assert "x feeds layers with different ranges" in caplog.text
    calibrated = [name for name in written.ranges if name != "x"]
    assert calibrated == ["relu"], "a layer without a trained range is calibrated"


def test_uint8_file_equals_numpy() -> None:
    """One layer by hand: round half to even, saturate, integer codes, per-channel levels."""
    net = make_ternary(nn.Sequential(nn.Linear(16, 6)), unequal=True)
    chosen = ActivationRange(scale=0.0625, zero_point=100)
    x = torch.randn(8, 16) * 8
    x[0, :4] = torch.tensor([0.03125, 0.09375, -0.03125, 0.15625])  # halves of a step
    model = write_onnx(net, x, activations="uint8", ranges={"0": chosen}).model
    codes = np.clip(np.rint(x.numpy() / np.float32(0.0625)) + 100, 0, 255)
    expected = ((codes - 100) * 0.0625) @ net[0].weight.detach().double().numpy().T + net[0].bias.detach().numpy()
    np.testing.assert_allclose(run(model, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_tensors_that_torch_rounds_later_still_verify() -> None:
    class ReadBefore(nn.Module):
        """One branch reads the tensor before the layer does; the layer's output feeds the next layer directly."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(8, 8, 3), nn.Conv1d(8, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            early = y.mean(-1, keepdim=True)
            return self.b(y) + early

    written = write_onnx(make_ternary(ReadBefore()), torch.randn(2, 8, 16), activations="uint8")
    assert written.quantized_check is not None
    assert 0 < written.quantized_check.relative_l2 < written.quantized_check.tolerance == 0.02
    names = [node.name for node in written.model.graph.node]
    assert len(names) == len(set(names))


def test_calibration_needs_finite_samples() -> None:
    model = write_onnx(make_ternary(nn.Sequential(nn.Linear(4, 4))), torch.randn(1, 4)).model
    with pytest.raises(ExportError, match="no samples"):
        calibrate(model, ["input"], [])
    with pytest.raises(ExportError, match="NaN or infinity in input"):
        calibrate(model, ["input"], [(np.full((1, 4), np.nan, np.float32),)])


@pytest.mark.parametrize("bias", [True, False])
def test_onnxruntime_loads_the_file_with_its_default_options(bias: bool) -> None:
    import onnxruntime as ort

    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, padding=1, bias=bias), nn.ReLU(), nn.Conv2d(8, 4, 1)]
    net = make_ternary(nn.Sequential(*layers)).eval()
    samples = batches(2, 1, 3, 9, 9)
    model = write_onnx(net, torch.from_numpy(samples[0][0]), activations="uint8", samples=samples).model
    assert ops(model).count("Add") == 3
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: samples[0][0]})[0]
    wanted = run(model, torch.from_numpy(samples[0][0]))[0]
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


class Halves(nn.Module):
    """Layers that read a part of a tensor: the file rounds the part, torch the whole or nothing."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        sizes = ((3, 2 * channels), (channels, channels), (channels, channels), (4 * channels, channels))
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, o, 3, padding=1) for i, o in sizes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(nn.functional.silu(self.a(x)).chunk(2, 1))
        for layer in (self.b, self.c):
            parts.append(nn.functional.silu(layer(parts[-1])))
        return self.d(torch.cat(parts, 1))


@pytest.mark.parametrize("factor", [1.0, 40.0, 300.0])
def test_tensors_that_fill_little_of_their_range(factor: float) -> None:
    x = torch.randn(4, 3, 16, 16)
    x[:, :, 5, 5] *= factor  # a few large values: everything else lies in a few steps
    written = write_onnx(Halves(), [x[:1]], samples=[(row[None].numpy(),) for row in x], activations="uint8")
    assert written.quantized_check is not None
    assert written.quantized_check.passed


def test_wrong_rounding_is_still_found() -> None:
    """Down instead of to the nearest, another zero point, another scale, of a tensor that fills a part of its range."""
    from tern_lightning.exporter.verify import _Follower

    chosen, layer = ActivationRange.from_bounds(-10.0, 10.0), nn.Linear(64, 4)
    net = nn.Sequential(layer)
    x = torch.randn(32, 64)
    right = chosen.fake_quantize(x)
    wrongs = {
        "down": (torch.floor(x / chosen.scale) * chosen.scale),
        "zero point": right + chosen.scale,
        "scale": right * 1.05,
    }
    for name, file in {"right": right, **wrongs}.items():
        follower = _Follower(net, {"0": [("t", chosen)]})
        follower.tensors = {"t": file.numpy()}
        net(x.clone())
        assert (max(follower.errors["t"]) > 0.02) is (name != "right"), name
        layer._forward_pre_hooks.clear()


def test_layers_behind_a_convolution_with_a_bias_have_the_range_of_its_result() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))
    made = write_onnx(net, torch.randn(1, 3, 8, 8), activations="uint8")
    assert set(made.layer_ranges) == {"0", "1", "2"}
    assert made.layer_ranges["1"] == made.ranges["0"]
