"""What is printed and logged about ternary layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from tern_lightning.functional.statistics import flip_ratio
from tern_lightning.metrics import CodeEntropy, FlipRatio, Sparsity
from tern_lightning.nn.layer_types import find_weight, weight_of
from tern_lightning.nn.survey import FloatGroup, describe_others
from tern_lightning.nn.ternary_layers import TernaryLayer
from tern_lightning.rules import Decision
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.console import make_console


@dataclass(frozen=True)
class LayerReport:
    """One ternary layer in numbers; the flip ratio is None before there is anything to compare with."""

    path: str
    ternary: TernaryTensor
    previous: Tensor | None

    @property
    def flips(self) -> float | None:
        """Fraction of codes that changed since the epoch began."""
        return None if self.previous is None else flip_ratio(self.ternary.codes, self.previous).item()

    @property
    def levels(self) -> tuple[float, float]:
        """Mean positive and mean negative level."""
        return self.ternary.positive.mean().item(), self.ternary.negative.mean().item()

    def scalars(self) -> dict[str, float]:
        """The numbers by their log name."""
        positive, negative = self.levels
        found = {
            "sparsity": self.ternary.sparsity(),
            "entropy": self.ternary.entropy(),
            "positive_level": positive,
            "negative_level": negative,
        }
        return found if self.flips is None else {**found, "flips": self.flips}


def totals(reports: Iterable[LayerReport]) -> dict[str, float]:
    """Sparsity, entropy (bits per weight) and flip ratio over all layers, each weight counted once."""
    # Every process has the same weights, so there is nothing to reduce.
    alone = {"sync_on_compute": False}
    zeros, bits, flips = Sparsity(**alone), CodeEntropy(**alone), FlipRatio(**alone)
    compared = False
    for report in reports:
        zeros.update(report.ternary)
        bits.update(report.ternary)
        if report.previous is not None:
            compared = True
            flips.update(report.ternary.codes, report.previous.to(report.ternary.codes.device))
    found = {"sparsity": zeros.compute().item(), "entropy": bits.compute().item()}
    return {**found, "flips": flips.compute().item()} if compared else found


def log_values(reports: Sequence[LayerReport]) -> dict[str, float]:
    """Everything that is logged at an epoch's end, by its key."""
    found = {f"ternary/{name}": value for name, value in totals(reports).items()}
    for report in reports:
        found.update({f"ternary/{report.path}/{name}": value for name, value in report.scalars().items()})
    return found


@rank_zero_only
def print_decisions(decisions: Sequence[Decision], phases: str, others: Sequence[FloatGroup]) -> None:
    """Print which layers become ternary, how and when, and what stays float and why.

    Args:
        decisions: One for every layer.
        phases: When they become ternary and frozen.
        others: Parameters that belong to no such layer.
    """
    from rich.table import Table

    table = Table(title="Ternary layers", caption=phases)
    for heading in ("layer", "shape", "method", "reason"):
        table.add_column(heading, overflow="fold")
    for decision in decisions:
        weight = find_weight(decision.module)
        options = ", ".join(f"{key}={value}" for key, value in decision.options.items())
        method = "float" if decision.method is None else f"{decision.method}({options})" if options else decision.method
        shape = "" if weight is None else "x".join(map(str, weight.shape))
        table.add_row(decision.path, shape, method, decision.reason)
    _print(table)
    line = describe_others(others)
    if line is not None:
        _print(line)


@rank_zero_only
def print_summary(reports: Sequence[LayerReport], phases: Mapping[str, str], parameters: int) -> None:
    """Print the ternary layers in numbers, and their sum.

    Args:
        reports: One for every layer.
        phases: Phase of every layer, by path.
        parameters: Parameters of the whole model.
    """
    from rich.table import Table

    table = Table(title="Ternary summary")
    table.add_column("layer", overflow="fold")
    for heading in ("shape", "phase", "zeros %", "bits/weight", "levels", "flips %", "bytes"):
        table.add_column(heading, justify="right")
    stored = weights = 0
    for report in reports:
        ternary, (positive, negative) = report.ternary, report.levels
        size = ternary.codes[0].numel()
        stored, weights = stored + ternary.nbytes(), weights + size
        table.add_row(
            report.path,
            "x".join(map(str, ternary.shape)),
            phases[report.path],
            f"{100 * ternary.sparsity():.1f}",
            f"{ternary.entropy():.3f}",
            f"{positive:.3g}" if ternary.is_symmetric else f"{positive:.3g} / {-negative:.3g}",
            "" if report.flips is None else f"{100 * report.flips:.2f}",
            f"{ternary.nbytes():,}",
        )
    whole = totals(reports)
    flips = f"{100 * whole['flips']:.2f}" if "flips" in whole else ""
    zeros, bits = f"{100 * whole['sparsity']:.1f}", f"{whole['entropy']:.3f}"
    table.add_section()
    table.add_row("all", "", "", zeros, bits, "", flips, f"{stored:,}")
    share = f"{weights:,} of {parameters:,} parameters are ternary"
    smaller = f"{4 * weights / stored:.1f} times smaller than in float"
    words = "bits/weight: entropy of the codes -1, 0 and 1; levels: what +1 and -1 stand for; flips: codes that changed"
    table.caption = f"{share}, {smaller}\n{words} in the last epoch"
    _print(table)


def _print(table: Any) -> None:
    make_console(width=140).print(table)


@torch.no_grad()
def layer_reports(layers: Mapping[str, TernaryLayer], previous: Mapping[str, Tensor]) -> list[LayerReport]:
    """One report for every ternary layer, compared with ``previous`` codes by path where there are any."""
    ternary = {path: layer._ternary_state.ternary(weight_of(layer)) for path, layer in layers.items()}
    return [LayerReport(path, found, previous.get(path)) for path, found in ternary.items()]


def warn_of_empty(reports: Sequence[LayerReport], told: set[str], step: int) -> None:
    """Say once of every layer that has no weight left that it has none.

    Args:
        reports: One for every layer.
        told: Paths of the layers of which that has been said; those of now are added.
        step: The optimizer step.
    """
    for one in reports:
        if one.path not in told and not one.ternary.codes.any():
            told.add(one.path)
            rank_zero_warn(
                f"all weights of ternary layer {one.path!r} are zero at step {step}. HINT: pruning with scope='layer' "
                "leaves every layer its share"
            )


def check_finite(layers: Mapping[str, TernaryLayer], step: int) -> None:
    """Stop before NaN or infinite weights become codes without a trace.

    Raises:
        ValueError: A weight has one; the message names the layer and the optimizer step.
    """
    path = _first_not_finite({path: weight_of(layer) for path, layer in layers.items()})
    if path is not None:
        raise ValueError(
            f"the weight of layer {path!r} has NaN or infinite values at step {step}; "
            "HINT: lower the learning rate or clip gradients"
        )


@torch.no_grad()
def _first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """Name of the first weight with a NaN or infinite value, or None. One number travels from the device."""
    if not weights:
        return None
    peaks = torch._foreach_norm([weight.detach() for weight in weights.values()], float("inf"))
    if torch.stack([peak.float().to(peaks[0].device) for peak in peaks]).isfinite().all():
        return None
    return next(name for name, weight in weights.items() if not weight.isfinite().all())
