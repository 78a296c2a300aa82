"""Base of callbacks that train the few numbers of quantized layer inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._select import layers_moved_by, select_layers
from tern_lightning.callbacks._stateful import LayerCallback
from tern_lightning.nn.learned_input import LearnedInput


class LearnedInputs(LayerCallback, ABC):
    """Base of callbacks that quantize layer inputs with a :class:`LearnedInput` each and train its numbers.

    Args:
        learning_rate: Of SGD with momentum 0.9 for the numbers, >= 0.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers whose inputs stay float.
    """

    def __init__(self, learning_rate: float, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> None:
        if not 0 <= learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be finite and >= 0, got {learning_rate}")
        self.learning_rate = learning_rate
        self.include: tuple[str, ...] | None = None if include is None else tuple(include)
        self.exclude: tuple[str, ...] = tuple(exclude)
        self._hooks: dict[str, LearnedInput] = {}
        self._layers: dict[str, nn.Module] = {}
        self._restored: dict[str, Any] = {}

    @abstractmethod
    def make(self) -> LearnedInput:
        """A hook for one layer."""

    @abstractmethod
    def fits(self, hook: LearnedInput) -> bool:
        """Whether a hook that is on a layer already can go on with this callback."""

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install(select_layers(pl_module, self.include, self.exclude, trainer.optimizers, inputs=True))

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != "fit":
            self._install_as_trained(pl_module)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install_as_trained(pl_module)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._install_as_trained(pl_module)

    def _install_as_trained(self, module: nn.Module) -> None:
        """Without training there are no optimizers to say which layers are trained, but there is what they trained."""
        layers = dict(module.named_modules())
        known = [path for path in (self._restored or self._hooks) if path in layers]
        self._install({path: layers[path] for path in known})
        advice.rounds_nothing(type(self).__name__, [hook.ready for hook in self._hooks.values()])

    def _install(self, layers: dict[str, nn.Module]) -> None:
        """Put a hook on every layer; those that are there already are kept."""
        self._hooks, self._layers = {}, layers
        for path, layer in layers.items():
            found = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, LearnedInput)]
            hook = next((hook for hook in found if self.fits(hook)), None)
            if hook is None:
                for key in [k for k, h in layer._forward_pre_hooks.items() if isinstance(h, LearnedInput)]:
                    del layer._forward_pre_hooks[key]
                hook = self.make()
                layer.register_forward_pre_hook(hook)
            self._hooks[path] = hook
        self._restore()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for hook in self._hooks.values():
            hook.observing = not hook.ready

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        waiting = [hook for hook in self._hooks.values() if hook.observing]
        if waiting:
            totals = torch.stack([hook.statistic.to(trainer.strategy.root_device) for hook in waiting])
            for hook, total in zip(waiting, _sum(trainer, totals), strict=True):
                hook.start(total)
                hook.observing = False

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        hooks = [
            self._hooks[path] for path in layers_moved_by(trainer, optimizer, self._layers) if self._hooks[path].ready
        ]
        if not hooks:
            return
        grads = [torch.zeros_like(h.value) if h.value.grad is None else h.value.grad for h in hooks]
        flat = torch.cat([grad.detach().to(trainer.strategy.root_device) for grad in grads])
        flat = _sum(trainer, flat) / trainer.world_size
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            flat = flat / scaler.get_scale()
        flat = torch.where(torch.isfinite(flat), flat, torch.zeros_like(flat))
        for hook, grad in zip(hooks, flat.split([h.value.numel() for h in hooks]), strict=True):
            hook.value.grad = None
            hook.step(grad.to(hook.value.device), self.learning_rate)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {path: hook.state_dict() for path, hook in self._hooks.items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = dict(state_dict)
        self._restore()

    def _restore(self) -> None:
        for path in [path for path in self._restored if path in self._hooks]:
            hook, saved = self._hooks[path], self._restored.pop(path)
            form = {"kind": hook.kind, **hook.form()}
            if saved["form"] != form:
                raise MisconfigurationException(
                    f"the input of layer {path!r} was trained as {saved['form']}, and this run has {form}. "
                    "HINT: resume with the arguments that the run was started with."
                )
            hook.load_state_dict(saved)


def _sum(trainer: pl.Trainer, values: Tensor) -> Tensor:
    if trainer.world_size > 1:
        torch.distributed.all_reduce(values)
    return values
