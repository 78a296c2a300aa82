import copy

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import lend, swap, unswap
from tern_lightning.nn.ternary_layers import freeze, ternary_layers
from tern_lightning.quantizers import get_quantizer
from tern_lightning.rules import Rule, resolve
from tests.tern_lightning.training_nets import Net, Save
from tests.tern_lightning.training_runs import assert_same, everything


def attention(batch_first=True, ternary=("in", "out"), phase="ternary", method="twn", **options):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    nn.init.normal_(layer.in_proj_bias)
    for name, part in (("in", layer), ("out", layer.out_proj)):
        if name in ternary:
            swap(part, LayerState(get_quantizer(method, **options), 0, "ternary"))
            if phase == "frozen":
                freeze(part)
    lend(layer)
    return layer


def plain(layer):
    twin = nn.MultiheadAttention(8, 2, batch_first=layer.batch_first)
    twin.load_state_dict(layer.state_dict())
    return twin.train(layer.training)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ternary", [("in", "out"), ("in",), ("out",)])
@pytest.mark.parametrize("phase", ["ternary", "frozen"])
def test_both_projections_compute_with_the_ternary_weight(batch_first, training, ternary, phase):
    layer = attention(batch_first, ternary, phase).train(training)
    twin, x, y = plain(layer), torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    assert len(twin.in_proj_weight.unique()) == 3 if "in" in ternary else len(twin.in_proj_weight.unique()) > 100
    assert len(twin.out_proj.weight.unique()) == 3 if "out" in ternary else len(twin.out_proj.weight.unique()) > 50
    for arguments in ((x, x, x), (x, y, y), (x, y, y + 1)):
        torch.testing.assert_close(layer(*arguments)[0], twin(*arguments)[0])
        with torch.no_grad():  # the fused kernel in evaluation
            torch.testing.assert_close(layer(*arguments)[0], twin(*arguments)[0])
    layer(x, x, x)[0].square().sum().backward()
    twin(x, x, x)[0].square().sum().backward()
    if phase == "ternary":
        torch.testing.assert_close(layer.in_proj_weight.grad, twin.in_proj_weight.grad)
        torch.testing.assert_close(layer.out_proj.weight.grad, twin.out_proj.weight.grad)
    assert isinstance(layer.in_proj_weight, nn.Parameter)
    assert isinstance(layer.out_proj.weight, nn.Parameter)


def test_a_weight_is_made_ternary_once_in_a_forward(monkeypatch):
    layer, x = attention(), torch.randn(2, 4, 8)
    calls = []
    values = LayerState.values

    def counted(self, latent, *args, **kwargs):
        calls.append(latent.shape)
        return values(self, latent, *args, **kwargs)

    monkeypatch.setattr(LayerState, "values", counted)
    layer(x, x, x)
    assert sorted(map(tuple, calls)) == [(8, 8), (24, 8)]


def test_the_float_weight_is_back_after_an_error_and_after_unswap():
    layer, x = attention(ternary=("out",)), torch.randn(2, 4, 8)
    with pytest.raises(AssertionError):
        layer(x, x, x[..., :3])
    assert isinstance(layer.out_proj.weight, nn.Parameter)
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(x, x, x)[0], layer(x, x, x)[0])
    unswap(layer.out_proj)
    lend(layer)
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks
    assert vars(layer).keys() == vars(reference).keys()


@pytest.mark.parametrize("ternary", [("in", "out"), ("out",)])
def test_compile(ternary):
    layer, x = attention(ternary=ternary), torch.randn(2, 4, 8)
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(x, x, x)[0], layer(x, x, x)[0])
    torch._dynamo.reset()


def test_bias_of_a_method_that_adds_to_it():
    layer = attention(method="tequila")
    x, twin = torch.randn(2, 4, 8), plain(layer)
    assert not torch.equal(twin.in_proj_bias, layer.in_proj_bias)
    torch.testing.assert_close(layer(x, x, x)[0], twin(x, x, x)[0])


def test_encoder_layers_by_default():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    model = nn.Sequential(nn.Linear(4, 8), encoder, nn.Linear(8, 2))
    found = {one.path: one.method for one in resolve(model, [], "twn")}
    for index in range(2):
        for name in ("self_attn", "self_attn.out_proj", "linear1", "linear2"):
            assert found[f"1.layers.{index}.{name}"] == "twn"
    only = {one.path: one.method for one in resolve(model, [Rule("*.out_proj", "sws"), Rule("*")], "twn")}
    assert {path for path, method in only.items() if method} == {
        "1.layers.0.self_attn.out_proj",
        "1.layers.1.self_attn.out_proj",
    }
    assert not ternary_layers(model)


def test_keys_of_another_size_have_weights_of_their_own():
    model = nn.Sequential(nn.Linear(4, 8), nn.MultiheadAttention(8, 2, kdim=4, vdim=4), nn.Linear(8, 2))
    found = {one.path: (one.method, one.reason) for one in resolve(model, [], "twn")}
    assert found["1"] == (None, "its in_proj_weight is None")
    assert found["1.out_proj"][0] == "twn"


class Reader(Net):
    """Rows of an image as a sequence that an encoder layer reads."""

    def __init__(self, **options):
        super().__init__(**options)
        self.stem, self.body = nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.hidden = nn.Linear(8, 8)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(self.body(self.stem(x.squeeze(1))).mean(1))))


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_with_averaged_copies_is_saved_and_resumed(order, fit, make_net, tmp_path):
    def callbacks():
        return [TernaryCallback(start=1, freeze=0.6), EMAWeightAveraging(decay=0.7)][::order]

    trainer, net = fit(*callbacks(), Save(tmp_path / "saved"), net=make_net(Reader))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step6", "step14"):
        path = tmp_path / "saved" / f"{name}.ckpt"
        again, other = fit(*callbacks(), net=make_net(Reader), ckpt_path=path)
        assert_same(everything(again, other, tmp_path / f"{name}.ckpt"), expected)
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["state_dict"]
    for name in ("body.self_attn.in_proj_weight", "body.self_attn.out_proj.weight", "body.linear1.weight"):
        assert len(saved[name].unique()) == 3
