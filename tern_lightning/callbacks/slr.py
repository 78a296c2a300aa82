"""Train weights toward a sparse or ternary set by surrogate Lagrangian relaxation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._choice import Choice
from tern_lightning.callbacks._masking import MaskCallback, Target
from tern_lightning.callbacks._phases import check_boundary, reached
from tern_lightning.functional.projection import ternary_projection
from tern_lightning.functional.slr import SETTINGS, Relaxation, Settings, penalty_gradient, relax
from tern_lightning.nn.batch_norm import StatisticsReset
from tern_lightning.nn.ternary_layers import TernaryLayer
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.arguments import check_arguments, other_names
from tvm_schedules.common.near import check_share


@check_arguments(hint=other_names("amount", "sparsity", "zeros"))
class SLR(MaskCallback):
    r"""Train float weights W toward points Z of a set, with multipliers for W = Z, and in the end put them into it.

    The loss gets :math:`\langle \Lambda, W - Z \rangle + \rho/2 \|W - Z\|^2`; once per round the multipliers and Z are
    updated (:func:`tern_lightning.functional.slr.relax`; Enabling Retrain-free Deep Neural Network Pruning using
    Surrogate Lagrangian Relaxation, 2021). At ``end`` the weights are projected for good: with ``sparsity`` they are
    pruned and the mask stays, with ``ternary`` they become ternary values, from which ternary training goes on:
    ``SLR(end=0.6)`` goes before ``TernaryCallback("twn", start=0.6, freeze=0.8)``, whose weights those are. Running
    statistics of batch normalization are then estimated anew.

    Args:
        projection: ``sparsity`` or ``ternary``.
        amount: Share of the weights to prune, in [0, 1], for ``sparsity`` with pattern ``element`` or ``block``.
        scope: ``layer`` prunes the same share of every layer, ``global`` compares the weights of all layers.
        pattern: ``element``, ``block`` or ``n:m``.
        group: Output and input channels of a block.
        per_channel: One level per output channel, for ``ternary``.
        rho: Weight of the quadratic penalty, > 0; None for 0.1 (sparsity) or 0.01 (ternary).
        step: First step size of the multipliers, > 0; None for 0.01 (sparsity) or 0.001 (ternary).
        m: M of the step size rule, > 1; None for 300 (sparsity) or 500 (ternary).
        r: r of the step size rule, in (0, 1); None for 0.1 (sparsity) or 0.05 (ternary).
        interval: Optimizer steps of a round, >= 1; None for an epoch.
        end: When the weights are projected for good: an epoch (int) or a fraction of the run (float).
        bn_batches: Training batches for the statistics of batch normalization after that; 0 leaves them alone.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: The module optimizes by hand, so that its loss is not known, or layers become ternary
            before ``end``.
    """

    timed: bool = True

    def __init__(
        self,
        projection: Literal["sparsity", "ternary"] = "ternary",
        amount: float | None = None,
        scope: Literal["layer", "global"] = "layer",
        pattern: str = "element",
        group: tuple[int, int] = (1, 1),
        per_channel: bool = False,
        rho: float | None = None,
        step: float | None = None,
        m: float | None = None,
        r: float | None = None,
        interval: int | None = None,
        end: int | float = 0.6,
        bn_batches: int = 200,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(include, exclude)
        sparse = projection == "sparsity"
        self.choice: Choice = Choice(scope, pattern, group)
        if pattern == "digit":
            raise ValueError("pattern must be 'element', 'block' or 'n:m' for float weights, got 'digit'")
        if (amount is not None) != (sparse and self.choice.n_of_m is None):
            raise ValueError(
                f"amount is for projection 'sparsity' without a pattern n:m, and needed there, got {amount} with "
                f"{projection!r} and {pattern!r}"
            )
        if amount is not None:
            check_share("amount", amount)
        given = {"rho": rho, "step": step, "m": m, "r": r}
        self.settings: Settings = replace(SETTINGS[projection], **{k: v for k, v in given.items() if v is not None})
        if interval is not None and interval < 1:
            raise ValueError(f"interval must be None or at least 1, got {interval}")
        if bn_batches < 0:
            raise ValueError(f"bn_batches must be >= 0, got {bn_batches}")
        check_boundary("end", end)
        self.projection = projection
        self.amount: float | None = amount
        self.per_channel: bool = per_channel
        self.interval: int | None = interval
        self.end: int | float = end
        self.bn_batches: int = bn_batches
        self.relaxation: Relaxation | None = None
        self.done: bool = False
        self._loss, self._batches, self._round_step = torch.zeros((), dtype=torch.float64), 0, 0
        self._statistics = StatisticsReset()

    @override
    def reset(self) -> None:
        self.relaxation, self.done = None, False
        self._loss, self._batches, self._round_step = torch.zeros((), dtype=torch.float64), 0, 0
        self._statistics = StatisticsReset()

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise MisconfigurationException("SLR needs the training loss, which manual optimization does not show")
        super().on_fit_start(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._statistics_to(pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.done or batch_idx % trainer.accumulate_grad_batches:
            return
        if self.relaxation is None:
            weights = self._weights()
            self.relaxation = Relaxation.begin(weights, self.project(weights), self.settings.step)
            self._round_step = trainer.global_step
        at_end = reached(self.end, self.clock.progress(trainer, batch_idx))
        due = batch_idx == 0 if self.interval is None else trainer.global_step - self._round_step >= self.interval
        if self._batches and (due or at_end):
            self._round(trainer)
        if at_end:
            self._finish(trainer, pl_module)
        else:
            self._check_float()

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.relaxation is not None and not self.done:
            index = {path: i for i, path in enumerate(self._targets)}
            for target, _ in self._of(optimizer):
                grad, i = target.weight.grad, index[target.path]
                if grad is not None:
                    point, multiplier = self.relaxation.targets[i], self.relaxation.multipliers[i]
                    grad.add_(penalty_gradient(target.weight, point, multiplier, self.settings.rho).to(grad))
        super().on_before_optimizer_step(trainer, pl_module, optimizer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._statistics.step(pl_module)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not self.done and isinstance(loss, Tensor):
            # Lightning divides the loss by the number of accumulated batches.
            self._loss = self._loss.to(loss.device) + loss.detach().double() * trainer.accumulate_grad_batches
            self._batches += 1

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if not self.done:
            advice.unfinished("SLR", trainer, f"end={self.end!r} was not reached, weights are not projected")

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._statistics.stop(pl_module)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self._statistics.pause(pl_module)

    @torch.no_grad()
    def project(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Project tensors on the set, one per weight; weights that are pruned already stay so."""
        targets = list(self._targets.values())
        if self.projection == "ternary":
            return [self._ternary(v, t, t.keep).dequantize() for v, t in zip(values, targets, strict=True)]
        keeps = self._keep(values)
        return [value * keeps[target.path] for value, target in zip(values, targets, strict=True)]

    @override
    def log_values(self) -> dict[str, float]:
        found = super().log_values()
        if self.relaxation is None or self.done:
            return found
        gaps = [w - z for w, z in zip(self._weights(), self.relaxation.targets, strict=True)]
        size = sum(float(w.square().sum()) for w in self._weights())
        gap = (sum(float(g.square().sum()) for g in gaps) / max(size, 1e-30)) ** 0.5
        return {**found, "slr/gap": gap, "slr/step": self.relaxation.step, "slr/updates": self.relaxation.count - 1.0}

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._targets:
            return {}
        state = None
        if self.relaxation is not None and not self.done:
            tensors = ("targets", "multipliers", "weights_before", "targets_before")
            state = {name: [t.cpu() for t in getattr(self.relaxation, name)] for name in tensors}
            state.update({name: getattr(self.relaxation, name) for name in ("loss_before", "step", "count")})
        return {
            "masks": self.masks_state(),
            "relaxation": state,
            "done": self.done,
            "loss": self._loss.cpu(),
            "batches": self._batches,
            "round_step": self._round_step,
            "statistics": self._statistics.state(),
            **self.origin(),
        }

    @override
    def restore(self, state: dict[str, Any]) -> None:
        self.load_masks(state["masks"])
        saved = state["relaxation"]
        self.relaxation = None
        if saved is not None:
            weights = self._weights()

            def on_device(name: str) -> tuple[Tensor, ...]:
                return tuple(t.to(w.device) for t, w in zip(saved[name], weights, strict=True))

            self.relaxation = Relaxation(
                on_device("targets"),
                on_device("multipliers"),
                on_device("weights_before"),
                on_device("targets_before"),
                saved["loss_before"],
                saved["step"],
                saved["count"],
            )
        self.done, self._loss = state["done"], state["loss"].clone()
        self._batches, self._round_step = state["batches"], state["round_step"]
        self._saved_statistics = state["statistics"]

    def _weights(self) -> list[Tensor]:
        return [target.weight.detach().float() for target in self._targets.values()]

    def _ternary(self, value: Tensor, target: Target, keep: Tensor | None) -> TernaryTensor:
        return ternary_projection(value, per_channel=self.per_channel, channel_axis=target.axis, mask=keep)

    def _keep(self, values: Sequence[Tensor]) -> dict[str, Tensor]:
        """Which weights a sparse projection keeps, by path."""
        share = 1.0 if self.amount is None else self.amount
        return self.choice.keep(list(self._targets.values()), share, values)

    def _round(self, trainer: pl.Trainer) -> None:
        """Update the multipliers and the points with the mean loss of the round, the same on every process."""
        assert self.relaxation is not None
        total = torch.stack([self._loss, self._loss.new_tensor(float(self._batches))]).to(trainer.strategy.root_device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        loss = float(total[0] / total[1])
        own = self.settings
        self.relaxation = relax(self.relaxation, self._weights(), loss, self.project, own.rho, own.m, own.r)
        self._loss, self._batches = torch.zeros_like(self._loss), 0
        self._round_step = trainer.global_step

    @torch.no_grad()
    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights, and those of averaged copies, into the set for good."""
        self.done, self.relaxation = True, None
        if self.projection == "sparsity":
            self.set_masks(self._keep(self._weights()), trainer.optimizers)
        else:
            for target in self._targets.values():
                for weight in {id(m.weight): m.weight for m in target.members()}.values():
                    assert isinstance(weight, Tensor)
                    found = self._ternary(weight.float(), target, target.keep)
                    weight.copy_(found.dequantize())
        self._statistics.start(pl_module, self.bn_batches)

    def _check_float(self) -> None:
        for path, target in self._targets.items():
            layer = target.layer
            if isinstance(layer, TernaryLayer) and layer._ternary_state.phase != "float":
                raise MisconfigurationException(
                    f"SLR trains float weights until end={self.end}, but {path!r} computes with ternary ones already. "
                    f"HINT: TernaryCallback(start={self.end}, freeze=...) with a later freeze."
                )

    def _statistics_to(self, pl_module: pl.LightningModule) -> None:
        saved, self._saved_statistics = self._saved_statistics, None
        if saved is not None:
            self._statistics.load(saved, pl_module)
        self._statistics.go_on(pl_module)

    _saved_statistics: dict[str, Any] | None = None
