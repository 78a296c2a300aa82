"""What holds for every method: phases, exact resume, precisions, export, compilation, masks."""

import itertools

import pytest
import torch
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import effective_bias, freeze, ternary_layers
from tern_lightning.nn.weight_mask import prune
from tern_lightning.quantizers import get_quantizer, quantizer_names
from tests.tern_lightning.training_nets import Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything

CASES = {
    "absmean": ("absmean", {}),
    "admm": ("admm", {"per_channel": True}),
    "ec2t": ("ec2t", {}),
    "ec2t-one": ("ec2t", {"two_levels": False}),
    "hestia": ("hestia", {"end": 0.8}),
    "multilevel": ("multilevel", {"terms": 3}),
    "seq": ("seq", {}),
    "sherry": ("sherry", {}),
    "sws": ("sws", {}),
    "sws-parallel": ("sws", {"terms": 4}),
    "sws-sequential": ("sws", {"terms": 2, "mode": "sequential", "per_channel": True}),
    "tequila": ("tequila", {"strength": 0.3}),
    "tga": ("tga", {"target_sparsity": 0.7}),
    "tga-two": ("tga", {"two_levels": True, "per_channel": True}),
    "ttq": ("ttq", {}),
    "ttq-sparse": ("ttq", {"sparsity": 0.8, "per_channel": True}),
    "twn": ("twn", {}),
    "twn-residual": ("twn", {"terms": 2}),
}
TRAINED = {"ec2t", "ec2t-one", "seq", "tga", "tga-two", "ttq", "ttq-sparse"}


def ternary(case, **options):
    method, own = CASES[case]
    return TernaryCallback(
        method, options=own, **{"verbose": False, "start": 1, "freeze": 3, "bn_batches": 2, **options}
    )


def logits(net):
    with torch.no_grad():
        return net.eval()(samples()[0])


def test_no_method_is_forgotten():
    assert {method for method, _ in CASES.values()} >= {
        name for name in quantizer_names() if not name.startswith("test-")
    }


@pytest.mark.parametrize("case", CASES)
def test_phases_and_resume(case, fit, make_net, tmp_path):
    """Float, ternary and frozen training; a run resumed in each phase ends as the uninterrupted one, bit for bit."""
    trainer, net = fit(ternary(case), Save(tmp_path))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    states = {}
    for step in (2, 6, 13, 20):
        saved = torch.load(tmp_path / f"step{step}.ckpt", weights_only=True)
        states[step] = saved["callbacks"][ternary(case).state_key]
    assert [states[step]["phase"] for step in states] == ["float", "ternary", "frozen", "frozen"]
    assert all(torch.equal(codes, states[20]["codes"][path]) for path, codes in states[13]["codes"].items())
    assert bool(states[6]["methods"]["hidden"]["trained"]) == (case in TRAINED) == bool(states[6]["scalars"])
    # A plain network computes what the trained one does.
    plain = Net()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(logits(plain), logits(net))
    for step in (2, 6, 11, 14):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        trainer, again = fit(ternary(case), net=other, ckpt_path=tmp_path / f"step{step}.ckpt")
        assert_same(everything(trainer, again, tmp_path / "again.ckpt"), expected)


@pytest.mark.parametrize("case", CASES)
def test_export_agrees_in_onnxruntime(case, fit, tmp_path):
    """The written network against the module, from the ternary phase; write_onnx compares them too."""
    import onnxruntime

    from tern_lightning.exporter import write_onnx

    _, net = fit(ternary(case, start=0, freeze=None), max_epochs=3)
    x = samples(5)[0]
    written = write_onnx(net, x)
    assert set(written.ternary) == {"body.0", "body.3", "hidden"}
    for path, weight in written.ternary.items():
        assert torch.equal(weight.codes, net.get_submodule(path).ternary().codes)
    session = onnxruntime.InferenceSession(written.model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net.eval()(x).numpy()
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    assert abs(found - expected).max() < 1e-4 * abs(expected).max()


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_training(case, fit, make_net):
    trainer, net = fit(ternary(case), precision="bf16-mixed", max_epochs=4)
    assert torch.isfinite(trainer.callback_metrics["val_loss"])
    state = net.state_dict()
    for path, layer in ternary_layers(net).items():
        assert torch.equal(layer.ternary().dequantize(), state[f"{path}.weight"])
        for value in layer._ternary_state.quantizer.trained.values():
            assert value.dtype == torch.float32


@pytest.mark.parametrize("case", CASES)
def test_layer(case):
    """Values, gradients, masks and freezing of one layer."""
    method, options = CASES[case]
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 6, 3)
    swap(layer, LayerState(get_quantizer(method, **options), 0, "ternary"))
    quantizer = layer._ternary_state.quantizer
    quantizer.begin(layer.weight)
    quantizer.progress.fill_(0.5)
    x = torch.randn(2, 8, 5, 5)
    prune(layer, torch.rand(layer.weight.shape) < 0.8)
    keep = layer.weight.detach() != 0
    layer(x).square().sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert not layer.weight.grad[~keep].any()
    assert layer.weight.grad[keep].count_nonzero() > 0.5 * keep.sum()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in quantizer.trained.values())
    found = layer.ternary()
    assert not found.codes[:, ~keep].any()
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), nn.functional.conv2d(x, found.dequantize(), effective_bias(layer)))
    freeze(layer.train())
    assert torch.equal(layer.ternary().codes, found.codes)
    torch.testing.assert_close(layer.ternary().dequantize(), found.dequantize(), rtol=1e-4, atol=1e-5)
    # The gradient of frozen weights is the dense gradient projected on what the codes allow: same total per level.
    layer.weight.grad = None
    layer(x).square().sum().backward()
    dense = found.dequantize().clone().requires_grad_()
    nn.functional.conv2d(x, dense, layer.bias.detach()).square().sum().backward()
    for code in found.codes:
        torch.testing.assert_close((layer.weight.grad * code).sum(), (dense.grad * code).sum(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_compile(case):
    method, options = CASES[case]
    layer = nn.Linear(16, 8)
    swap(layer, LayerState(get_quantizer(method, **options), 0, "ternary"))
    quantizer = layer._ternary_state.quantizer
    quantizer.begin(layer.weight)
    model = nn.Sequential(layer, nn.ReLU())
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(4, 16)
    counts = []
    for progress in (0.3, 0.95, 0.4):
        quantizer.progress.fill_(progress)
        model.zero_grad()
        quantizer.zero_grad()
        model(x).square().sum().backward()
        expected = [p.grad.clone() for p in (layer.weight, *quantizer.trained.values())]
        model.zero_grad()
        quantizer.zero_grad()
        compiled(x).square().sum().backward()
        for value, own in zip(expected, (layer.weight, *quantizer.trained.values()), strict=True):
            torch.testing.assert_close(own.grad, value)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert all(a == b for a, b in itertools.pairwise(counts))
    torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
@pytest.mark.parametrize("method", ["hestia", "sherry", "ttq", "tga", "seq", "ec2t", "multilevel"])
def test_every_precision_of_the_weights(method, precision, fit):
    trainer, net = fit(TernaryCallback(method, verbose=False), precision=precision, max_epochs=3)
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}[precision]
    assert torch.isfinite(trainer.callback_metrics["val_loss"])
    assert net.hidden.weight.dtype == dtype
    if method != "multilevel":
        values = net.state_dict()["hidden.weight"]
        assert len(values[values > 0].unique()) <= (1 if method != "seq" else values.shape[0])
