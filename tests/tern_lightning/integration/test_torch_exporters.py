"""Trained modules in PyTorch's own exporters: traces, exported programs, ONNX of both kinds."""

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tern_lightning import ActivationQuantization, CoarseActivation, MultiLevelActivation, TernaryCallback
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import freeze
from tern_lightning.quantizers import get_quantizer
from tests.tern_lightning.integration.test_every_method import CASES
from tests.tern_lightning.training_nets import samples


def trained_like(case, phase):
    """A network with every kind of layer that a method has to do with, in a phase."""
    method, options = CASES[case]
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 81, 5),
    )
    for layer, axis in ((net[0], 0), (net[3], 1), (net[6], 0)):
        swap(layer, LayerState(get_quantizer(method, **options), axis, "ternary"))
        layer._ternary_state.quantizer.begin(layer.weight, axis)
        layer._ternary_state.quantizer.progress.fill_(0.7)
        if phase == "frozen":
            freeze(layer)
    return net.eval()


def by_trace(net, x):
    """Saved and loaded, as a process without this package does."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, x), file)
    file.seek(0)
    return torch.jit.load(file)(x).numpy()


def by_program(net, x):
    return torch.export.export(net, (x,)).module()(x).numpy()


def by_onnx(net, x, dynamo):
    file = io.BytesIO()
    torch.onnx.export(net, (x,), file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def check(export, net, x, *options):
    with torch.no_grad():
        expected = net(x).numpy()
        found = export(net, x, *options)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("phase", ["ternary", "frozen"])
@pytest.mark.parametrize("case", CASES)
def test_trace_of_every_method(case, phase):
    net, x = trained_like(case, phase), samples(2)[0]
    check(by_trace, net, x)
    check(by_onnx, net, x, False)


@pytest.mark.parametrize(
    ("case", "phase"),
    [
        ("twn", "frozen"),
        ("multilevel", "frozen"),
        ("sherry", "ternary"),
        ("ttq-sparse", "ternary"),
        ("ec2t", "ternary"),
    ],
)
def test_programs_and_onnx_from_them(case, phase):
    net, x = trained_like(case, phase), samples(2)[0]
    check(by_program, net, x)
    check(by_onnx, net, x, True)


@pytest.mark.parametrize(("case", "phase"), [("twn", "frozen"), ("multilevel", "frozen"), ("hestia", "ternary")])
def test_a_program_can_be_trained(case, phase):
    """As all programs can whose parameters ask for gradients; nobody has to turn gradients off to run one."""
    net, x = trained_like(case, phase), samples(2)[0]
    program = torch.export.export(net, (x,)).module()
    expected, found = net(x), program(x)
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in program.named_parameters()}
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_long_rows_are_projected_in_a_program_too():
    net = nn.Sequential(nn.Linear(1500, 3)).eval()
    swap(net[0], LayerState(get_quantizer("admm"), 0, "ternary"))
    check(by_program, net, torch.randn(2, 1500))


def test_what_cannot_be_written_says_what_can():
    x = samples(1)[0]
    with pytest.raises(RuntimeError, match=r"torch.jit.script\(tern_lightning.to_plain\(module\)\)"):
        torch.jit.script(trained_like("twn", "ternary"))
    with pytest.warns(match=r"give it tern_lightning.to_plain\(module\)"), pytest.raises(RuntimeError):
        by_onnx(trained_like("multilevel", "ternary"), x, True)


@pytest.mark.parametrize(
    "inputs", [ActivationQuantization(observer="minmax"), CoarseActivation(bits=4), MultiLevelActivation(terms=2)]
)
def test_rounded_activations_are_traced(inputs, fit):
    _, net = fit(TernaryCallback("twn", start=0, verbose=False), inputs, max_epochs=2)
    net.eval()
    x = samples(2)[0]
    check(by_trace, net, x)
    check(by_onnx, net, x, False)
