"""Runs in every precision that Lightning has on CPUs: the network that was trained is the one that is written."""

import numpy as np
import onnxruntime
import pytest
import torch

from tern_lightning import ActivationQuantization, TernaryCallback
from tern_lightning.exporter import write_onnx
from tern_lightning.nn.ternary_layers import ternary_layers
from tests.tern_lightning.integration.test_every_method import CASES
from tests.tern_lightning.training_nets import Net, samples

TRUE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


def trained(fit, precision, case="twn", freeze=None, inputs=()):
    method, options = CASES[case]
    torch.manual_seed(3)
    net = Net(optimizer="sgd")  # Adam's epsilon is zero in float16
    callback = TernaryCallback(method, options=options, start=0, freeze=freeze, verbose=False)
    fit(callback, *inputs, net=net, precision=precision, max_epochs=2)
    return net


def in_onnxruntime(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize(
    ("precision", "case", "freeze"),
    [
        ("bf16-true", "twn", None),
        ("bf16-true", "tequila", None),
        ("bf16-true", "multilevel", None),
        ("bf16-true", "multilevel", 1),
        ("16-true", "ttq", None),
        ("64-true", "multilevel", 1),
        ("64-true", "tga", None),
        ("bf16-mixed", "ttq", None),
        ("16-mixed", "twn", 1),
    ],
)
def test_the_written_network_has_the_trained_codes_and_levels(precision, case, freeze, fit):
    net = trained(fit, precision, case, freeze)
    dtype = TRUE.get(precision, torch.float32)
    assert {p.dtype for p in net.parameters()} == {dtype}
    x = samples(4)[0]
    written = write_onnx(net, x, activations="float32")
    layers = ternary_layers(net)
    assert set(written.ternary) == set(layers) == {"body.0", "body.3", "hidden"}
    state = net.state_dict()
    for path, weight in written.ternary.items():
        assert torch.equal(weight.codes, layers[path].ternary().codes)
        # The checkpoint holds the same weight, rounded once to the precision of the run.
        torch.testing.assert_close(weight.dequantize().to(dtype), state[f"{path}.weight"], rtol=1e-2, atol=0)
    plain = Net().to(dtype)
    plain.load_state_dict(state)
    with torch.no_grad():
        expected = plain.eval().double()(x.double()).numpy()
    # Several terms are rounded as a sum in the checkpoint; other weights are there as they are.
    scale = 1e-2 if case == "multilevel" and dtype != torch.float64 else 1e-5
    assert np.abs(in_onnxruntime(written.model, x) - expected).max() < scale * np.abs(expected).max()


@pytest.mark.parametrize("precision", TRUE)
def test_eight_bits(precision, fit):
    net = trained(fit, precision, inputs=[ActivationQuantization()])
    written = write_onnx(net, samples(32)[0], activations="uint8")
    assert written.quantized_check.top1 == 1
    assert set(written.ternary) == {"body.0", "body.3", "hidden"}
