"""What is compared: every method as it comes, and at scheduled shares of zeros. A new one is a line in ``RECIPES``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch import nn

from benchmarks.methods.rearranged import RearrangedPruning
from tern_lightning import (
    BCGD,
    SLR,
    ActivationQuantization,
    EntropyConstraint,
    PruningSchedule,
    Rule,
    Schedule,
    StructuredPruning,
    TernaryCallback,
    WeightPenaltyClipping,
)

if TYPE_CHECKING:
    from lightning.pytorch import Callback


@dataclass(frozen=True)
class Recipe:
    """How a float network becomes ternary.

    Attributes:
        name: Unique; the result's file has it.
        method: Of ``TernaryCallback``; None leaves the network in float, trained as long as the others.
        options: Of the method.
        zeros: Share of zeros that ``PruningSchedule`` brings about in the first half of the run; None for those that
            the method makes by itself.
        extras: Makes further callbacks, which go before ``TernaryCallback``.
        start: When ternary training begins, as a share of the run.
        bias: Whether the convolutions get a bias, for a method that needs one.
        rate: Factor of the learning rate.
        group: Output and input channels of the blocks at one position of the kernel that are pruned together.
        pattern: Of ``PruningSchedule``, where it is neither single weights nor such blocks.
        ends: Whether the first and the last layer become ternary, too.
        bits: Of the inputs of all layers, which are rounded in training; None leaves them in float.
        teacher: Arguments of ``Distillation`` from the float network of the same seed; None for none.
    """

    name: str
    method: str | None = "twn"
    options: dict[str, Any] = field(default_factory=dict)
    zeros: float | None = None
    extras: Callable[[], list[Callback]] = list
    start: float = 0.0
    bias: bool = False
    rate: float = 1.0
    group: tuple[int, int] | None = None
    pattern: str | None = None
    ends: bool = False
    bits: int | None = None
    teacher: dict[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """What is written beside a result, as plain values: everything but name and ``extras``."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "extras")}
        return values | {"group": None if self.group is None else list(self.group)}

    def callbacks(self, freeze: float, dense: Sequence[str] = ()) -> list[Callback]:
        """The callbacks of a run.

        Args:
            freeze: Share of the run after which codes are fixed.
            dense: Paths of layers that are neither ternary nor pruned.
        """
        found: list[Callback] = list(self.extras())
        if self.zeros is not None or self.pattern is not None:
            pattern = self.pattern or ("element" if self.group is None else "block")
            found.append(
                PruningSchedule(
                    self.zeros,
                    schedule=Schedule("cubic", end=0.5),
                    pattern=pattern,
                    group=self.group or (1, 1),
                    kernel=False,
                    every=10,
                    exclude=tuple(dense),
                )
            )
        if self.method is not None:
            rules = [Rule(path) for path in dense]
            if self.ends:
                rules.append(Rule("*", self.method, options=dict(self.options)))
            found.append(TernaryCallback(self.method, rules, dict(self.options), self.start, freeze, verbose=False))
        if self.bits is not None:
            found.append(ActivationQuantization(self.bits))
        return found


def depthwise(net: nn.Module) -> list[str]:
    """Paths of depthwise convolutions: nine weights a channel, which are worth their 8 bits."""
    layers = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    return [path for path, layer in layers if 1 < layer.groups == layer.in_channels]


def _pruned(name: str, method: str, options: dict[str, Any], shares: tuple[float, ...]) -> list[Recipe]:
    """Recipes whose zeros are the scheduled ones alone: ``options`` keep the method from making more."""
    return [Recipe(f"{name}-{100 * zeros:g}", method, options, zeros) for zeros in shares]


def _grouped(group: tuple[int, int], shares: tuple[float, ...]) -> list[Recipe]:
    """Recipes that prune blocks of output and input channels at one position of a kernel, more and more of them."""
    name = f"twn-{group[0]}x{group[1]}"
    return [Recipe(f"{name}-{100 * zeros:g}", "twn", {"factor": 0.0}, zeros, group=group) for zeros in shares]


def _thresholds(shares: tuple[float, ...]) -> list[Recipe]:
    """Recipes in which TWN's own threshold stays on beside a schedule: a few zeros more, and no binary network first.

    While the schedule is still at its start, weights without a threshold are all plus or minus one level.
    """
    groups = {"twn": None, "twn-2x1": (2, 1), "twn-4x1": (4, 1)}
    return [
        Recipe(f"{name}-{100 * zeros:g}-threshold", zeros=zeros, group=group)
        for name, group in groups.items()
        for zeros in shares
    ]


def _penalized(group: tuple[int, int], shares: tuple[float, ...], strength: float) -> list[Recipe]:
    """Recipes that shrink such blocks from the start and prune them in the middle, all at once; strength 0: no penalty.

    The penalty shrinks right after a step, so that AdamW does not scale it, and reaches blocks up to twice the mean
    norm: those of half the mean, which is usual, are too few where four fifths or more are to go.
    """

    def extras(zeros: float) -> Callable[[], list[Callback]]:
        how: dict[str, Any] = {"form": "proximal", "threshold": 2.0, "prune": 0.5, "kernel": False}
        return lambda: [StructuredPruning(group, strength, amount=zeros, **how)]

    name = f"twn-{group[0]}x{group[1]}"
    end = f"penalty-{strength:g}" if strength else "at-once"
    return [Recipe(f"{name}-{100 * zeros:g}-{end}", "twn", {"factor": 0.0}, extras=extras(zeros)) for zeros in shares]


def _rearranged(group: int, shares: tuple[float, ...]) -> list[Recipe]:
    """Recipes of :func:`_thresholds` with blocks of channels that are alike, in place of neighbors."""

    def extras(zeros: float) -> Callable[[], list[Callback]]:
        return lambda: [RearrangedPruning(zeros, group, schedule=Schedule("cubic", end=0.5), every=10)]

    return [Recipe(f"twn-{group}x1-{100 * zeros:g}-rearranged", extras=extras(zeros)) for zeros in shares]


def _grouped_entropy(group: int, strengths: tuple[float, ...]) -> list[Recipe]:
    """Recipes of EC2T in which blocks of output channels are zero together."""
    return [
        Recipe(f"ec2t-{group}x1-entropy-{strength:g}", "ec2t", {"group": group}, extras=_entropy(strength))
        for strength in strengths
    ]


def _one_level(group: int, strengths: tuple[float, ...]) -> list[Recipe]:
    """Recipes of EC2T with one level for both signs."""
    name, options = "ec2t" if group == 1 else f"ec2t-{group}x1", {"group": group, "two_levels": False}
    return [Recipe(f"{name}-one-level-{s:g}", "ec2t", options, extras=_entropy(s)) for s in strengths]


def _taught(of: str, weight: float, temperature: float = 2.0) -> Recipe:
    """A recipe of TWN with scheduled zeros and a teacher: its share of the loss, and its temperature."""
    name = f"twn-{of}-teacher-{weight:g}" + (f"-{temperature:g}" if temperature != 2 else "")
    teacher = {"temperature": temperature, "weight": weight}
    return Recipe(name, "twn", {"factor": 0.0}, float(of) / 100, teacher=teacher)


def _entropy(strength: float) -> Callable[[], list[Callback]]:
    return lambda: [EntropyConstraint(strength, Schedule("linear", end=0.4))]


RECIPES: tuple[Recipe, ...] = (
    Recipe("float-longer", None),
    Recipe("twn"),
    Recipe("sws", "sws"),
    Recipe("sws-2-parallel", "sws", {"terms": 2}),
    Recipe("sws-2-sequential", "sws", {"terms": 2, "mode": "sequential"}),
    Recipe("absmean", "absmean"),
    Recipe("ttq", "ttq"),
    Recipe("tga", "tga"),
    Recipe("ec2t", "ec2t"),
    Recipe("ec2t-entropy-0.15", "ec2t", extras=_entropy(0.15)),
    Recipe("seq", "seq"),
    Recipe("admm", "admm"),
    Recipe("multilevel-2", "multilevel", {"terms": 2}),
    Recipe("tequila", "tequila", bias=True),
    Recipe("sherry", "sherry"),
    Recipe("hestia", "hestia"),
    Recipe("twn-bcgd", extras=lambda: [BCGD(1e-4)]),
    Recipe("twn-slr", extras=lambda: [SLR(end=0.4, interval=50)], start=0.4),
    # Norms of large groups of a trained network are all near their mean, above the threshold of the penalty: it does
    # nothing to them. Single kernels differ enough.
    Recipe("sws-clipping-kernels", "sws", extras=lambda: [WeightPenaltyClipping(1e-3, group=(1, 1))]),
    Recipe("sws-structured-50", "sws", extras=lambda: [StructuredPruning((4, 4), prune=0.4, amount=0.5)]),
    *_pruned("twn", "twn", {"factor": 0.0}, (0.8, 0.9, 0.95, 0.98)),
    *_pruned("multilevel-2", "multilevel", {"terms": 2, "factor": 0.0}, (0.8, 0.9, 0.95, 0.98)),
    *_pruned("ttq", "ttq", {"threshold": 0.0}, (0.8, 0.9, 0.95, 0.98)),
    *_pruned("twn-channel", "twn", {"factor": 0.0, "per_channel": True}, (0.8, 0.9, 0.95)),
    Recipe("ec2t-entropy-0.2", "ec2t", extras=_entropy(0.2)),
    Recipe("ec2t-entropy-0.3", "ec2t", extras=_entropy(0.3)),
    Recipe("ec2t-entropy-0.4", "ec2t", extras=_entropy(0.4)),
    Recipe("ec2t-entropy-0.6", "ec2t", extras=_entropy(0.6)),
    Recipe("ec2t-entropy-0.9", "ec2t", extras=_entropy(0.9)),
    Recipe("ec2t-entropy-1", "ec2t", extras=_entropy(1.0)),
    *_pruned("twn", "twn", {"factor": 0.0}, (0.5,)),
    *_pruned("multilevel-2", "multilevel", {"terms": 2, "factor": 0.0}, (0.5,)),
    *_pruned("twn", "twn", {"factor": 0.0}, (0.7,)),
    *_grouped((2, 1), (0.5, 0.7, 0.8, 0.9, 0.95)),
    *_grouped((4, 1), (0.5, 0.7, 0.8, 0.9, 0.95)),
    *(one for strength in (0.0, 0.03, 0.1, 0.3) for one in _penalized((4, 1), (0.8, 0.9), strength)),
    *_thresholds((0.5, 0.7, 0.8, 0.9, 0.95)),
    *_rearranged(2, (0.8,)),
    *_rearranged(4, (0.8,)),
    *_grouped_entropy(2, (0.2, 0.4, 0.6, 0.9)),
    *_grouped_entropy(4, (0.2, 0.4, 0.6, 0.9)),
    *_one_level(1, (0.2, 0.4, 0.6, 0.9)),
    *_one_level(2, (0.4, 0.6)),
    *_one_level(4, (0.4, 0.6)),
    Recipe("twn-2of4", options={"factor": 0.0}, pattern="2:4"),
    Recipe("twn-ends", ends=True),
    _taught("90", 0.3),
    _taught("90", 0.5),
    _taught("90", 0.7),
    _taught("90", 1.0),
    _taught("90", 0.5, 4.0),
    Recipe("float-a8", None, bits=8),
    Recipe("twn-a8", bits=8),
    Recipe("twn-90-a8", "twn", {"factor": 0.0}, 0.9, bits=8),
    Recipe("multilevel-2-90-a8", "multilevel", {"terms": 2, "factor": 0.0}, 0.9, bits=8),
    Recipe("twn-factor-1.6", options={"factor": 1.6}),
    Recipe("twn-factor-2.05", options={"factor": 2.05}),
    Recipe("twn-factor-2.45", options={"factor": 2.45}),
)
"""All recipes, by which table and command line are ordered."""


def choose(patterns: list[str]) -> list[Recipe]:
    """The recipes whose name matches one of the patterns (``*``, ``?``, ``[...]``), in the order of ``RECIPES``.

    Raises:
        ValueError: A pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(recipe.name, pattern) for recipe in RECIPES):
            raise ValueError(f"recipe {pattern!r} is not known; there are {[recipe.name for recipe in RECIPES]}")
    return [recipe for recipe in RECIPES if any(fnmatchcase(recipe.name, pattern) for pattern in patterns)]
