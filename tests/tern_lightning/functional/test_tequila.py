"""The dead-zone bias: values, gradients, and that it survives checkpoints, freeze, averaging and export."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from tern_lightning import Rule, TernaryCallback
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap, unswap
from tern_lightning.nn.ternary_layers import freeze
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.training_nets import Net, Save, samples


def make(layer, **options):
    torch.manual_seed(0)
    axis = int(isinstance(layer, nn.ConvTranspose2d))
    return swap(layer, LayerState(get_quantizer("tequila", **options), axis, "ternary"))


@pytest.mark.parametrize("kind", ["linear", "conv", "transposed"])
def test_output_and_gradient(kind):
    layer, x = {
        "linear": (nn.Linear(9, 4), torch.randn(5, 9)),
        "conv": (nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)),
        "transposed": (nn.ConvTranspose2d(3, 4, 2), torch.randn(2, 3, 4, 4)),
    }[kind]
    make(layer, strength=0.5)
    latent, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    codes = layer.ternary().codes[0]
    axes = [axis for axis in range(latent.ndim) if axis != layer._ternary_state.channel_axis]
    shift = 0.5 * (latent * (codes == 0)).sum(axes)
    run = {"linear": F.linear, "conv": F.conv2d, "transposed": F.conv_transpose2d}[kind]
    values, total = layer.ternary().dequantize().requires_grad_(), (bias + shift).requires_grad_()
    y, expected = layer(x), run(x, values, total)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(layer.bias.grad, total.grad)
    shape = [1] * latent.ndim
    shape[layer._ternary_state.channel_axis] = -1
    torch.testing.assert_close(layer.weight.grad, values.grad + 0.5 * (codes == 0) * total.grad.reshape(shape))

    plain = type(layer)._ternary_base(*{"linear": (9, 4), "conv": (3, 4, 3), "transposed": (3, 4, 2)}[kind])
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(plain(x), layer(x))
    assert torch.equal(layer.bias, bias)
    freeze(layer)
    torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.bias.detach(), bias + shift)
    unswap(layer)
    assert layer.bias is layer._parameters["bias"]


def test_loaded_values_are_used_as_they_are_and_add_nothing_twice():
    layer, x = make(nn.Linear(9, 4), strength=0.5), torch.randn(5, 9)
    expected, state = layer(x).detach(), layer.state_dict()
    layer.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), expected)
    assert torch.equal(layer.state_dict()["bias"], state["bias"])
    # In training codes and scale are found anew, but no weight of the dead zone is left.
    values = layer._ternary_state.quantizer.ternary(state["weight"]).dequantize()
    assert torch.equal(layer.train()(x), F.linear(x, values, state["bias"]))


def test_every_checkpoint_computes_what_the_network_does(fit, tmp_path):
    class Watch(pl.Callback):
        def __init__(self):
            self.found = {}

        def on_train_batch_end(self, trainer, pl_module, *args):
            with torch.no_grad():
                self.found[trainer.global_step] = pl_module.eval()(samples()[0])
            pl_module.train()

    watch = Watch()
    own = TernaryCallback("tequila", options={"strength": 0.5}, freeze=3, verbose=False)
    fit(own, watch, Save(tmp_path))
    for step in (1, 3, 11, 12, 13, 20):
        plain = Net()
        plain.load_state_dict(torch.load(tmp_path / f"step{step}.ckpt", weights_only=True)["state_dict"])
        with torch.no_grad():
            assert torch.equal(plain.eval()(samples()[0]), watch.found[step])


def test_resume_with_averaged_copies(fit, make_net, tmp_path):
    def callbacks():
        own = TernaryCallback("tequila", options={"strength": 0.5}, freeze=3, verbose=False)
        return own, EMAWeightAveraging(decay=0.5)

    _, net = fit(*callbacks(), Save(tmp_path))
    plain = Net()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(samples()[0]), net.eval()(samples()[0]))
    for step in (6, 14):
        _, again = fit(*callbacks(), net=make_net(), ckpt_path=tmp_path / f"step{step}.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


class NoBias(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.hidden = nn.Linear(self.hparams.width * 25, 8, bias=False)


class Grouped(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.body[3] = nn.ConvTranspose2d(6, 6, 2, groups=2)


@pytest.mark.parametrize(
    ("cls", "why"), [(NoBias, "'hidden' has no bias"), (Grouped, r"'body.3' is transposed with groups")]
)
def test_layers_that_it_cannot_be_used_for(cls, why, fit, make_net):
    with pytest.raises(ValueError, match=rf"method 'tequila' adds to the bias, and layer {why}"):
        fit(TernaryCallback("tequila", verbose=False), net=make_net(cls))
    rules = [Rule("hidden", "twn"), Rule("body.3", "twn"), Rule("body.0", "tequila")]
    fit(TernaryCallback(rules=rules, verbose=False), net=make_net(cls), max_epochs=1)
