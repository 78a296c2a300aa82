"""The ONNX writer: layers, folding, sharing, names, and agreement with the module in onnxruntime."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tern_lightning.exporter import ExportError, VerificationError, to_onnx, write_onnx
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap
from tern_lightning.quantizers import get_quantizer
from tern_lightning.ternary_tensor import TernaryTensor
from tests.tern_lightning.exporter.export_nets import (
    Residual,
    initializers,
    make_ternary,
    ops,
    relative_error,
    run,
    unpack_int2,
)

CASES = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 2), dilation=2), (2, 4, 9, 8)),
    "conv2d_grouped": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (1, 4, 6, 6)),
    "conv2d_depthwise": (nn.Conv2d(6, 12, 3, groups=6, padding="same"), (1, 6, 6, 6)),
    "conv2d_circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (1, 4, 6, 6)),
    "conv3d": (nn.Conv3d(3, 4, 3, padding=1), (1, 3, 4, 5, 4)),
    "transposed1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), (1, 4, 7)),
    "transposed2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (1, 4, 5, 5)),
    "transposed2d_grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5)),
    "transposed3d": (nn.ConvTranspose3d(3, 4, 2), (1, 3, 3, 3, 3)),
    "linear": (nn.Linear(7, 5), (3, 7)),
    "linear_tokens": (nn.Linear(7, 5), (2, 3, 7)),
    "linear_tokens_no_bias": (nn.Linear(7, 5, bias=False), (2, 3, 7)),
}


@pytest.mark.parametrize("unequal", [False, True], ids=["equal", "unequal"])
@pytest.mark.parametrize("case", CASES)
def test_layer(case: str, unequal: bool) -> None:
    layer, shape = CASES[case]
    net = make_ternary(nn.Sequential(copy.deepcopy(layer)), unequal=unequal)
    x = torch.randn(shape)
    model = to_onnx(net, x)
    assert relative_error(run(model, x)[0], net(x)) < 1e-5
    stored = [unpack_int2(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT2]
    assert len(stored) == (2 if unequal else 1)
    weight = net[0].weight.detach().numpy()
    np.testing.assert_array_equal(sum(stored), np.sign(weight))
    assert not any(t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1 for t in model.graph.initializer)
    assert model.ir_version == 13
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 25)]


NORMED = {
    "conv2d": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), (1, 6, 6, 6)),
    "transposed": (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 7)),
    "linear": (nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6), (3, 7)),
}


@pytest.mark.parametrize("case", NORMED)
def test_batch_norm_is_folded_into_levels(case: str) -> None:
    layer, norm, shape = NORMED[case]
    net = make_ternary(nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm)), unequal=False).eval()
    x = torch.randn(shape)
    model = to_onnx(net, x)
    assert "BatchNormalization" not in ops(model)
    assert relative_error(run(model, x)[0], net(x)) < 1e-5
    stored = initializers(model)
    axis = 1 if case == "transposed" else 0
    gamma = net[1].weight.detach()
    weight = net[0].weight.detach().movedim(axis, 0)
    shape = (-1,) + (1,) * (weight.ndim - 1)
    expected = (weight.sign() * gamma.sign().reshape(shape)).movedim(0, axis)
    np.testing.assert_array_equal(unpack_int2(stored["0.weight"]), expected.numpy())
    scale = onnx.numpy_helper.to_array(stored["0.weight_scale"])
    level = weight.abs().flatten(1).amax(1) * gamma.abs() / (net[1].running_var + net[1].eps).sqrt()
    used = (gamma != 0).numpy()
    np.testing.assert_allclose(scale[used], level.detach().numpy()[used], rtol=1e-6)
    assert (scale > 0).all()


def test_batch_norm_that_cannot_be_folded_stays() -> None:
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.bn, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return x + self.second(torch.relu(self.bn(x)))  # the normalized tensor is also read raw

    net = make_ternary(PreActivation()).eval()
    x = torch.randn(1, 3, 6, 6)
    model = to_onnx(net, x)
    assert ops(model).count("BatchNormalization") == 1
    assert relative_error(run(model, x)[0], net(x)) < 1e-5


def test_several_terms_survive_folding() -> None:
    net = make_ternary(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).eval()
    codes = torch.randint(-1, 2, (2, 4, 3, 3, 3), dtype=torch.int8)
    levels = torch.tensor([[0.9], [0.3]])
    weight = TernaryTensor(codes, levels, levels)
    x = torch.randn(2, 3, 6, 6)
    written = write_onnx(net, x, ternary={"0": weight})
    net[0].weight.data = (codes.float() * levels.reshape(2, 1, 1, 1, 1)).sum(0)
    assert relative_error(run(written.model, x)[0], net(x)) < 1e-5
    stored = initializers(written.model)
    gamma = net[1].weight.detach().sign().to(torch.int8).reshape(4, 1, 1, 1)
    for term in range(2):
        np.testing.assert_array_equal(unpack_int2(stored[f"0.weight.term{term}"]), (codes[term] * gamma).numpy())
    assert written.ternary["0"].terms == 2


def test_one_sided_channels_need_no_second_term() -> None:
    net = nn.Sequential(nn.Linear(6, 3, bias=False))
    net[0].weight.data = torch.tensor([[1.0, 0, 1, 0, 1, 0], [0, -2.0, 0, -2, 0, 0], [3.0, -3, 0, 0, 3, 0]])
    model = to_onnx(net, torch.randn(1, 6))
    assert sum(t.data_type == onnx.TensorProto.INT2 for t in model.graph.initializer) == 1
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(initializers(model)["0.weight_scale"]), [1, 2, 3])


def test_residual_network_names_and_untouched_module() -> None:
    net = make_ternary(Residual())
    net.stem.weight.data = torch.randn_like(net.stem.weight)
    net.train()
    net.bn.eval()
    before = copy.deepcopy(net.state_dict())
    flags = [m.training for m in net.modules()]
    x = torch.randn(2, 3, 8, 8)
    written = write_onnx(net, x)
    assert [m.training for m in net.modules()] == flags
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert list(written.ternary) == [f"layer1.{b}.conv{c}" for b in (0, 1) for c in (1, 2)] + ["fc"]
    assert written.dense == ("stem",)
    assert written.float_check is not None
    assert written.float_check.passed
    assert relative_error(run(written.model, x)[0], net.eval()(x)) < 1e-5

    nodes = {node.name: node for node in written.model.graph.node}
    assert len(nodes) == len(written.model.graph.node)
    conv = nodes["layer1.0.conv1"]
    assert list(conv.output) == ["layer1.0.conv1"]
    assert list(conv.input)[1:] == ["layer1.0.conv1.weight_dequantized", "layer1.0.conv1.bias"]
    assert list(nodes["layer1.0.conv1/dequantize"].input) == ["layer1.0.conv1.weight", "layer1.0.conv1.weight_scale"]
    assert nodes["fc"].op_type == "Gemm"
    assert [value.name for value in written.model.graph.input] == ["x"]
    assert [value.name for value in written.model.graph.output] == ["output_0"]
    metadata = {entry.key: entry.value for entry in written.model.metadata_props}
    assert '"sparsity"' in metadata["tern.layer.layer1.0.conv1"]


def test_tied_weights_are_stored_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.shared = nn.Linear(6, 6)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(self.shared(self.b(self.a(x))))

    net = Tied()
    make_ternary(net)
    net.b.weight = net.a.weight
    x = torch.randn(2, 6)
    model = to_onnx(net, x)
    assert relative_error(run(model, x)[0], net(x)) < 1e-5
    assert sum(t.data_type == onnx.TensorProto.INT2 for t in model.graph.initializer) == 2
    assert {"a", "b", "shared", "shared_1"} <= {node.name for node in model.graph.node}


def test_shared_convolution_with_two_norms() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.bn1(self.conv(left)), self.bn2(self.conv(right))

    net = make_ternary(Siamese()).eval()
    inputs = torch.randn(1, 3, 5, 5), torch.randn(1, 3, 5, 5)
    model = to_onnx(net, inputs)
    assert [value.name for value in model.graph.input] == ["left", "right"]
    assert [value.name for value in model.graph.output] == ["output_0", "output_1"]
    for actual, expected in zip(run(model, *inputs), net(*inputs), strict=True):
        assert relative_error(actual, expected) < 1e-5
    assert "BatchNormalization" not in ops(model)


def test_input_and_repeated_tensor_as_outputs() -> None:
    class Echo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.fc(x)
            return {"y": y, "again": y, "x": x}

    net = make_ternary(Echo())
    x = torch.randn(2, 6)
    outputs = run(to_onnx(net, x), x)
    np.testing.assert_allclose(outputs[0], net(x)["y"].detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], x.numpy())


def test_transformer_with_functional_products() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    make_ternary(net)  # linear1, linear2, out_proj; in_proj_weight stays float
    x = torch.randn(2, 5, 8)
    for requires_grad in (True, False):  # without gradients torch would take its fused kernel
        written = write_onnx(net.requires_grad_(requires_grad), x)
        assert {"linear1", "linear2", "self_attn.out_proj"} == set(written.ternary)
        assert written.dense == ("self_attn",)
        assert relative_error(run(written.model, x)[0], net.eval()(x)) < 1e-4
    quantized = write_onnx(net, x, activations="uint8")
    assert quantized.quantized_check is not None
    assert ops(quantized.model).count("QuantizeLinear") == 4


@pytest.mark.parametrize("method", ["twn", "absmean", "sws"])
def test_layers_swapped_by_the_callback(method: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    for layer in (net[0], net[3]):
        swap(layer, LayerState(get_quantizer(method), 0, "ternary"))
    x = torch.randn(1, 3, 8, 8)
    written = write_onnx(net, x)
    net.eval()
    assert relative_error(run(written.model, x)[0], net(x)) < 1e-5
    codes = unpack_int2(initializers(written.model)["3.weight"])
    np.testing.assert_array_equal(codes, net[3].ternary().codes[0].numpy())
    assert not torch.equal(net[3].weight, net[3].ternary().dequantize())  # the latent weight is not what is exported


def test_lightning_module_compiled_and_half() -> None:
    import lightning.pytorch as pl

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    net = make_ternary(Net())
    x = torch.randn(2, 8)
    compiled = torch.compile(net, backend="eager")
    assert relative_error(run(to_onnx(compiled, x), x)[0], net(x)) < 1e-5
    assert relative_error(run(to_onnx(net.to(torch.bfloat16), x), x)[0], net.float()(x)) < 1e-5
    assert net.net[0].weight.dtype == torch.float32


def test_float_layers_are_not_called_ternary() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1, groups=3, bias=False),  # one weight a channel: ternary by value, but by accident
        nn.Conv2d(3, 4, 1, bias=False),
        nn.Flatten(),
        nn.Linear(64, 2),
    )
    net[3].weight.data = net[3].weight.data.sign() * (1 + torch.rand_like(net[3].weight))
    written = write_onnx(net, torch.randn(1, 3, 4, 4))
    assert not written.ternary
    assert written.dense == ("0", "1", "3")


def test_file_takes_two_bits_a_weight() -> None:
    net = make_ternary(nn.Sequential(nn.Conv2d(128, 128, 3, bias=False), nn.BatchNorm2d(128)))
    model = to_onnx(net, torch.randn(1, 128, 4, 4))
    weights = net[0].weight.numel()
    assert weights / 4 < model.ByteSize() < weights / 4 + 3000


def test_verification_notices_a_wrong_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from tern_lightning.exporter import weights

    right = weights.components
    monkeypatch.setattr(weights, "components", lambda w: [(c, s * 1.01) for c, s in right(w)])
    net = make_ternary(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    x = torch.randn(4, 8)
    with pytest.raises(VerificationError, match="differs from the module"):
        to_onnx(net, x)
    monkeypatch.setattr(weights, "components", lambda w: [(c, s * 1.1) for c, s in right(w)])
    with pytest.raises(VerificationError, match="8-bit rounding"):
        to_onnx(net, x, activations="uint8")


class TestBadInput:
    def test_not_finite(self) -> None:
        net = make_ternary(Residual())
        net.layer1[1].conv2.weight.data[0, 0, 0, 0] = float("nan")
        with pytest.raises(ExportError, match=r"layer1\.1\.conv2\.weight"):
            to_onnx(net, torch.randn(1, 3, 8, 8))

    def test_all_zero_layer(self) -> None:
        net = make_ternary(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
        net[1].weight.data.zero_()
        x = torch.randn(2, 4)
        with pytest.raises(ExportError, match="weights of 1 are zero"):
            to_onnx(net, x)
        model = to_onnx(net, x, allow_zero_layers=True)
        np.testing.assert_allclose(run(model, x)[0], net(x).detach().numpy(), rtol=1e-6)

    def test_unknown_or_misshapen_ternary(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4))
        weight = TernaryTensor.from_values(torch.ones(4, 4))
        assert weight is not None
        with pytest.raises(ExportError, match="'1', which is not"):
            to_onnx(net, torch.randn(1, 4), ternary={"1": weight})
        with pytest.raises(ExportError, match=r"shape \(4, 4\)"):
            to_onnx(nn.Sequential(nn.Linear(4, 3)), torch.randn(1, 4), ternary={"0": weight})

    def test_wrong_input_shape(self) -> None:
        with pytest.raises(ExportError, match=r"forward fails on inputs of shape \[1, 5\]"):
            to_onnx(make_ternary(nn.Sequential(nn.Linear(4, 4))), torch.randn(1, 5))

    def test_untraceable(self) -> None:
        class Branch(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 4)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.fc(x) if x.sum().item() > 0 else x

        with pytest.raises(ExportError, match="cannot trace Branch"):
            to_onnx(make_ternary(Branch()), torch.randn(1, 4))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"activations": "int4"}, "activations must be"),
            ({"dense_weights": "int4"}, "dense_weights must be"),
            ({"percentile": 20.0}, "percentile must be"),
            ({"bits": 9, "activations": "uint8"}, "bits must be"),
        ],
    )
    def test_arguments(self, arguments: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            to_onnx(make_ternary(nn.Sequential(nn.Linear(4, 4))), torch.randn(1, 4), **arguments)

    def test_samples_that_do_not_fit(self) -> None:
        net = make_ternary(nn.Sequential(nn.Linear(4, 4)))
        with pytest.raises(ExportError, match="samples have shapes"):
            write_onnx(net, torch.randn(1, 4), samples=[(np.zeros((2, 4), np.float32),)])
        with pytest.raises(ExportError, match="NaN or infinity"):
            write_onnx(net, torch.randn(1, 4), samples=[(np.full((1, 4), np.inf, np.float32),)])


class Anchored(nn.Module):
    """The second slice of the buffer is folded, and called ``slice_1`` as the third node would be."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.register_buffer("anchors", torch.rand(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return torch.cat([y[:, :2] + self.anchors[:, :2], y[:, 2:] * self.anchors[:, 2:]], 1)


class Masked(nn.Module):
    """A mask of infinities in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first(x) + self.mask).softmax(-1)


@pytest.mark.parametrize("make", [Anchored, Masked])
def test_buffers_beside_layers(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net, x = make(), torch.randn(3, 4)
    made = write_onnx(net, x)
    assert relative_error(run(made.model, x)[0], net(x)) < 1e-5


class Biased(nn.Module):
    """Attention with biases of relative places, which are looked up in a trained table."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out, self.table = nn.Linear(8, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(9, 2))
        self.register_buffer("places", torch.arange(5)[:, None] - torch.arange(5) + 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).view(*x.shape[:2], 2, 4).transpose(1, 2)
        bias = self.table[self.places].permute(2, 0, 1)[None]
        y = nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=bias)
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))


def test_attention_with_a_trained_bias() -> None:
    torch.manual_seed(0)
    net, x = Biased(), torch.randn(1, 5, 8)
    assert relative_error(run(write_onnx(net, x).model, x)[0], net(x)) < 1e-5


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return y if (y == 0).all() else -y


def test_a_forward_that_decides_by_values_gets_a_way_out() -> None:
    with pytest.raises(ExportError, match="let it decide by shapes or options"):
        write_onnx(Deciding(), torch.randn(2, 4))
