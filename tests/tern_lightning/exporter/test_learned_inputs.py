"""Inputs with trained levels in a file: the same values, integers, from a module and from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tern_lightning import CoarseActivation, MultiLevelActivation, TernaryCallback
from tern_lightning.cli.export import main
from tern_lightning.exporter import write_onnx
from tern_lightning.exporter.checkpoint_inputs import attach_learned_inputs
from tern_lightning.nn.learned_input import CoarseInput, LearnedInput, MultiLevelInput, common_grid, learned_inputs
from tests.tern_lightning.conftest import fit, make_net, make_trainer
from tests.tern_lightning.exporter.export_nets import initializers, make_ternary, ops, run
from tests.tern_lightning.training_nets import Net, Save, samples

__all__ = ["fit", "make_net", "make_trainer"]


def trained(hook: LearnedInput, *value: float) -> LearnedInput:
    hook.value, hook.ready = torch.tensor(value), True
    return hook


HOOKS = {
    "coarse-1": trained(CoarseInput(1, "mean"), 0.7),
    "coarse-4": trained(CoarseInput(4, "mean"), 0.11),
    "one": trained(MultiLevelInput(1, False, False), 0.9),
    "one-signed": trained(MultiLevelInput(1, True, False), 0.9),
    "uniform": trained(MultiLevelInput(3, False, True), 0.37),
    "uniform-signed": trained(MultiLevelInput(2, True, True), 0.37),
    "levels": trained(MultiLevelInput(3, False, False), 1.0, 0.613, 0.271),
    "levels-signed": trained(MultiLevelInput(2, True, False), 1.0, 0.43),
}


@pytest.mark.parametrize("name", HOOKS)
def test_written_operators_give_the_same_values(name: str) -> None:
    hook = HOOKS[name]
    x = torch.cat([torch.zeros(3), torch.randn(5000)])
    expected, found = hook.quantize(x).detach(), hook.write(x, hook.value.tolist())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    grid = hook.range()
    if grid is not None:
        near = grid.fake_quantize(expected)
        assert float((near - expected).abs().max()) <= float(hook.value.sum()) / 2048 * 1.01
        assert expected.unique().numel() == near.unique().numel()


def test_hooks_are_found_under_every_path_once_they_are_ready() -> None:
    shared, other = nn.Linear(2, 2), nn.Linear(2, 2)
    shared.register_forward_pre_hook(HOOKS["coarse-4"])
    other.register_forward_pre_hook(MultiLevelInput(2, True, False))  # without levels so far
    other.register_forward_pre_hook(lambda layer, inputs: None)
    net = nn.ModuleDict({"first": shared, "again": shared, "other": other})
    assert learned_inputs(net) == {"first": HOOKS["coarse-4"], "again": HOOKS["coarse-4"]}


@given(st.lists(st.floats(0.1, 10.0), min_size=2, max_size=4), st.sampled_from([127, 255]))
def test_common_grid(levels: list[float], most: int) -> None:
    step, counts = common_grid(levels, most)
    assert step > 0
    assert sum(counts) <= most
    error = sum(abs(n * step - level) for n, level in zip(counts, levels, strict=True))
    assert error <= sum(levels) / 2048 or error <= len(levels) * sum(levels) / most
    assert common_grid([3 * step, 2 * step, step], most)[1] == [3, 2, 1]


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
