"""ActivationQuantization in the Trainer: what it computes, what it keeps, and how it resumes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tern_lightning import ActivationQuantization, TernaryCallback
from tern_lightning.exporter import write_onnx
from tern_lightning.exporter.checkpoint_inputs import checkpoint_ranges
from tern_lightning.nn.activation_quantizer import (
    ActivationRange,
    InputFakeQuantizer,
    activation_ranges,
    input_quantizers,
)


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean((2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Loader:
    """Batches of one small problem; it can go on in the middle of an epoch."""

    def __init__(self, batch_size: int = 8) -> None:
        x = torch.randn(48, 2, 8, 8, generator=torch.Generator().manual_seed(1))
        y = (x.mean((1, 2, 3)) > 0).long()
        self.batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
        self.position = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index in range(self.position % len(self.batches), len(self.batches)):
            self.position = index + 1
            yield self.batches[index]
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


data = Loader


def trainer(callbacks: list[pl.Callback], epochs: int = 2, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    if not any(isinstance(c, ModelCheckpoint) for c in callbacks):
        quiet["enable_checkpointing"] = False
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=callbacks, **quiet, **options)


def make_net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_network_computes_with_rounded_inputs_and_keeps_its_keys() -> None:
    net = make_net()
    keys = list(net.state_dict())
    parameters = [name for name, _ in net.named_parameters()]
    run = trainer([ActivationQuantization(observe_batches=4)])
    run.fit(net, data(), data())
    assert list(net.state_dict()) == keys
    assert [name for name, _ in net.named_parameters()] == parameters
    ranges = activation_ranges(net)
    assert list(ranges) == ["body.0", "body.3", "fc"]
    assert ranges["body.0"].zero_point > 0
    assert ranges["body.3"].zero_point == ranges["fc"].zero_point == 0

    net.eval()
    x = torch.randn(4, 2, 8, 8)
    y = x
    for index, layer in enumerate(net.body):
        if f"body.{index}" in ranges:
            y = ranges[f"body.{index}"].fake_quantize(y)
        y = type(layer).forward(layer, y)
    expected = nn.functional.linear(ranges["fc"].fake_quantize(y.mean((2, 3))), net.fc.weight, net.fc.bias)
    assert torch.equal(net(x), expected)


def test_ranges_freeze_after_the_observed_batches() -> None:
    net = make_net()
    seen: list[dict] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(activation_ranges(pl_module))

    trainer([ActivationQuantization(observe_batches=3), Watch()]).fit(net, data())
    assert seen[0] != seen[1] != seen[2]
    assert all(later == seen[2] for later in seen[3:])


def test_validation_and_test_see_the_trained_network_and_move_nothing() -> None:
    net = make_net()
    callback = ActivationQuantization(observe_batches=100)
    run = trainer([callback])
    run.fit(net, data(), data())
    before = activation_ranges(net)
    first = run.validate(net, data(), verbose=False)
    assert run.test(net, data(), verbose=False) == first
    assert trainer([]).test(net, data(), verbose=False) == first, "the hooks stay on the module"
    assert activation_ranges(net) == before
    assert len(input_quantizers(net)) == 3
    assert all(len(layer._forward_pre_hooks) <= 1 for layer in net.modules()), "set up once"


def test_export_uses_the_trained_ranges() -> None:
    net = make_net()
    trainer([ActivationQuantization(observe_batches=4, bits=6)]).fit(net, data())
    x = torch.randn(4, 2, 8, 8)
    written = write_onnx(net, x, activations="uint8")
    assert sorted(written.ranges.values(), key=str) == sorted(activation_ranges(net).values(), key=str)
    assert written.drift is not None
    assert written.drift.cosine > 0.999, "what was trained is what is exported"
    assert len(input_quantizers(net)) == 3, "the module keeps its hooks"


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("step", [2, 6], ids=["observing", "epoch-end"])
def test_resume_is_bit_exact(tmp_path: Path, learned: bool, step: int) -> None:
    def callback() -> ActivationQuantization:
        return ActivationQuantization(observe_batches=3, observer="percentile", percentile=99.0, learned=learned)

    whole = make_net()
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer([callback(), saving], epochs=2).fit(whole, data())
    path = tmp_path / f"step={step}.ckpt"
    saved = checkpoint_ranges(torch.load(path, weights_only=True))
    assert list(saved) == ["body.0", "body.3", "fc"]

    resumed = Net()
    trainer([callback()], epochs=2).fit(resumed, data(), ckpt_path=path, weights_only=True)
    assert activation_ranges(resumed) == activation_ranges(whole) != (saved if learned or step < 3 else None)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    for path, hook in input_quantizers(whole).items():
        for key, value in hook.state_dict().items():
            assert torch.equal(
                torch.as_tensor(input_quantizers(resumed)[path].state_dict()[key]), torch.as_tensor(value)
            )


def test_learned_step_follows_the_gradient_once_per_optimizer_step() -> None:
    """A step taken by hand on the accumulated gradient, with and without accumulation."""
    results = []
    for accumulate, batch_size in ((1, 8), (2, 4)):
        net = make_net()
        net.body[1] = nn.Identity()  # batch statistics would depend on the split
        callback = ActivationQuantization(observe_batches=1, ema=0.0, learned=True, learning_rate=0.5)
        callback._install(net)
        for hook in input_quantizers(net).values():
            hook.set_bounds(torch.tensor(-1.0), torch.tensor(1.0))
        callback._batches = 1
        callback._set_learning()
        start = {path: hook.scale.item() for path, hook in input_quantizers(net).items()}
        loader = data(batch_size)
        twin = copy.deepcopy(net)
        run = trainer([callback], max_steps=1, epochs=-1, accumulate_grad_batches=accumulate)
        run.fit(net, loader)
        x, y = next(iter(data(8)))
        nn.functional.cross_entropy(twin(x), y).backward()
        for path, hook in input_quantizers(twin).items():
            grad = hook.scale.grad
            assert grad is not None
            expected = max(start[path] - 0.5 * grad.item(), start[path] / 2)
            assert input_quantizers(net)[path].scale.item() == pytest.approx(expected, rel=1e-4)
            assert grad.abs() > 0
        results.append(activation_ranges(net))
    for path in results[0]:
        assert results[0][path].scale == pytest.approx(results[1][path].scale, rel=1e-4)


def test_loss_scale_is_undone() -> None:
    callback = ActivationQuantization(learned=True)
    net = make_net()
    callback._install(net)
    hooks = list(input_quantizers(net).values())
    for hook, grad in zip(hooks, (8.0, float("inf"), None), strict=True):
        hook.learn()
        hook.scale.grad = None if grad is None else torch.tensor(grad)

    class Scaler:
        def get_scale(self) -> float:
            return 4.0

    run = trainer([])
    run.strategy.precision_plugin.scaler = Scaler()  # type: ignore[attr-defined]
    assert [g.item() for g in callback._take_gradients(run, hooks)] == [2.0, 0.0, 0.0]
    assert all(hook.scale.grad is None for hook in hooks)


@pytest.mark.parametrize("ternary_first", [True, False])
def test_with_ternary_callback_in_either_order(ternary_first: bool) -> None:
    callbacks = [TernaryCallback(), ActivationQuantization(observe_batches=4)]
    net = make_net()
    trainer(callbacks if ternary_first else callbacks[::-1]).fit(net, data(), data())
    written = write_onnx(net, torch.randn(8, 2, 8, 8), activations="uint8")
    assert list(written.ternary) == ["body.3"]
    assert sorted(written.ranges.values(), key=str) == sorted(activation_ranges(net).values(), key=str)
    assert written.drift is not None
    assert written.drift.cosine > 0.999


def test_averaging_compile_and_bfloat16() -> None:
    net = make_net()
    trainer([EMAWeightAveraging(), ActivationQuantization(observe_batches=4)], precision="bf16-mixed").fit(net, data())
    assert len(activation_ranges(net)) == 3
    net = make_net()
    compiled = torch.compile(net, backend="eager")
    trainer([ActivationQuantization(observe_batches=4, learned=True)]).fit(compiled, data())
    plain = make_net()
    trainer([ActivationQuantization(observe_batches=4, learned=True)]).fit(plain, data())
    for path, chosen in activation_ranges(plain).items():
        assert activation_ranges(net)[path].scale == pytest.approx(chosen.scale, rel=1e-4)


def test_layers_made_in_configure_model() -> None:
    class Late(Net):
        def configure_model(self) -> None:
            if not hasattr(self, "extra"):
                self.extra = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.extra(super().forward(x))

    net = Late()
    trainer([ActivationQuantization(observe_batches=2)], epochs=1).fit(net, data())
    assert "extra" in activation_ranges(net)


def test_include_and_exclude() -> None:
    net = make_net()
    trainer([ActivationQuantization(include=["body.*"], exclude=["body.0"])], epochs=1).fit(net, data())
    assert list(activation_ranges(net)) == ["body.3"]
    with pytest.raises(MisconfigurationException, match=r"'boddy\.0' matches no .*body\.0"):
        trainer([ActivationQuantization(include=["boddy.0"])]).fit(make_net(), data())


@pytest.mark.parametrize(
    "arguments",
    [
        {"bits": 9},
        {"bits": 1},
        {"observer": "median"},
        {"percentile": 50.0},
        {"observe_batches": 0},
        {"ema": 1.0},
        {"learning_rate": 0.0},
        {"include": "conv"},
    ],
)
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        ActivationQuantization(**arguments)


class SaveByRank(pl.Callback):
    """Writes what every process ended with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        hooks = {path: hook.state_dict() for path, hook in input_quantizers(pl_module).items()}
        torch.save(hooks, self.folder / f"{trainer.global_rank}.pt")


def test_two_processes_agree(tmp_path: Path) -> None:
    net = make_net()
    callbacks = [ActivationQuantization(observe_batches=2, learned=True, learning_rate=0.1), SaveByRank(tmp_path)]
    trainer(callbacks, epochs=1, strategy="ddp_fork", devices=2).fit(net, data())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert list(first) == ["body.0", "body.3", "fc"]
    for path, state in first.items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(second[path][key])), (path, key)
        assert state["velocity"] != 0


def test_ranges_of_a_checkpoint_round_a_module_outside_of_a_trainer() -> None:
    trained, plain = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3))
    plain.load_state_dict(trained.state_dict())
    source = ActivationQuantization(bits=2)
    source.load_state_dict({"batches": 1, "layers": {"0": _range_state(-1.0, 2.0, bits=2)}})
    source.install(trained)
    x = torch.tensor([[-5.0, 0.4, 0.6, 5.0]])
    rounded = ActivationRange.from_bounds(-1.0, 2.0, bits=2).fake_quantize(x)
    assert rounded.tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    torch.testing.assert_close(trained(x), plain(rounded))


def _range_state(low: float, high: float, bits: int) -> dict[str, object]:
    hook = InputFakeQuantizer(bits)
    hook.set_bounds(torch.tensor(low), torch.tensor(high))
    return hook.state_dict()


class Attending(Net):
    """With a layer of several inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.att = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.body(x).flatten(2).transpose(1, 2)
        return self.fc(self.att(tokens, tokens, tokens, need_weights=False)[0].mean(1))


def test_layers_that_are_left_out_are_named(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level("INFO", "lightning.pytorch"):
        pl.Trainer(
            accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[ActivationQuantization()], default_root_dir=tmp_path,
        ).fit(Attending(), Loader())  # fmt: skip
    assert "the inputs of 3 layers are quantized to 8 bits (minmax): body.0, body.3, fc" in caplog.text
    assert "not those of att, att.out_proj: it has several inputs, or its weight is read without" in caplog.text
