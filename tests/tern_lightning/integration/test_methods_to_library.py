"""Every method, as trained by its callback, becomes a verified library, with 8-bit and with float activations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

import tern_lightning
import tvm_schedules
from tern_lightning import BCGD, SLR, CoarseActivation, LowRank, MultiLevelActivation, TernaryCallback
from tern_lightning.callbacks.pruning_schedule import PruningSchedule
from tests.tern_lightning.conftest import fit, make_net, make_trainer
from tests.tern_lightning.integration.test_every_method import CASES
from tests.tern_lightning.training_nets import samples

__all__ = ["fit", "make_net", "make_trainer"]


def ternary(method: str = "twn", start: float = 0, **options: Any) -> TernaryCallback:
    return TernaryCallback(method, options=options, start=start, freeze=None, bn_batches=2, verbose=False)


RECIPES: dict[str, Callable[[], list[pl.Callback]]] = {
    **{case: lambda own=own: [ternary(own[0], **own[1])] for case, own in CASES.items()},  # type: ignore[misc]
    "bcgd": lambda: [ternary(), BCGD(0.01)],
    "coarse-1": lambda: [ternary(), CoarseActivation(1)],
    "coarse-4": lambda: [ternary("ttq"), CoarseActivation(4)],
    "low-rank": lambda: [LowRank(multiple=2, learning_rate=0.3), ternary()],
    "multilevel-activation": lambda: [ternary("multilevel", terms=2), MultiLevelActivation(2)],
    "multilevel-three": lambda: [ternary(), MultiLevelActivation(3, signed=True)],
    "multilevel-uniform": lambda: [ternary(), MultiLevelActivation(3, uniform=True)],
    "pruned": lambda: [ternary("sws"), PruningSchedule(0.7)],
    "slr": lambda: [SLR("ternary", interval=2, end=0.5, rho=1.0, bn_batches=2), ternary(start=0.5)],
    "ternary-activation": lambda: [ternary(), MultiLevelActivation(1, signed=True)],
}


FEW_BITS = {"coarse-1", "coarse-4", "multilevel-uniform", "ternary-activation"}


@pytest.mark.parametrize("activations", ["uint8", "float32"])
@pytest.mark.parametrize("case", RECIPES)
def test_library(case: str, activations: Any, fit: Any, tmp_path: Path) -> None:
    _, net = fit(*RECIPES[case](), max_epochs=2)
    x = samples(4)[0]
    result = tern_lightning.export(net, tmp_path / "out", target="host", samples=x, activations=activations)
    assert result.artifact.report.passed
    with torch.no_grad():
        expected = net.eval()(x).numpy()
    library = tvm_schedules.load(tmp_path / "out")
    found = np.concatenate([library(row[None].numpy()) for row in x])
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    # Rounding in front of inputs of few trained levels moves some of them by a whole level.
    assert error < (1e-4 if activations == "float32" else 0.2 if case == "multilevel-activation" else 0.1)
    kinds = {layer["kernel"] for layer in result.artifact.metadata["layers"] if layer["terms"]}
    few = {"narrow", "popcount", "popcount_linear"}
    assert kinds & (few | {"sparse", "dense_dot", "linear_dot", "linear_pairs", "linear"})
    if case in FEW_BITS:
        assert kinds & few, "inputs with few trained levels are integers of few bits"
