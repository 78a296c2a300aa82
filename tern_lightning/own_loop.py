"""The callbacks of this package in a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tern_lightning.callbacks import (
    BCGD,
    ActivationQuantization,
    EntropyConstraint,
    EntropyPruning,
    PruningSchedule,
    StructuredPruning,
    TernaryCallback,
    WeightPenaltyClipping,
)
from tern_lightning.callbacks._stateful import check_twins
from tvm_schedules.common.arguments import check_arguments

WORKING = (
    TernaryCallback, PruningSchedule, EntropyConstraint, EntropyPruning, StructuredPruning, WeightPenaltyClipping,
    BCGD, ActivationQuantization,
)  # fmt: skip
"""Callbacks that need nothing of a Trainer but the time and the optimizers."""


class PreparedLoop:
    """What :func:`prepare` returns: it tells the callbacks what time it is.

    Attributes:
        steps: Steps of the run.
        done: Steps that are over.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        callbacks: Sequence[Any],
        steps: int,
        epoch_steps: int | None,
        state: Mapping[str, Any] | None,
    ) -> None:
        self.steps: int = steps
        self.done: int = 0 if state is None else int(state["step"])
        self._module, self._callbacks = module, list(callbacks)
        self._length = epoch_steps or steps
        spread = torch.distributed.is_available() and torch.distributed.is_initialized()
        # All that the callbacks ask of a Trainer.
        self._trainer = SimpleNamespace(
            callbacks=self._callbacks,
            checkpoint_callbacks=[],
            optimizers=list(optimizers),
            strategy=SimpleNamespace(launcher=None, root_device=_device_of(module)),
            precision_plugin=SimpleNamespace(),
            state=SimpleNamespace(fn="fit"),
            sanity_checking=False,
            fast_dev_run=False,
            accumulate_grad_batches=1,
            world_size=torch.distributed.get_world_size() if spread else 1,
            is_global_zero=not spread or torch.distributed.get_rank() == 0,
            num_training_batches=self._length,
            max_steps=steps,
            max_epochs=-(-steps // self._length),
        )
        self._tell_time()
        for callback in self._callbacks if state is not None else ():
            callback.load_state_dict(state["callbacks"].get(callback.state_key, {}))  # type: ignore[index]
        self._call("on_fit_start")
        self._call("on_train_start")
        self._handles = [one.register_step_pre_hook(self._before) for one in optimizers]
        self._begin()

    def step(self) -> None:
        """One step of the optimizers is over, and the next one begins; call it right after ``optimizer.step()``.

        Raises:
            RuntimeError: The run is over.
        """
        if self.done >= self.steps:
            raise RuntimeError(f"step() is called after the {self.steps} steps that prepare(steps=) was told of")
        place = self.done % self._length
        self.done += 1
        self._tell_time()
        self._call("on_train_batch_end", None, None, place)
        self._begin()

    def finish(self) -> None:
        """The training is over: say what did not get done, and print the summary."""
        self._call("on_train_end")
        self._call("on_fit_end")
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._call("teardown", "fit")

    def state_dict(self) -> dict[str, Any]:
        """What a later :func:`prepare` goes on from: tensors and plain values, latent weights among them."""
        found: dict[str, Any] = {"callbacks": {one.state_key: one.state_dict() for one in self._callbacks}}
        for one in self._callbacks:
            one.on_save_checkpoint(self._trainer, self._module, found)
        return {"step": self.done, **found}

    def _begin(self) -> None:
        if self.done < self.steps:
            self._call("on_train_batch_start", None, self.done % self._length)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._call("on_before_optimizer_step", optimizer)

    def _tell_time(self) -> None:
        self._trainer.global_step, self._trainer.current_epoch = self.done, self.done // self._length

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(self._trainer, self._module, *arguments)


@check_arguments
def prepare(
    module: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    callbacks: Sequence[Any],
    steps: int,
    epoch_steps: int | None = None,
    state: Mapping[str, Any] | None = None,
) -> PreparedLoop:
    """Use callbacks of this package, with their schedules, in a training loop of one's own.

    The loop calls ``step()`` of the result after every step of the optimizers, and ``finish()`` in the end. Everything
    else is as in a Trainer: fractions count the ``steps``, ternary layers become frozen in time, pruned weights stay
    zero, and ``state_dict()`` of the result has what a run goes on from, bit for bit. Nothing is logged.

    Args:
        module: Any module, on the device where it will be trained.
        optimizer: The optimizer, or all of them.
        callbacks: In the order that a Trainer should have: ``TernaryCallback``, ``PruningSchedule``,
            ``EntropyConstraint``, ``EntropyPruning``, ``StructuredPruning``, ``WeightPenaltyClipping``, ``BCGD`` and
            ``ActivationQuantization``. The others need a Trainer.
        steps: Steps of the whole run, also of one that goes on, >= 1.
        epoch_steps: Steps of an epoch, for callbacks that are given epochs; None for a run of one epoch.
        state: ``state_dict()`` of an earlier call. Load the module's and the optimizer's own states before.

    Raises:
        TypeError: A callback needs a Trainer.
        ValueError: A number is out of range; or a callback's argument needs a Trainer.
        MisconfigurationException: Two callbacks are of one class and for the same layers.

    Example:
        >>> from tern_lightning import PruningSchedule, TernaryCallback
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
        >>> ternary = TernaryCallback("twn", options={"factor": 0.0}, verbose=False)
        >>> run = prepare(net, optimizer, [PruningSchedule(0.75), ternary], steps=20)
        >>> for step in range(20):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(16, 4)).square().mean().backward()
        ...     optimizer.step()
        ...     run.step()
        >>> run.finish()
        >>> weight = net.state_dict()["2.weight"]
        >>> len(weight.unique()), (weight == 0).float().mean().item()
        (3, 0.75)
    """
    if steps < 1 or (epoch_steps is not None and epoch_steps < 1):
        raise ValueError(f"steps and epoch_steps must be at least 1, got {steps} and {epoch_steps}")
    known = ", ".join(one.__name__ for one in WORKING)
    for callback in callbacks:
        if not isinstance(callback, WORKING):
            raise TypeError(f"callbacks without a Trainer can be {known}, got {type(callback).__name__}")
        if isinstance(callback, TernaryCallback):
            _check(callback)
    check_twins(callbacks)
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    return PreparedLoop(module, optimizers, callbacks, steps, epoch_steps, state)


def _device_of(module: nn.Module) -> torch.device:
    """Where what processes tell each other is put together: where the parameters are."""
    return next((one.device for one in module.parameters()), torch.device("cpu"))


def _check(callback: TernaryCallback) -> None:
    """Refuse what asks a Trainer for batches."""
    if callback.auto:
        raise ValueError(
            "rules='auto' needs a Trainer, which has the data; HINT: rules=[tern_lightning.Rule(path) for path in "
            "tern_lightning.sensitivity(module, data, loss=...).costly()]"
        )
    named = [(callback.method, callback.options), *((one.method, one.options) for one in callback.rules)]
    if any(options.get("two_pass") for method, options in named if method is not None):
        raise ValueError("a method with two_pass=True needs a Trainer, which repeats batches; HINT: two_pass=False")
