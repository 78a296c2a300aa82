"""The ternary layers of a run: which they are, in which phase, and what is trained of them besides their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from tern_lightning.callbacks import _auto as auto
from tern_lightning.callbacks import _install as install
from tern_lightning.callbacks import _report as report
from tern_lightning.callbacks import _state as state
from tern_lightning.nn.batch_norm import StatisticsReset
from tern_lightning.nn.layer_state import PHASES, Phase
from tern_lightning.nn.scalar_trainer import ScalarTrainer, begin
from tern_lightning.nn.ternary_layers import freeze
from tern_lightning.quantizers import Quantizer
from tern_lightning.rules import Decision, named_methods


class TernaryRun:
    """What a TernaryCallback knows of the layers that it trains.

    Attributes:
        decisions: What was decided about every layer of the model.
        layers: The ternary layers by path; one for every weight.
        copies: Those of averaged copies of the model, by the copy's name.
        phase: Where in the run they are.
        codes: Their codes when the epoch began.
        left_float: Layers that stay float though rules would make them ternary, with the reason.
        scalars: What trains levels and thresholds.
        statistics: What estimates batch normalization anew after the freeze.
    """

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.layers: state.Layers = {}
        self.copies: dict[str, state.Layers] = {}
        self.left_float: dict[str, str] = {}
        self.begin()

    def begin(self) -> None:
        """Forget an earlier run."""
        self.phase: Phase = "float"
        self.codes: dict[str, Tensor] = {}
        self.scalars, self.statistics = ScalarTrainer(), StatisticsReset()

    def make_ternary(self, trainer: pl.Trainer, model: pl.LightningModule, decisions: Sequence[Decision]) -> None:
        """Change all layers as it was decided, those of averaged copies of the model too."""
        self.decisions = auto.without(decisions, self.left_float)
        install.warn_of_float(self.decisions)
        self.layers, self.copies = install.make_ternary(trainer, model, self.decisions, self.phase)

    def leave_float(self, trainer: pl.Trainer, model: pl.LightningModule, layers: Mapping[str, str]) -> None:
        """Give layers up for good.

        Args:
            trainer: The Trainer, whose other callbacks may hold copies.
            model: The model.
            layers: Why, by the path of the layer.
        """
        self.left_float.update(install.leave_float(trainer, model, self.decisions, layers))
        self.decisions = auto.without(self.decisions, self.left_float)
        self.layers = _without(self.layers, self.left_float)
        self.copies = {name: _without(own, self.left_float) for name, own in self.copies.items()}

    def advance(self, target: Phase, model: pl.LightningModule, bn_batches: int) -> None:
        """Go through the phases up to ``target``."""
        while self.phase != target:
            following = PHASES[PHASES.index(self.phase) + 1]
            if following == "ternary":
                begin(self.layers)
            if following == "frozen":
                for path, layer in self.layers.items():
                    freeze(layer, [members[path] for members in self.copies.values()])
                self.statistics.start(model, bn_batches)
            self.set_phase(following)

    def set_phase(self, phase: Phase) -> None:
        """Let all layers compute as the phase says."""
        self.phase = phase
        for layer in self.layers.values():
            layer._ternary_state.phase = phase

    def end(self) -> None:
        """The run is over: what is loaded from now on need not become ternary."""
        for layer in self.layers.values():
            layer._ternary_state.running = False

    def methods(self) -> list[Quantizer]:
        """The methods of the layers."""
        return [layer._ternary_state.quantizer for layer in self.layers.values()]

    def reports(self, compare: bool = True) -> list[report.LayerReport]:
        """One for every layer, compared with the codes at the epoch's begin unless told otherwise."""
        return report.layer_reports(self.layers, self.codes if compare else {})

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint, but for those of :meth:`weights`."""
        return {
            "phase": self.phase,
            "statistics": self.statistics.state(),
            "previous": dict(self.codes),
            "scalars": self.scalars.state(),
            "named": named_methods(self.decisions),
            "costly": dict(self.left_float),
        }

    def weights(self) -> dict[str, Any]:
        """Tensors for a checkpoint, whose own weights are the ternary ones."""
        return state.collect(self.layers, self.copies)

    def restore(self, saved: Mapping[str, Any], model: pl.LightningModule) -> None:
        """Go on from a checkpoint."""
        state.check_methods(saved, self.decisions)
        state.restore(saved, self.layers, self.copies)
        self.set_phase(saved["phase"])
        self.codes = saved["previous"]
        self.statistics.load(saved["statistics"], model)
        self.scalars.load(saved["scalars"])


def _without(layers: state.Layers, paths: Mapping[str, str]) -> state.Layers:
    return {path: layer for path, layer in layers.items() if path not in paths}
