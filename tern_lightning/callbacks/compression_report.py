"""What a run did to every ternary layer, as a page and as JSON."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from tern_lightning.callbacks import _report as report
from tern_lightning.callbacks._stateful import StatefulCallback
from tern_lightning.callbacks.ternary import TernaryCallback
from tern_lightning.nn.layer_types import weight_of
from tern_lightning.nn.ternary_layers import TernaryLayer, swapped_layers
from tern_lightning.quantizers.base import quantizer_name
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.files import user_path, write_file

BINS = 41
"""Bins of a histogram of latent weights, over plus and minus the largest."""


@check_arguments
class CompressionReport(StatefulCallback):
    """Keep how each ternary layer changed over a run, and write it as an HTML page and as JSON.

    After every epoch ``compression.json`` is written anew: the metrics that the run logged, and for every layer its
    zeros, entropy, levels, the share of codes that changed, and a histogram of the latent weights by the code that each
    has become. When fit ends, ``compression.html`` shows it; the page needs no other file and no network.
    ``tern-report`` puts an artifact and measurements beside it, and compares runs. A run that is resumed goes on with
    the epochs that it has.

    Values are those of ``trainer.callback_metrics`` when an epoch is over: a metric that is not logged in every epoch
    keeps its last value.

    Args:
        directory: Where the files go; None for the logger's directory, or ``default_root_dir`` without a logger.
        page: Write the page when fit ends.

    Raises:
        OutputError: A file cannot be written.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback(), CompressionReport()])
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None, page: bool = True) -> None:
        self.directory: Path | None = None if directory is None else user_path(directory, "directory")
        self.page = page
        self._epochs: list[dict[str, Any]] = []

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_metrics(trainer)  # Lightning has an epoch's means only after its last hook

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reports = _reports(trainer)
        values = {f"ternary/{name}": value for name, value in report.totals(reports).items()} if reports else {}
        layers = {one.path: {"sparsity": one.ternary.sparsity(), "flips": one.flips} for one in reports}
        entry = {"epoch": trainer.current_epoch, "step": trainer.global_step, "values": values, "layers": layers}
        self._epochs = [one for one in self._epochs if one["epoch"] < trainer.current_epoch] + [entry]
        self._take_metrics(trainer)
        self._write(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_metrics(trainer)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._epochs or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        written = self._write(trainer, pl_module)
        if self.page and trainer.is_global_zero:
            from tvm_schedules.report.page import write_page
            from tvm_schedules.report.run import read_run

            run = read_run(written)
            run.name = type(pl_module).__name__
            rank_zero_info(f"compression report: {write_page([run], written.with_suffix('.html'))}")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self._epochs}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._epochs = list(state_dict["epochs"])

    def _take_metrics(self, trainer: pl.Trainer) -> None:
        """Add what the run has logged to its last epoch."""
        if self._epochs:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            own = {name: value for name, value in logged.items() if not name.startswith("ternary/")}
            self._epochs[-1]["values"].update(own)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Path:
        """Write the JSON, in the process that does so."""
        folder = self.directory or Path(trainer.log_dir or trainer.default_root_dir)
        path = folder / "compression.json"
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            write_file(path, json.dumps(self._document(trainer, pl_module), indent=1) + "\n")
        return path

    def _document(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        courses: dict[str, list[dict[str, Any]]] = {}
        for epoch in self._epochs:
            for path, values in epoch["layers"].items():
                courses.setdefault(path, []).append({"epoch": epoch["epoch"], **values})
        layers = dict(swapped_layers(pl_module))
        return {
            "format": "tern-training",
            "version": 1,
            "module": type(pl_module).__name__,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "epochs": [{key: value for key, value in one.items() if key != "layers"} for one in self._epochs],
            "layers": [_layer(one, layers[one.path], courses.get(one.path, [])) for one in _reports(trainer)],
        }


def _reports(trainer: pl.Trainer) -> list[report.LayerReport]:
    """What the run's TernaryCallback knows of its layers."""
    found = [one.reports() for one in trainer.callbacks if isinstance(one, TernaryCallback)]  # type: ignore[attr-defined]
    return found[0] if found else []


def _layer(found: report.LayerReport, layer: TernaryLayer, course: list[dict[str, Any]]) -> dict[str, Any]:
    """One layer in JSON types."""
    state, ternary = layer._ternary_state, found.ternary
    return {
        "path": found.path,
        "method": quantizer_name(state.quantizer),
        "phase": state.phase,
        "shape": list(ternary.shape),
        "sparsity": ternary.sparsity(),
        "entropy": ternary.entropy(),
        "levels": list(found.levels),
        "flips": found.flips,
        "bytes": ternary.nbytes(),
        "histogram": code_histogram(weight_of(layer).detach().float(), ternary.codes[0]),
        "history": course,
    }


def code_histogram(latent: Tensor, codes: Tensor, bins: int = BINS) -> dict[str, Any]:
    """How many latent weights of each size have become -1, 0 and +1.

    Args:
        latent: Latent weights, of any shape.
        codes: Their codes, of the same shape.
        bins: Number of bins of equal width over plus and minus the largest finite magnitude.

    Returns:
        ``edges``, ``bins + 1`` numbers, and ``counts``, for each of the three codes one number a bin.

    Example:
        >>> code_histogram(torch.tensor([-1.0, 0.1, 0.9]), torch.tensor([-1, 0, 1]), bins=2)
        {'edges': [-1.0, 0.0, 1.0], 'counts': [[1, 0], [0, 1], [0, 1]]}
    """
    flat, places = latent.flatten().cpu(), codes.flatten().cpu()
    size = flat[flat.isfinite()].abs().max().item() if flat.isfinite().any() else 0.0
    edges = torch.linspace(-1, 1, bins + 1) * (size or 1.0)
    chosen = [flat[(places == code) & flat.isfinite()] for code in (-1, 0, 1)]
    counts = [torch.histogram(values, edges).hist.long().tolist() for values in chosen]
    return {"edges": [float(f"{edge:.6g}") for edge in edges.tolist()], "counts": counts}
