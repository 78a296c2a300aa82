"""The digits network, stage by stage: every 8-bit tensor within one step of onnxruntime's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.backends.gpu.runners import GpuRunner
from tvm_schedules.verify import layerwise
from tvm_schedules.verify.reference import reference_outputs


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """The exported network and four images. Weights are made ternary by value; nothing is trained."""
    import torch

    import tern_lightning
    from examples.digits import Digits, DigitsNet

    torch.manual_seed(0)
    net, images = DigitsNet(), Digits().held_out[0]
    for layer in net.blocks.modules():
        if isinstance(layer, torch.nn.Conv2d):
            weight = layer.weight.data
            level = weight.abs().mean((1, 2, 3), keepdim=True)
            layer.weight.data = torch.where(weight.abs() > 1.2 * level, weight.sign() * level, torch.zeros(()))
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.from_numpy(images[:128]))  # statistics of the normalization
    folder = tmp_path_factory.mktemp("digits")
    tern_lightning.export(net.eval(), folder / "out", samples=images[:16], onnx_only=True)
    model = onnx.load(Path(folder) / "out" / "model.onnx")
    name = model.graph.input[0].name
    return model, [{name: image[None]} for image in images[:4]]


@pytest.mark.parametrize("target", ["opencl", "cuda"])
def test_every_tensor_is_within_one_step(digits: Any, target: str) -> None:
    model, runs = digits

    def make(probe: Any) -> Any:
        network = GpuRunner(probe, target)
        return lambda *x: tuple(network(*x))

    found = layerwise.compare_layers(model, runs, make)
    assert len(found) > 6
    assert max(stage.steps for stage in found) <= 1
    assert max(stage.share for stage in found) < 1e-3


@pytest.mark.parametrize("target", ["opencl", "cuda"])
def test_classes_and_logits(digits: Any, target: str) -> None:
    model, runs = digits
    wanted = reference_outputs(model, runs)
    network = GpuRunner(model, target)
    kernels = {step.kernel for step in network.plan.steps}
    assert {"repack", "conv_dot", "global_pool", "linear_dot"} <= kernels
    for run, want in zip(runs, wanted, strict=True):
        have = network(*run.values())[0]
        assert np.abs(have - want[0]).max() <= 0.02 * np.abs(want[0]).max()
        assert have.argmax() == want[0].argmax()
