"""Running statistics of batch normalization, estimated anew from ordinary batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

OWN_MOMENTUM = "_own_momentum"


def with_statistics(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers with running statistics, by path."""
    found = {path: one for path, one in model.named_modules() if isinstance(one, _BatchNorm)}
    return {path: one for path, one in found.items() if one.running_mean is not None}


class StatisticsReset:
    """Forget the running statistics that belong to other weights and average the next batches with equal shares.

    Layers in evaluation mode or without running statistics are left alone.

    Attributes:
        left: Training batches that are still to come, 0 when nothing is going on.
        momenta: The layers concerned, by path, with the momentum that they get back.
    """

    def __init__(self) -> None:
        self.left = 0
        self.momenta: dict[str, float | None] = {}

    def start(self, model: nn.Module, batches: int) -> None:
        """Reset the statistics; the average runs over the next ``batches`` training batches."""
        for path, module in with_statistics(model).items() if batches else ():
            if module.training:
                # Where another reset is under way, the layer's momentum is not its own.
                self.momenta[path] = module.__dict__.setdefault(OWN_MOMENTUM, module.momentum)
                module.reset_running_stats()
        self.left = batches if self.momenta else 0
        self._apply(model)

    def step(self, model: nn.Module) -> None:
        """Count one training batch."""
        if self.left:
            self.left -= 1
            if not self.left:
                self.stop(model)

    def stop(self, model: nn.Module) -> None:
        """Give the layers their momentum back."""
        self.pause(model)
        self.left, self.momenta = 0, {}

    def pause(self, model: nn.Module) -> None:
        """Give the layers their momentum back until :meth:`go_on`."""
        for path, momentum in self.momenta.items():
            module = model.get_submodule(path)
            module.momentum = momentum  # type: ignore[assignment]
            module.__dict__.pop(OWN_MOMENTUM, None)

    def go_on(self, model: nn.Module) -> None:
        """Go on after :meth:`pause`."""
        if self.left:
            self._apply(model)

    def _apply(self, model: nn.Module) -> None:
        for path, momentum in self.momenta.items():
            module = model.get_submodule(path)
            module.__dict__.setdefault(OWN_MOMENTUM, momentum)
            module.momentum = None  # type: ignore[assignment]  # torch: the cumulative average

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"left": self.left, "momenta": dict(self.momenta)}

    def load(self, state: dict[str, Any], model: nn.Module) -> None:
        """Go on from :meth:`state`."""
        self.left, self.momenta = state["left"], dict(state["momenta"])
        self.go_on(model)


@contextmanager
def fresh_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize by the batches that run meanwhile, whose mean statistics a network in evaluation has afterward.

    Layers that do not run keep the statistics that they had.
    """
    own = with_statistics(model)
    modes = {path: one.training for path, one in own.items()}
    before = {path: {name: value.clone() for name, value in one.named_buffers()} for path, one in own.items()}
    reset = StatisticsReset()
    for one in own.values():
        one.training = True
    reset.start(model, 1)
    try:
        yield
    finally:
        reset.stop(model)
        for path, one in own.items():
            one.training = modes[path]
            if not one.num_batches_tracked:
                for name, value in one.named_buffers():
                    value.copy_(before[path][name])
