"""A pass of its own over every batch for what methods train besides weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tern_lightning.nn.scalar_trainer import ScalarTrainer
from tern_lightning.nn.ternary_layers import TernaryLayer

_LOGS = ("log", "log_dict")


def first_pass(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    batch: Any,
    batch_idx: int,
    layers: Mapping[str, TernaryLayer],
    scalars: ScalarTrainer,
) -> None:
    r"""Run a batch for the scalars of two-pass methods alone and move them, before the batch trains the weights.

    .. math:: \theta \leftarrow \theta - \eta_\theta \, \partial L(W, \theta; B) / \partial \theta, \quad
        W \leftarrow W - \eta_W \, \partial L(W, \theta; B) / \partial W

    with the new :math:`\theta` in the second line: the alternation in the code of Truncated Gaussian Approximation
    (2019). It doubles the time of a step. Memory: the graph of the first pass is gone before the second begins, so that
    the peak is that of one pass, and copies of the running statistics. The pass leaves no other trace: gradients are
    taken of the scalars alone; running statistics, random states (Python, NumPy, torch) and observed ranges are put
    back, so that dropout has the same masks in both passes and the random numbers of a run are those of single-pass
    training; nothing is logged. What ``training_step`` keeps itself, such as a torchmetrics state, counts every batch
    twice.

    Args:
        trainer: The Trainer; its batch has not begun.
        pl_module: The module, optimized automatically.
        batch: On the module's device.
        batch_idx: Index of the batch in its epoch.
        layers: Ternary layers by path; those of other methods are left alone.
        scalars: The trainer that moves the scalars.

    Raises:
        MisconfigurationException: Gradients are accumulated or the module optimizes by hand.
    """
    chosen = {
        path: layer
        for path, layer in layers.items()
        if layer._ternary_state.phase == "ternary" and layer._ternary_state.quantizer.two_pass
    }
    if not chosen:
        return
    if not pl_module.automatic_optimization or trainer.accumulate_grad_batches > 1:
        what = "gradients are accumulated" if pl_module.automatic_optimization else "the module optimizes by hand"
        raise MisconfigurationException(
            f"two_pass=True runs every batch twice, which cannot be where {what}; HINT: two_pass=False"
        )
    arguments = [batch]
    if is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2):
        arguments.append(batch_idx)
    parameters = [p for layer in chosen.values() for p in layer._ternary_state.quantizer.trained.values()]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    # Backward too is inside: it needs the running statistics as forward left them.
    with isolate_rng(), _without_trace(pl_module, chosen):
        with trainer.precision_plugin.train_step_context():
            output = pl_module.training_step(*arguments)
        loss = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return
        grads = torch.autograd.grad(loss if scaler is None else scaler.scale(loss), parameters, allow_unused=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    for optimizer in trainer.optimizers:
        scalars.step(optimizer, chosen, trainer.world_size, scaler, first_pass=True)


@contextmanager
def _without_trace(pl_module: pl.LightningModule, layers: Mapping[str, TernaryLayer]) -> Iterator[None]:
    """A pass in which scalars have gradients, and after which statistics, ranges and logs are what they were."""
    methods = [layer._ternary_state.quantizer for layer in layers.values()]
    saved = [
        (buffer, buffer.clone())
        for module in pl_module.modules()
        if isinstance(module, _NormBase)
        for buffer in module.buffers(recurse=False)
    ]
    observers = [hook for hook in _input_hooks(pl_module) if getattr(hook, "observing", False)]
    for hook in observers:
        hook.observing = False
    for method in methods:
        method.first_pass = True
    own: dict[str, Any] = {name: pl_module.__dict__[name] for name in _LOGS if name in pl_module.__dict__}
    pl_module.__dict__.update(dict.fromkeys(_LOGS, _silent))
    try:
        yield
    finally:
        for name in _LOGS:
            del pl_module.__dict__[name]
        pl_module.__dict__.update(own)
        for method in methods:
            method.first_pass = False
        for hook in observers:
            hook.observing = True
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def _input_hooks(module: nn.Module) -> list[Any]:
    return [hook for layer in module.modules() for hook in layer._forward_pre_hooks.values()]


def _silent(*args: Any, **kwargs: Tensor) -> None:
    """Stands in for ``log``."""
