"""Search the ranks of low-rank convolutions by training."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from tern_lightning.callbacks._logs import log_values
from tern_lightning.callbacks._select import select_layers
from tern_lightning.callbacks._stateful import StatefulCallback
from tern_lightning.evaluation import training_loss
from tern_lightning.functional.low_rank import ConvShape, candidate_ranks, macs
from tern_lightning.nn.layer_types import weight_of
from tern_lightning.nn.low_rank_layers import LatencyTable, LowRankConv, can_be_low_rank, replace_module
from tvm_schedules.common.arguments import check_arguments

Latency = Callable[[ConvShape, int], float]


class _AddLoss(torch.autograd.Function):
    """Pass a tensor on and add a multiple of a scalar to the loss that is being differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, extra: Tensor, factor: float) -> Tensor:
        ctx.factor, ctx.kind = factor, extra.dtype
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        return grad, torch.full((), ctx.factor, dtype=ctx.kind, device=grad.device), None


class Candidates(nn.Module):
    """A convolution as a mixture of low-rank convolutions, weighted by probabilities.

    Args:
        layer: The convolution; it stays inside, not trained, as the reference of the features.
        ranks: Ranks of the candidates.

    Attributes:
        theta: Logits of the candidates, no parameter.
        temperature: Divides the logits.
        pull: Weight of the features' distance in the loss, 0 for none.
        shape: What the costs depend on, after the first forward.
    """

    def __init__(self, layer: nn.Module, ranks: Sequence[int]) -> None:
        super().__init__()
        self.ranks: tuple[int, ...] = tuple(ranks)
        self.options: nn.ModuleList = nn.ModuleList(LowRankConv(layer, rank) for rank in ranks)
        self.original: nn.Module = layer.requires_grad_(False)
        self.theta: Tensor = torch.zeros(len(self.ranks))
        self.temperature: float = 1.0
        self.pull: float = 0.0
        self.shape: ConvShape | None = None

    def shares(self) -> Tensor:
        """Probabilities of the candidates, float32."""
        return torch.softmax(self.theta / self.temperature, 0)

    def forward(self, x: Tensor) -> Tensor:
        """The mixture of the candidates' outputs."""
        if self.theta.device != x.device:
            self.theta = self.theta.detach().to(x.device).requires_grad_(self.theta.requires_grad)
        shares = self.shares()
        outputs = [option(x) for option in self.options]
        mixed = sum(share.to(out.dtype) * out for share, out in zip(shares, outputs, strict=True))
        assert isinstance(mixed, Tensor)
        layer: Any = self.original
        self.shape = ConvShape(
            layer.in_channels,
            layer.out_channels,
            tuple(layer.kernel_size),
            tuple(layer.stride),
            tuple(x.shape[2:]),
            tuple(mixed.shape[2:]),
        )
        if self.pull and torch.is_grad_enabled():
            with torch.no_grad():
                wanted = self.original(x).float()
            far = torch.stack([(out.float() - wanted).square().mean() for out in outputs])
            mixed = _AddLoss.apply(mixed, (shares * far).sum(), self.pull)
        return mixed

    def chosen(self) -> int:
        """The rank with the largest probability."""
        return self.ranks[int(self.theta.argmax())]


@check_arguments
class LowRank(StatefulCallback):
    r"""Choose the ranks of convolutions by training a mixture of candidates, with latency in the loss.

    After HALOC: Hardware-Aware Automatic Low-Rank Compression for Compact Neural Networks (AAAI 2023), as far as its
    abstract tells: every convolution becomes :math:`\sum_r p_r \, \mathrm{conv}_r(x)` over Tucker-2 factors whose equal
    ranks are multiples of a constant, :math:`p = \mathrm{softmax}(\theta / \tau)`. Optimizer steps alternate: in one
    the weights move by the task loss and ``pull`` times the distance of the candidates' features from the original
    layer's, in the next :math:`\theta` by the task loss :math:`+ \beta \log \sum_{l, r} p_{l, r} t_{l, r}` with the
    latencies t. The paper takes theta's batches from data that weights are not trained on: give them by ``held_out``,
    and weights move in every step of the optimizer, :math:`\theta` after each of them.

    This is a run of its own. While it goes on, the network has the candidates' structure, also in checkpoints, from
    which the search is resumed with this callback. When fit ends, every convolution is replaced by its chosen factors,
    as trained, and ``choice`` holds the ranks (they are also in the checkpoint's state of this callback); fit again to
    fine-tune. To load what was fine-tuned, build the network with
    :func:`tern_lightning.nn.low_rank_layers.low_rank` and those ranks, see there.

    Args:
        multiple: Candidates are the multiples of this number, >= 1.
        beta: Weight of the latency, >= 0.
        latency: A function of a :class:`tern_lightning.functional.low_rank.ConvShape` and a rank, or a file of
            :class:`tern_lightning.nn.low_rank_layers.LatencyTable`. None counts multiply-accumulate operations, and
            :class:`tern_lightning.nn.low_rank_layers.MeasuredLatency` measures here.
        held_out: Batches for theta that are not those of training, such as a DataLoader that does not shuffle; they
            are gone through again and again. None takes every second training batch.
        pull: Weight of the distance of features, >= 0. The paper has such a term; its weight is not known to us.
        temperature: Tau, positive.
        learning_rate: Of Adam for theta, positive.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that stay as they are, such as those of a teacher: the layers are chosen before
            there are optimizers.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: No layer can be factored, or there is not exactly one optimizer.
    """

    def __init__(
        self,
        multiple: int = 8,
        beta: float = 0.1,
        latency: Latency | str | os.PathLike[str] | None = None,
        held_out: Iterable[Any] | None = None,
        pull: float = 0.1,
        temperature: float = 1.0,
        learning_rate: float = 0.05,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        if multiple < 1:
            raise ValueError(f"multiple must be at least 1, got {multiple}")
        for name, value, positive in (
            ("beta", beta, False),
            ("pull", pull, False),
            ("temperature", temperature, True),
            ("learning_rate", learning_rate, True),
        ):
            if not (math.isfinite(value) and (value > 0 if positive else value >= 0)):
                raise ValueError(f"{name} must be finite and {'>' if positive else '>='} 0, got {value}")
        self.multiple: int = multiple
        self.beta: float = beta
        self.pull: float = pull
        self.temperature: float = temperature
        self.latency: Latency = LatencyTable(latency) if isinstance(latency, str | os.PathLike) else latency or macs
        if held_out is not None and iter(held_out) is held_out:
            raise ValueError("held_out must be batches that can be gone through again, such as a list, got an iterator")
        self.held_out: Iterable[Any] | None = held_out
        self._held: Iterator[Any] | None = None
        self._position = 0
        self._selected = 0
        self.learning_rate: float = learning_rate
        self.include: tuple[str, ...] | None = None if include is None else tuple(include)
        self.exclude: tuple[str, ...] = tuple(exclude)
        self.choice: dict[str, int] = {}
        self._steps = 0
        self._layers: dict[str, Candidates] = {}
        self._optimizer: torch.optim.Adam | None = None
        self._restored: dict[str, Any] | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        # The module may build its layers in setup, which Lightning calls after this one; the candidates must be there
        # before the optimizers are.
        own = pl_module.setup

        def then_install(stage: str) -> None:
            self._release(pl_module)
            own(stage=stage)
            self._install(pl_module)

        pl_module.__dict__["setup"] = then_install

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._release(pl_module)

    def _release(self, pl_module: pl.LightningModule) -> None:
        """Take away what stands before the module's own setup."""
        pl_module.__dict__.pop("setup", None)

    def _install(self, pl_module: pl.LightningModule) -> None:
        """Put the candidates in the place of their convolutions."""
        pl_module.configure_model()  # idempotent by contract; Lightning calls it only later
        present = {path: m for path, m in pl_module.named_modules() if isinstance(m, Candidates)}
        if not present:
            self._steps, self._selected, self._position, self._held, self.choice = 0, 0, 0, None, {}
            for path, layer in select_layers(pl_module, self.include, self.exclude).items():
                if can_be_low_rank(layer) and not isinstance(layer, nn.Linear):
                    weight = weight_of(layer)
                    ranks = candidate_ranks(weight.shape[1], weight.shape[0], self.multiple)
                    present[path] = Candidates(layer, ranks)
                    replace_module(pl_module, path, present[path])
        if not present:
            raise MisconfigurationException("LowRank finds no convolution with one group and a kernel of several taps")
        self._layers = present
        for layer in present.values():
            layer.temperature = self.temperature

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise MisconfigurationException(f"LowRank needs exactly one optimizer, got {len(trainer.optimizers)}")
        for layer in self._layers.values():
            layer.theta = layer.theta.detach().to(pl_module.device).requires_grad_()
        self._optimizer = torch.optim.Adam([layer.theta for layer in self._layers.values()], self.learning_rate)
        saved, self._restored = self._restored, None
        if saved is not None and "theta" in saved:
            with torch.no_grad():
                for path, layer in self._layers.items():
                    layer.theta.copy_(saved["theta"][path])
            self._optimizer.load_state_dict(saved["adam"])
            self._steps = self._selected = saved["steps"]
            if self.held_out is not None:
                self._position = saved.get("held_out", 0)
                self._held = islice(iter(self.held_out), self._position, None)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        for layer in self._layers.values():
            layer.pull = 0.0 if self._selecting else self.pull * scale / trainer.accumulate_grad_batches

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        assert self._optimizer is not None
        if self._selecting:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            grads = [layer.theta.grad for layer in self._layers.values()]
            self._select(trainer, grads, 1.0 if scaler is None else scaler.get_scale())
            # Weights without a gradient do not move in this step, neither by momentum nor by decay.
            for parameter in pl_module.parameters():
                parameter.grad = None
        self._optimizer.zero_grad()
        self._steps += 1

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.held_out is None or self._selected == self._steps:
            return
        self._selected = self._steps
        for layer in self._layers.values():
            layer.pull = 0.0
        other = trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(self._next_held_out()))
        with torch.enable_grad(), trainer.precision_plugin.train_step_context():
            loss = training_loss(pl_module, other, self._position - 1)
        self._select(trainer, torch.autograd.grad(loss, [layer.theta for layer in self._layers.values()]), 1.0)

    def _next_held_out(self) -> Any:
        assert self.held_out is not None
        for _ in range(2):
            self._held = iter(self.held_out) if self._held is None else self._held
            for batch in self._held:
                self._position += 1
                return batch
            self._held, self._position = None, 0
        raise MisconfigurationException("held_out of LowRank must have at least one batch, got none")

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = {f"low_rank/{path}/rank": float(layer.chosen()) for path, layer in self._layers.items()}
        found["low_rank/latency"] = float(self.expected_latency().detach())
        log_values(trainer, pl_module, found, sync_dist=True)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.choice = {path: layer.chosen() for path, layer in self._layers.items()}
        for path, layer in self._layers.items():
            chosen = layer.options[layer.ranks.index(self.choice[path])]
            replace_module(pl_module, path, chosen)
        self._layers = {}
        rank_zero_info(f"ranks: {self.choice}")

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._layers or self._optimizer is None:
            return {"choice": dict(self.choice)} if self.choice else {}
        return {
            "theta": {path: layer.theta.detach().cpu().clone() for path, layer in self._layers.items()},
            "choice": {path: layer.chosen() for path, layer in self._layers.items()},
            "adam": self._optimizer.state_dict(),
            "steps": self._steps,
            "held_out": self._position,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def expected_latency(self) -> Tensor:
        """The latency of all layers under the present probabilities, over that of the largest candidates."""
        total = top = torch.zeros(())
        for layer in self._layers.values():
            if layer.shape is not None:
                shape = layer.shape
                costs = torch.tensor([self.latency(shape, rank) for rank in layer.ranks], device=layer.theta.device)
                total = total.to(costs.device) + (layer.shares() * costs).sum()
                top = top.to(costs.device) + costs.max()
        return total / top.clamp_min(1e-30)

    @property
    def _selecting(self) -> bool:
        return self.held_out is None and self._steps % 2 == 1

    def _select(self, trainer: pl.Trainer, grads: Sequence[Tensor | None], scale: float) -> None:
        """Move theta by the gradients of the task loss, averaged over processes, and of the latency."""
        assert self._optimizer is not None
        thetas = [layer.theta for layer in self._layers.values()]
        found = zip(thetas, grads, strict=True)
        flat = torch.cat([torch.zeros_like(t) if grad is None else grad for t, grad in found]).detach() / scale
        if trainer.world_size > 1:
            torch.distributed.all_reduce(flat)
            flat = flat / trainer.world_size
        flat = torch.where(flat.isfinite(), flat, torch.zeros_like(flat))
        with torch.enable_grad():
            slopes = torch.autograd.grad(self.beta * self.expected_latency().log(), thetas)
        for theta, grad, slope in zip(thetas, flat.split([t.numel() for t in thetas]), slopes, strict=True):
            theta.grad = grad + slope
        self._optimizer.step()
