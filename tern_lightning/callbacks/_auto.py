"""``rules="auto"``: layers that would cost too much stay float, by a look at every layer when fit starts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tern_lightning.layer_sensitivity import Sensitivity, measure
from tern_lightning.rules import Decision

BATCHES = 8
"""So many batches are looked at."""


def look(trainer: pl.Trainer, pl_module: pl.LightningModule, decisions: Sequence[Decision], show: bool) -> Sensitivity:
    """What each layer costs that would be ternary, on the first batches of validation, or of training without one.

    The loaders give the same batches afterward as if nobody had looked.

    Raises:
        MisconfigurationException: There are no batches.
    """
    chosen = [one for one in decisions if one.method is not None]
    batches = [trainer.strategy.batch_to_device(batch) for batch in _batches(trainer)]
    if not batches:
        raise MisconfigurationException(
            "rules='auto' looks at batches of the validation or training loader, and there are none"
        )
    plugin = trainer.precision_plugin
    batches = [plugin.convert_input(batch) for batch in batches]
    return measure(pl_module, chosen, batches, context=plugin.forward_context, progress=show)


def without(decisions: Sequence[Decision], costly: Mapping[str, str]) -> list[Decision]:
    """The decisions, but that layers that cost too much stay float, with the reason why."""
    return [
        replace(one, method=None, options={}, reason=costly[one.path]) if one.path in costly else one
        for one in decisions
    ]


def _batches(trainer: pl.Trainer) -> list[Any]:
    # They are set up after this time; the Trainer finds them set up then.
    trainer.fit_loop.setup_data()
    if trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        loader = CombinedLoader(trainer.val_dataloaders, "sequential").flattened[0]
        with _left_alone([loader]):
            return list(islice(copy.copy(loader), BATCHES))
    loaders = CombinedLoader(trainer.train_dataloader, "max_size_cycle")
    with _left_alone(loaders.flattened):
        loaders.flattened = [copy.copy(one) for one in loaders.flattened]
        return [batch for batch, _, _ in islice(loaders, BATCHES)]


@contextmanager
def _left_alone(loaders: Sequence[Any]) -> Iterator[None]:
    """Give the random generators of loaders and of torch their state back."""
    owners = [one for loader in loaders for one in (loader, getattr(loader, "sampler", None))]
    found = [generator for one in owners if (generator := getattr(one, "generator", None)) is not None]
    states = [(generator, generator.get_state()) for generator in found]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for generator, state in states:
            generator.set_state(state)
