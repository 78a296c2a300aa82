"""Training with activations rounded to unsigned integers of at most 8 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim import Optimizer

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._select import SEVERAL_INPUTS, check_pattern, has_one_input, layers_moved_by
from tern_lightning.callbacks._stateful import LayerCallback
from tern_lightning.nn.activation_quantizer import InputFakeQuantizer, layer_quantizers, remove_fake_quantizers
from tern_lightning.nn.layer_types import kind_of
from tern_lightning.nn.survey import outside_metrics
from tern_lightning.nn.token_quantizer import TokenFakeQuantizer, check_bits
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import check_share


@check_arguments
class ActivationQuantization(LayerCallback):
    r"""Fake-quantize the inputs of convolution and linear layers in training, validation, testing and prediction.

    Integers are unsigned, with a zero point where a tensor has negative values. The range of every input follows the
    first ``observe_batches`` training batches as a running average and is then frozen, or with ``learned=True``
    trained further. Rounding passes the gradient straight through inside the range and blocks it outside. Nothing is
    added to the module's parameters, buffers or ``state_dict``; ranges are kept in the state of the callback, and
    :func:`tern_lightning.nn.activation_quantizer.activation_ranges` reads them from the module. The hooks stay on the
    module after training, so that it goes on computing what was trained.

    With ``granularity="per_token"`` the inputs of linear layers are rounded to signed integers with a scale of every
    token's own, which its largest magnitude gives, whenever the network runs: "The Era of 1-bit LLMs: All Large
    Language Models are in 1.58 Bits" (2024). Nothing is observed, and gradients pass straight through. Other layers
    keep float inputs in training.

    Args:
        bits: Width of the integers, 2 to 8.
        observer: ``"minmax"`` follows the smallest and largest value, ``"percentile"`` ignores outliers.
        percentile: Percentile that the observer ``percentile`` takes as the largest value, in (50, 100].
        observe_batches: Training batches that the range follows, at least 1.
        ema: Weight of the past in the running average of a batch's bounds, in [0, 1).
        learned: After that, train the step: "Learned Step Size Quantization" (2020), eq. 3, gradient scaled as in
            section 2.2, by an SGD of the callback (momentum 0.9), once per optimizer step.
        learning_rate: Learning rate of the steps when they are ``learned``, > 0.
        include: Patterns (``*``, ``?``, ``[...]``) of layer paths; a layer needs to match one.
        exclude: Patterns of layers whose inputs stay float. A teacher in the module is one: ``["teacher.*"]``.
        granularity: What has a scale of its own: ``"per_tensor"``, fixed after training, or ``"per_token"``. The
            arguments from ``observer`` to ``learning_rate`` are for the former.

    Raises:
        MisconfigurationException: An argument is outside its range, or a pattern matches no layer.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback(), ActivationQuantization(bits=8)])
    """

    def __init__(
        self,
        bits: int = 8,
        observer: Literal["minmax", "percentile"] = "minmax",
        percentile: float = 99.99,
        observe_batches: int = 100,
        ema: float = 0.9,
        learned: bool = False,
        learning_rate: float = 0.01,
        include: Sequence[str] = ("*",),
        exclude: Sequence[str] = (),
        granularity: Literal["per_tensor", "per_token"] = "per_tensor",
    ) -> None:
        super().__init__()
        self.bits: int = bits
        self.observer = observer
        self.percentile: float = percentile
        self.observe_batches: int = observe_batches
        self.ema: float = ema
        self.learned: bool = learned
        self.learning_rate: float = learning_rate
        self.include: tuple[str, ...] = tuple(include)
        self.exclude: tuple[str, ...] = tuple(exclude)
        self.granularity = granularity
        self._validate()
        self._batches = 0
        self._quantizers: dict[str, InputFakeQuantizer] = {}
        self._by_token: dict[str, TokenFakeQuantizer] = {}
        self._layers: dict[str, nn.Module] = {}
        self._restored: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        """Distinguishes several of these callbacks, for different layers."""
        return self._generate_state_key(include=list(self.include), exclude=list(self.exclude))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the hooks, those that are there already are kept, and say what is quantized."""
        advice.of_spawned_processes(trainer)
        self._install(pl_module)
        how = self.granularity if self.granularity == "per_token" else self.observer
        chosen = ", ".join(self._layers)
        rank_zero_info(f"the inputs of {len(self._layers)} layers are quantized to {self.bits} bits ({how}): {chosen}")
        others = [path for path in self._obstacles(_weighted(pl_module)) if self._wants(path)]
        if others:
            reason = f"not linear layers with one input, which {how} is for" if how == "per_token" else SEVERAL_INPUTS
            rank_zero_info(
                f"not those of {', '.join(others)}: {reason}. An export with 8-bit activations rounds "
                "what they read all the same, with ranges from its samples."
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the hooks where there is no training."""
        if trainer.state.fn != "fit":
            self._install_as_trained(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Round the layer inputs as they were rounded in training."""
        self._install_as_trained(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Round the layer inputs as they were rounded in training."""
        self._install_as_trained(pl_module)

    def install(self, module: nn.Module) -> None:
        """Round the layer inputs of a module outside of a Trainer, with the ranges that :meth:`load_state_dict` gave.

        Example::

            network = load_module("ternary.ckpt", Network)
            rounding = ActivationQuantization()
            rounding.load_state_dict(read_checkpoint("ternary.ckpt")["callbacks"][rounding.state_key])
            rounding.install(network)
        """
        self._install_as_trained(module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Observe the first batches."""
        self._set_observing(self._batches < self.observe_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Freeze the ranges after the last observed batch."""
        if self._batches < self.observe_batches:
            self._batches += 1
            for hook in self._quantizers.values():
                hook.settle()
            self._average_bounds(trainer)
        self._set_observing(False)
        self._set_learning()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Train the steps with the gradients of all micro-batches and processes."""
        if not self.learned:
            return
        hooks = [self._quantizers[path] for path in layers_moved_by(trainer, optimizer, self._layers)]
        learning = [hook for hook in hooks if hook.learned and hook.ready]
        if learning:
            grads = self._take_gradients(trainer, learning)
            for hook, grad in zip(learning, grads, strict=True):
                hook.step(grad, self.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """Ranges, observer statistics and counters as tensors and plain values."""
        return {
            "batches": self._batches,
            "layers": {path: hook.state_dict() for path, hook in self._hooks.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state; layers that are not installed yet take theirs later."""
        self._batches = state_dict["batches"]
        self._restored = dict(state_dict["layers"])
        self._restore()

    def _validate(self) -> None:
        check_bits(self.bits)
        if self.learned and self.granularity == "per_token":
            raise ValueError("learned=True has no step to train with granularity='per_token'")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {self.percentile}")
        if self.observe_batches < 1:
            raise ValueError(f"observe_batches must be at least 1, got {self.observe_batches}")
        check_share("ema", self.ema, "[0, 1)")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be finite and positive, got {self.learning_rate}")

    @property
    def _hooks(self) -> dict[str, InputFakeQuantizer | TokenFakeQuantizer]:
        return {**self._quantizers, **self._by_token}

    def _install(self, module: nn.Module) -> None:
        present = layer_quantizers(module)
        self._quantizers, self._by_token, self._layers = {}, {}, self._select(module)
        for path, layer in self._layers.items():
            hook = present.get(path)
            if self.granularity == "per_token":
                if not isinstance(hook, TokenFakeQuantizer):
                    hook = TokenFakeQuantizer(self.bits)
                self._by_token[path] = hook
            else:
                if not isinstance(hook, InputFakeQuantizer):
                    hook = InputFakeQuantizer(self.bits, self.observer, self.percentile, self.ema)
                self._quantizers[path] = hook
            if hook is not present.get(path):
                remove_fake_quantizers(layer)
                layer.register_forward_pre_hook(hook)
        self._restore()

    def _install_as_trained(self, module: nn.Module) -> None:
        self._install(module)
        advice.rounds_nothing("ActivationQuantization", [hook.ready for hook in self._hooks.values()])

    def _select(self, module: nn.Module) -> dict[str, nn.Module]:
        """The layers to quantize, by path; a layer that is shared appears once."""
        there = _weighted(module)
        others = self._obstacles(there)
        layers = {path: layer for path, layer in there.items() if path not in others}
        for name, patterns in (("include", self.include), ("exclude", self.exclude)):
            for pattern in patterns:
                check_pattern(name, pattern, layers, others)
        return {path: layer for path, layer in layers.items() if self._wants(path)}

    def _obstacles(self, layers: Mapping[str, nn.Module]) -> dict[str, str]:
        """Why the inputs of a layer cannot be rounded, by path."""
        found = {path: SEVERAL_INPUTS for path in layers if not has_one_input(path, layers)}
        if self.granularity == "per_token":
            reason = "granularity='per_token' is for linear layers"
            found |= {path: reason for path, layer in layers.items() if not isinstance(layer, nn.Linear)}
        return found

    def _wants(self, path: str) -> bool:
        return any(fnmatchcase(path, p) for p in self.include) and not any(fnmatchcase(path, p) for p in self.exclude)

    def _restore(self) -> None:
        hooks = self._hooks
        own = {path: self._restored.pop(path) for path in list(self._restored) if path in hooks}
        for path, saved in own.items():
            there = saved.get("granularity", "per_tensor")
            if there != self.granularity:
                raise MisconfigurationException(
                    f"the checkpoint's input of {path} is rounded {there}, and granularity is {self.granularity!r}: "
                    f"a run goes on with ActivationQuantization(granularity={there!r})"
                )
            hooks[path].load_state_dict(saved)
        other = sorted({saved["bits"] for saved in own.values()} - {self.bits})
        if other:
            rank_zero_warn(
                f"the checkpoint's layer inputs are rounded to {other[0]} bits, and so they stay: "
                f"bits={self.bits} of this ActivationQuantization is for a run from the start"
            )
        self._set_learning()

    def _set_observing(self, observing: bool) -> None:
        for hook in self._quantizers.values():
            hook.observing = observing

    def _set_learning(self) -> None:
        if self.learned and self._batches >= self.observe_batches:
            for hook in self._quantizers.values():
                if hook.ready and not hook.learned:
                    hook.learn()

    def _average_bounds(self, trainer: Trainer) -> None:
        """Give every process the average bounds of those that ran the layer."""
        hooks = list(self._quantizers.values())
        if trainer.world_size == 1 or not hooks:
            return
        device = trainer.strategy.root_device
        rows = [
            torch.stack([h.low.to(device), h.high.to(device), h.low.new_ones((), device=device)]) * h.ready
            for h in hooks
        ]
        for hook, (low, high, count) in zip(hooks, _all_sum(torch.stack(rows)), strict=True):
            if count > 0:
                hook.set_bounds(low / count, high / count)

    def _take_gradients(self, trainer: Trainer, hooks: Sequence[InputFakeQuantizer]) -> list[Tensor]:
        """Average the gradients over processes, undo the loss scale, and clear them; overflow counts as no gradient."""
        grads = torch.stack([h.scale.new_zeros(()) if h.scale.grad is None else h.scale.grad for h in hooks]).detach()
        for hook in hooks:
            hook.scale.grad = None
        if trainer.world_size > 1:
            grads = _all_sum(grads.to(trainer.strategy.root_device)) / trainer.world_size
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            grads = grads / scaler.get_scale()
        return list(torch.where(torch.isfinite(grads), grads, torch.zeros_like(grads)))


def _weighted(module: nn.Module) -> dict[str, nn.Module]:
    """The layers with a weight of a known kind, by path."""
    return {path: layer for path, layer in outside_metrics(module) if kind_of(layer) is not None}


def _all_sum(values: Tensor) -> Tensor:
    torch.distributed.all_reduce(values)
    return values
