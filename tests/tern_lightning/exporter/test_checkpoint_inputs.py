"""What a file and a checkpoint know about rounded layer inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tern_lightning import CoarseActivation, MultiLevelActivation, TernaryCallback
from tern_lightning.cli.export import main
from tern_lightning.exporter import write_onnx
from tern_lightning.exporter.checkpoint_inputs import attach_learned_inputs, checkpoint_ranges
from tern_lightning.nn.learned_input import CoarseInput, LearnedInput, MultiLevelInput, learned_inputs
from tests.tern_lightning.exporter.export_nets import initializers, make_ternary, ops, run
from tests.tern_lightning.training_nets import Net, Save, samples


def trained(hook: LearnedInput, *value: float) -> LearnedInput:
    hook.value, hook.ready = torch.tensor(value), True
    return hook


class Fork(nn.Module):
    """Two layers behind one tensor, as in the first block of a stage of a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3)
        self.left, self.right = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.left(x) + self.right(x)


@pytest.mark.parametrize("activations", ["uint8", "float32"])
def test_every_layer_has_its_own_levels(activations: Any) -> None:
    net = make_ternary(Fork()).eval()
    net.left.register_forward_pre_hook(trained(CoarseInput(2, "mean"), 0.5))
    net.right.register_forward_pre_hook(trained(MultiLevelInput(1, False, False), 0.8))
    x = torch.randn(1, 2, 8, 8)
    written = write_onnx(net, x, activations=activations)
    assert ops(written.model).count("QuantizeLinear") == 2 + (activations == "uint8")
    scales = [
        onnx.numpy_helper.to_array(initializers(written.model)[node.input[1]])
        for node in written.model.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert {0.5, np.float32(0.8)} <= {np.float32(scale) for scale in scales}
    with torch.no_grad():
        expected = net(x).numpy()
    error = np.linalg.norm(run(written.model, x)[0] - expected) / np.linalg.norm(expected)
    assert error < (1e-5 if activations == "float32" else 0.2)


def test_checkpoints_bring_the_levels_along(fit: Any, tmp_path: Path) -> None:
    levels = [
        MultiLevelActivation(2, include=["hidden"]),
        CoarseActivation(2, include=["body.*"]),
    ]
    _, net = fit(TernaryCallback("twn", verbose=False, start=0), *levels, Save(tmp_path), max_epochs=1)
    saved = torch.load(tmp_path / "epoch0.ckpt", weights_only=True)
    plain = Net()
    plain.load_state_dict(saved["state_dict"])
    assert attach_learned_inputs(plain, saved) == 3
    assert set(learned_inputs(plain)) == {"body.0", "body.3", "hidden"}
    x = samples(4)[0]
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(x), net.eval()(x), rtol=1e-5, atol=1e-6)
    np.savez(tmp_path / "x.npz", x=x.numpy())
    spec, place = f"{Net.__module__}:Net", tmp_path / "out"
    assert main([str(tmp_path / "epoch0.ckpt"), "--model", spec, "--samples", str(tmp_path / "x.npz"), "--onnx-only",
                 "--activations", "float32", "--output", str(place)]) == 0  # fmt: skip
    found = run(onnx.load(place / "model.onnx"), x[:1])[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, net(x[:1]).numpy(), rtol=1e-3, atol=1e-4)
    saved["callbacks"][next(k for k in saved["callbacks"] if k.startswith("Multi"))] = {"head": {}}
    with pytest.raises(ValueError, match="MultiLevelActivation"):
        attach_learned_inputs(Net(), saved)


def test_damaged_checkpoint_state() -> None:
    assert checkpoint_ranges({"state_dict": {}}) == {}
    with pytest.raises(ValueError, match="damaged"):
        checkpoint_ranges({"callbacks": {"ActivationQuantization{}": {"layers": {"a": {"ready": True}}}}})
