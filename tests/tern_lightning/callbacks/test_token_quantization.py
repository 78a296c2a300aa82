"""Activations that are rounded with a scale of every token: what is computed, kept, exported and compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

import tern_lightning
from tern_lightning import ActivationQuantization, TernaryCallback
from tern_lightning.exporter import ExportError, write_onnx
from tern_lightning.exporter.checkpoint_inputs import checkpoint_ranges
from tern_lightning.loop import to_plain
from tern_lightning.nn.activation_quantizer import ActivationRange, activation_ranges, remove_fake_quantizers
from tern_lightning.nn.token_quantizer import TokenFakeQuantizer, TokenRange
from tests.properties import examples


class Tokens(pl.LightningModule):
    """A convolution that makes tokens, two branches that read the same ones, and what reads them without rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(3, 24, 1)
        self.left, self.right = nn.Linear(24, 24), nn.Linear(24, 24, bias=False)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).transpose(1, 2)
        return self.head(tokens + torch.relu(self.left(tokens)) * self.right(tokens))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def batches() -> list[Tensor]:
    return list(torch.randn(4, 2, 3, 7, generator=torch.Generator().manual_seed(0)))


def fit(module: Tokens, *callbacks: pl.Callback, steps: int = 4, **options: Any) -> Tokens:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    has_checkpoints = any(isinstance(one, ModelCheckpoint) for one in callbacks)
    run = pl.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=list(callbacks), enable_checkpointing=has_checkpoints, **quiet
    )
    # The same batch again and again: it makes no difference where in an epoch a run goes on.
    run.fit(module, torch.utils.data.DataLoader(batches()[:1] * 4, batch_size=None), **options)
    return module


def per_token(**options: Any) -> ActivationQuantization:
    return ActivationQuantization(granularity="per_token", **options)


@examples(40)
@given(
    bits=st.integers(2, 8),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    power=st.integers(-8, 8),
    seed=st.integers(0, 99),
)
def test_rounding_is_that_of_the_formula(bits: int, shape: list[int], power: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * np.float32(10.0**power)
    top = 2 ** (bits - 1) - 1
    scale = np.float32(top) / np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-5))
    wanted = np.clip(np.rint(x * scale), -top - 1, top) / scale
    found = TokenRange(bits).fake_quantize(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), wanted)
    largest = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)
    kept = np.take_along_axis(found.numpy(), np.abs(x).argmax(-1)[..., None], -1)
    if np.abs(largest).min() > 1e-5:
        np.testing.assert_allclose(kept, largest, rtol=1e-6)


def test_gradients_pass_straight_through() -> None:
    layer = nn.Linear(5, 2)
    layer.register_forward_pre_hook(TokenFakeQuantizer(3))
    x = torch.randn(4, 5, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.linear(TokenRange(3).fake_quantize(x), layer.weight, layer.bias))
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, 5))


def test_only_linear_layers_are_rounded_and_from_the_first_batch_on() -> None:
    net = fit(Tokens(), per_token(bits=4, exclude=["head"]), steps=1)
    assert activation_ranges(net) == {"left": TokenRange(4), "right": TokenRange(4)}
    x = batches()[0]
    rounded = net(x)
    remove_fake_quantizers(net)
    assert not torch.equal(net(x), rounded)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "per_row"}, "granularity must be"),
        ({"granularity": "per_token", "learned": True}, "learned=True has no step"),
        ({"granularity": "per_token", "bits": 9}, "bits must be"),
        ({"granularity": "per_token", "include": ["embed"]}, "embed.*is for linear layers"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, MisconfigurationException), match=message):
        ActivationQuantization(**options).install(Tokens())


def test_a_checkpoint_has_it_and_goes_on_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = fit(Tokens(), per_token(bits=5), ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1))
    path = tmp_path / "step=2.ckpt"
    assert checkpoint_ranges(torch.load(path, weights_only=True)) == activation_ranges(whole)
    resumed = fit(Tokens(), per_token(bits=5), ckpt_path=path, weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    with pytest.raises(MisconfigurationException, match="granularity='per_token'"):
        fit(Tokens(), ActivationQuantization(), ckpt_path=path, weights_only=True)


def test_a_module_goes_from_one_granularity_to_the_other() -> None:
    net = fit(Tokens(), ActivationQuantization(observe_batches=1))
    fit(net, per_token())
    assert activation_ranges(net)["left"] == TokenRange(8)
    assert isinstance(activation_ranges(net)["embed"], ActivationRange)


def test_plain_modules_round_by_ordinary_operators() -> None:
    net = fit(Tokens(), per_token(bits=3))
    x = batches()[0]
    traced = torch.jit.trace(to_plain(net), x)
    torch.testing.assert_close(traced(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_file_rounds_what_layers_read_and_nothing_else(bits: int) -> None:
    net = fit(Tokens(), TernaryCallback(), per_token(bits=bits, exclude=["head"]))
    samples = [(x[:1].numpy(),) for x in batches()]
    written = write_onnx(net, batches()[0][:1], activations="uint8", dense_weights="float32", samples=samples)
    assert written.quantized_check is not None
    assert written.quantized_check.relative_l2 < 1e-4
    assert written.layer_ranges["left"] == TokenRange(bits) == written.layer_ranges["right"]
    assert isinstance(written.layer_ranges["head"], ActivationRange)
    nodes = written.model.graph.node
    assert [node.op_type for node in nodes].count("ReduceMax") == 1, "both layers read one tensor"
    assert [node.op_type for node in nodes].count("QuantizeLinear") == 3
    onnx.checker.check_model(written.model, full_check=True)


def test_layers_that_round_one_tensor_differently_are_refused() -> None:
    net = fit(Tokens(), ActivationQuantization(observe_batches=1, include=["right"]))
    net.left.register_forward_pre_hook(TokenFakeQuantizer(8))
    with pytest.raises(ExportError, match="left, right read one tensor"):
        write_onnx(net, batches()[0][:1], activations="uint8")


@pytest.mark.parametrize("rows", [7, 40])
def test_the_library_computes_what_was_trained(tmp_path: Path, rows: int) -> None:
    pytest.importorskip("tvm")
    import tvm_schedules

    net = fit(Tokens(), TernaryCallback(), per_token())
    x = torch.randn(3, 3, rows, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 2, rows)
    tern_lightning.export(net, tmp_path / "out", samples=(x,), dense_weights="float32")
    library = tvm_schedules.load(tmp_path / "out")
    net.eval()
    for one in x:
        with torch.no_grad():
            wanted = net(one[None]).numpy()
        found = np.asarray(library(one[None].numpy()))
        # The convolution's input has one scale for all tokens: that is the difference.
        assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


class OwnRounding(nn.Linear):
    """Rounds its input by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(TokenRange(8).fake_quantize(x))


def test_what_modules_round_by_themselves_is_not_rounded_again() -> None:
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), OwnRounding(16, 8), nn.ReLU(), OwnRounding(8, 3)).eval()
    x = torch.randn(5, 12)
    written = write_onnx(net, x, activations="uint8", dense_weights="float32")
    assert [node.op_type for node in written.model.graph.node].count("QuantizeLinear") == 1
    assert set(written.layer_ranges) == {"0"}
