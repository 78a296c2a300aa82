"""Loss and metrics of a module over batches: by a loss function, or by the steps of a LightningModule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torchmetrics import Metric

Loss = Callable[[nn.Module, Any], Any]
"""Of a module and a batch: the loss, or the loss and a dictionary of metrics."""


@dataclass(frozen=True)
class Score:
    """How good a module is on some batches.

    Attributes:
        loss: Mean loss over the batches.
        metrics: Mean of every other number over the batches, by name.
    """

    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def evaluate(
    module: nn.Module,
    batches: Sequence[Any],
    loss: Loss | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    seed: int = 0,
) -> Score:
    """Loss and metrics of a module in the mode that it is in.

    Random numbers of torch are the same in every call, so that two modules see the same augmentation.

    Args:
        module: A module whose metrics may be reset.
        batches: At least one, on the device of the module.
        loss: Of the module and a batch; None for a LightningModule, whose ``validation_step`` is run with what it logs,
            and ``training_step`` where that gives no loss.
        context: Around every batch, for example for mixed precision.
        seed: Seed of the random numbers.

    Raises:
        ValueError: There is no batch, or no loss comes out.

    Example:
        >>> double = nn.Linear(1, 1, bias=False)
        >>> nn.init.constant_(double.weight, 2.0).item()
        2.0
        >>> evaluate(double, [torch.ones(4, 1), torch.zeros(4, 1)], lambda net, x: (net(x).mean(), {"size": len(x)}))
        Score(loss=1.0, metrics={'size': 4.0})
    """
    if not batches:
        raise ValueError("batches must be at least one, got none")
    run = _by_steps(module) if loss is None else _by_function(module, loss)
    losses, values = [], _Values()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for index, batch in enumerate(batches):
            with context():
                losses.append(float(run(batch, index, values)))
    return Score(sum(losses) / len(losses), values.means())


class _Values:
    """What is logged over several batches."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[float]] = {}
        self.metrics: dict[str, Metric] = {}

    def add(self, name: str, value: Any) -> None:
        """Take one value."""
        if isinstance(value, Metric):
            self.metrics[name] = value
        else:
            self.numbers.setdefault(name, []).append(float(torch.as_tensor(value).float().mean()))

    def means(self) -> dict[str, float]:
        """One number for every name; metrics are reset."""
        found = {name: sum(numbers) / len(numbers) for name, numbers in self.numbers.items()}
        for name, metric in self.metrics.items():
            value = metric.compute()
            if isinstance(value, Tensor) and value.numel() == 1:
                found[name] = float(value)
            metric.reset()
        return found


Run = Callable[[Any, int, _Values], Any]


def _by_function(module: nn.Module, loss: Loss) -> Run:
    def run(batch: Any, index: int, values: _Values) -> Any:
        found = loss(module, batch)
        if not isinstance(found, tuple):
            return found
        for name, value in found[1].items():
            values.add(name, value)
        return found[0]

    return run


def _by_steps(module: nn.Module) -> Run:
    if not isinstance(module, pl.LightningModule):
        raise ValueError(
            f"loss must be given for a {type(module).__name__}, which is no LightningModule; "
            "HINT: loss=lambda net, batch: cross_entropy(net(batch[0]), batch[1])"
        )
    validated = is_overridden("validation_step", module)

    def run(batch: Any, index: int, values: _Values) -> Any:
        found = _step(module, "validation_step", batch, index, values) if validated else None
        if found is None and module.automatic_optimization and is_overridden("training_step", module):
            found = _step(module, "training_step", batch, index, _Values() if validated else values)
        if found is None:
            raise ValueError(
                f"{type(module).__name__} gives no loss: neither do its steps return one nor do they log one under a "
                "name with 'loss'; HINT: loss=lambda net, batch: ..."
            )
        return found

    return run


def _step(module: pl.LightningModule, name: str, batch: Any, index: int, values: _Values) -> Any:
    """Call a step; returns its loss, which it returns or logs, or None."""
    logged: dict[str, Any] = {}
    # Lightning's own log works inside its loops only.
    module.__dict__["log"] = lambda name, value, *args, **options: logged.update({name: value})
    module.__dict__["log_dict"] = lambda several, *args, **options: logged.update(several)
    step = getattr(module, name)
    try:
        found = step(batch, index, *([0] if "dataloader_idx" in inspect.signature(step).parameters else []))
    finally:
        del module.__dict__["log"], module.__dict__["log_dict"]
    if isinstance(found, Mapping):
        found = found.get("loss")
    losses = [name for name, value in logged.items() if "loss" in name.lower() and not isinstance(value, Metric)]
    if found is None and losses:
        found = logged[losses[0]]
    for own, value in logged.items():
        if own not in losses:
            values.add(own, value)
    return found


def training_loss(module: pl.LightningModule, batch: Any, index: int = 0) -> Tensor:
    """The loss that ``training_step`` gives for a batch, with its graph; what the step logs is dropped.

    Raises:
        ValueError: It gives none.
    """
    found = _step(module, "training_step", batch, index, _Values())
    if not isinstance(found, Tensor):
        raise ValueError(f"training_step of {type(module).__name__} must return a loss, got {found!r}")
    return found


def to_device(module: nn.Module, batch: Any) -> Any:
    """A batch where the module is, as the Trainer would give it, with a LightningModule's own hooks."""
    place = next((one.device for one in module.parameters()), torch.device("cpu"))
    if not isinstance(module, pl.LightningModule):
        return move_data_to_device(batch, place)
    batch = module.on_before_batch_transfer(batch, 0)
    return module.on_after_batch_transfer(module.transfer_batch_to_device(batch, place, 0), 0)
