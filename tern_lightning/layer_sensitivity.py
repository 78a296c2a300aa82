"""What it costs to make each layer of a trained network ternary, or to prune it, with all others as they are."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tern_lightning.evaluation import Loss, Score, evaluate, to_device
from tern_lightning.functional.patterns import keep_largest
from tern_lightning.loop import to_plain
from tern_lightning.nn.batch_norm import fresh_statistics, with_statistics
from tern_lightning.nn.layer_types import channel_axis, find_bias, weight_of
from tern_lightning.nn.recurrent_weights import layer_at
from tern_lightning.quantizers import get_quantizer
from tern_lightning.rules import Decision, Rule, named_methods, resolve, rules_hint
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.console import make_console
from tvm_schedules.common.files import user_path, write_file
from tvm_schedules.common.reading import read_json, reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

FORMAT = "tern-sensitivity"
"""``format`` of the JSON."""
ABOVE = 4.0
"""A layer that costs more than so many times the median layer can be one that costs too much,"""
SHARE = 0.1
"""if it has at least this share of what all layers cost together,"""
FLOAT = 0.1
"""and all such layers together have at most this share of the weights."""


@dataclass(frozen=True)
class LayerCost:
    """A network of which one layer is changed.

    Attributes:
        path: Path of the layer.
        weights: Number of its weights.
        method: Method by which it became ternary; None where it was pruned and stays float.
        asked: Share of its weights that was pruned; None where it became ternary.
        zeros: Share of its weights that are zero.
        loss: Loss of the network.
        metrics: The other numbers, by name.
    """

    path: str
    weights: int
    method: str | None
    asked: float | None
    zeros: float
    loss: float
    metrics: dict[str, float]

    @property
    def change(self) -> str:
        """What was done to the layer, in a word or two."""
        return str(self.method) if self.asked is None else f"{self.asked:.0%} zeros"


@dataclass(frozen=True)
class Sensitivity:
    """What :func:`sensitivity` found; a ``rich`` console prints it as a table.

    Attributes:
        module: Class name of the network.
        loss: Loss of the network as it is.
        metrics: Its other numbers, by name.
        costs: One entry for every layer and change, in the order of the network.
        settings: What it depends on besides the network and the data.
    """

    module: str
    loss: float
    metrics: dict[str, float]
    costs: tuple[LayerCost, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def ternary(self) -> dict[str, float]:
        """How much the loss rises where a layer alone becomes ternary, by path."""
        return {one.path: one.loss - self.loss for one in self.costs if one.asked is None}

    def costly(self, above: float = ABOVE, share: float = SHARE, most: float = FLOAT) -> dict[str, str]:
        """The layers that cost too much to be ternary, with the reason, the dearest for its size first.

        A layer is one of them where it alone raises the loss by more than ``above`` times what the median layer does,
        and by at least ``share`` of what all layers do together. They are taken by loss for each weight, the dearest
        first, as long as together they have at most ``most`` of the weights: to leave large layers float would save
        nothing.

        Args:
            above: Times the median, >= 1.
            share: Share of the sum over all layers, in [0, 1].
            most: Share of the weights, in [0, 1].
        """
        rises = {path: max(value, 0.0) for path, value in self.ternary().items()}
        sizes = {one.path: one.weights for one in self.costs}
        total, room = sum(rises.values()), most * sum(sizes.values())
        middle = sorted(rises.values())[len(rises) // 2] if rises else 0.0
        found: dict[str, str] = {}
        for path in sorted(rises, key=lambda one: -rises[one] / sizes[one]):
            rise = rises[path]
            if rise > above * middle and rise >= share * total and rise > 0 and sizes[path] <= room:
                room -= sizes[path]
                found[path] = f"costs too much: loss +{rise:.3g}, {rise / total:.0%} of all layers'"
        return found

    def table(self) -> Table:
        """The numbers as a ``rich`` table: how much the loss rises, and the first metric where there is one."""
        from rich.table import Table

        metric = next(iter(self.metrics), None)
        known = f"loss {self.loss:.4g}" + ("" if metric is None else f", {metric} {self.metrics[metric]:.4g}")
        made = Table(title=f"What each layer alone costs: rise of the loss ({self.module}: {known})")
        made.add_column("layer", overflow="fold")
        made.add_column("weights", justify="right")
        kinds = list(dict.fromkeys(one.change for one in self.costs))
        for kind in kinds:
            made.add_column(kind if metric is None else f"{kind} ({metric})", justify="right")
        for path in dict.fromkeys(one.path for one in self.costs):
            row = {one.change: one for one in self.costs if one.path == path}
            cells = [self._cell(row[kind], metric) if kind in row else "" for kind in kinds]
            made.add_row(path, f"{next(iter(row.values())).weights:,}", *cells)
        return made

    def _cell(self, one: LayerCost, metric: str | None) -> str:
        rise = f"{one.loss - self.loss:+.4f}"
        return rise if metric is None or metric not in one.metrics else f"{rise} ({one.metrics[metric]:.4g})"

    def __rich__(self) -> Table:
        return self.table()

    def show(self) -> None:
        """Print the table."""
        make_console(width=140).print(self.table())

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw how much the loss rises for every layer; needs matplotlib (the extra ``plot``).

        Args:
            path: Where the picture goes, ``.png``, ``.svg`` or ``.pdf``; None only returns it.
        """
        from matplotlib.figure import Figure

        layers = list(dict.fromkeys(one.path for one in self.costs))
        kinds = list(dict.fromkeys(one.change for one in self.costs))
        figure = Figure(figsize=(8, 1.2 + 0.26 * len(layers)), layout="constrained")
        axes = figure.subplots()
        for index, kind in enumerate(kinds):
            rows = [one for one in self.costs if one.change == kind]
            at = [layers.index(one.path) for one in rows]
            rises = [one.loss - self.loss for one in rows]
            axes.scatter(rises, at, color=f"C{index}", marker="os^Dv<>"[index % 7], s=24, label=kind, zorder=2)
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(f"rise of the loss over {self.loss:.4g}, with this layer alone changed")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8)
        if path is not None:
            figure.savefig(user_path(path, "path"), dpi=150)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON types, which :meth:`from_dict` reads."""
        return {"format": FORMAT, "version": 1, **asdict(self), "costs": [asdict(one) for one in self.costs]}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sensitivity:
        """The result that :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is something else.
        """
        return cls.from_dict(read_json(user_path(path, "path"), ValueError, "result of tern_lightning.sensitivity"))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Sensitivity:
        """The result that :meth:`to_dict` gave.

        Raises:
            ValueError: It is something else.
        """
        if value.get("format") != FORMAT or value.get("version") != 1:
            raise ValueError(f"value must have format {FORMAT!r} and version 1, got {value.get('format')!r}")
        with reading("the result of tern_lightning.sensitivity", ValueError):
            costs = tuple(LayerCost(**one) for one in value["costs"])
            return cls(str(value["module"]), float(value["loss"]), value["metrics"], costs, value["settings"])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON; returns its path.

        Raises:
            OutputError: It cannot be written.
        """
        return write_file(path, json.dumps(self.to_dict(), indent=1) + "\n")


@torch.no_grad()
@check_arguments(hint=rules_hint)
def sensitivity(
    module: nn.Module,
    data: Iterable[Any],
    method: str = "twn",
    zeros: Sequence[float] = (0.5, 0.8, 0.9),
    rules: Sequence[Rule] | None = None,
    options: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    batches: int | None = 8,
    batch_norm: bool = True,
    file: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Measure what it costs to make each layer of a trained network ternary, or to prune it, without training.

    One layer at a time, with all others as they are. Costs are those before any training: they say in which order
    layers suffer, not how much is left after training. All is done on a copy; the module stays as it is.

    Args:
        module: The trained network.
        data: Labeled batches, such as a DataLoader; those of training will do.
        method: Method by which layers become ternary.
        zeros: Shares of zeros to which each layer is pruned besides, by magnitude and without becoming ternary, each
            in (0, 1).
        rules: Which layers are looked at, by which method; None for all that are trained and can be ternary, the first
            and the last too.
        options: Options of ``method``.
        loss: Computes the loss of a batch, ``loss(module, batch)``, or the loss and a dictionary of metrics. None for a
            LightningModule, whose ``validation_step`` is run, and ``training_step`` where that gives no loss; the
            metrics are what it logs.
        batches: So many batches are used, the first ones; None for all.
        batch_norm: Estimate the running statistics of batch normalization anew for every change, on these batches.
        file: Keeps what is done as JSON; a later call with the same network and settings goes on there.
        progress: Show it.

    Returns:
        The result, which prints and plots itself.

    Raises:
        TypeError: ``rules`` or ``options`` are of a wrong type.
        ValueError: An argument is out of range, there is no batch, or no loss comes out.

    Example:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> x = torch.randn(64, 8)
        >>> y = net(x).detach()
        >>> found = sensitivity(net, [x], zeros=[0.5], loss=lambda net, x: (net(x) - y).square().mean(), progress=False)
        >>> [(one.path, one.change) for one in found.costs[:2]], found.loss, min(found.ternary().values()) > 0
        ([('0', 'twn'), ('0', '50% zeros')], 0.0, True)
    """
    shares = tuple(zeros)
    if any(not 0 < share < 1 for share in shares):
        raise ValueError(f"zeros must be shares in (0, 1), got {list(shares)}")
    if batches is not None and batches < 1:
        raise ValueError(f"batches must be at least 1, got {batches}")
    if isinstance(data, Tensor) or hasattr(data, "__array__"):
        raise TypeError("data must be batches, got one array; HINT: data=[(inputs, labels)]")
    chosen = (Rule("*", method, options=dict(options or {})),) if rules is None else tuple(rules)
    decisions = [one for one in resolve(module, chosen, method, dict(options or {})) if one.method is not None]
    found = [to_device(module, batch) for batch in islice(data, batches)]
    known = None if file is None else user_path(file, "file")
    return measure(module, decisions, found, shares, loss, batch_norm=batch_norm, file=known, progress=progress)


@torch.no_grad()
def measure(
    module: nn.Module,
    decisions: Sequence[Decision],
    batches: Sequence[Any],
    zeros: Sequence[float] = (),
    loss: Loss | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    batch_norm: bool = True,
    file: Path | None = None,
    progress: bool = True,
) -> Sensitivity:
    """:func:`sensitivity` of the layers in ``decisions``, on batches that are where the module is.

    Args:
        module: The network.
        decisions: Layers and their methods; of layers that share a weight only the first one is looked at.
        batches: Labeled batches.
        zeros: Shares of zeros.
        loss: See :func:`tern_lightning.evaluation.evaluate`.
        context: Around every batch.
        batch_norm: Estimate statistics anew.
        file: Where results are kept.
        progress: Show it.
    """
    twin = to_plain(module).eval()
    if getattr(module, "_trainer", None) is not None:
        twin._trainer = module._trainer  # steps may ask it; a copy has none
    changes = [(one, share) for one in _first_of_each_weight(decisions) for share in (None, *zeros)]
    anew = batch_norm and bool(with_statistics(twin))
    settings = {"batches": len(batches), "batch_norm": anew, "methods": named_methods(decisions)}

    def score() -> Score:
        if anew:
            with fresh_statistics(twin):
                evaluate(twin, batches, loss, context)
        return evaluate(twin, batches, loss, context)

    start = score()
    found = Sensitivity(type(module).__name__, start.loss, start.metrics, (), settings)
    known = _known(file, found)
    for one, share in _shown(changes, progress):
        cost = known.get((one.path, share)) or _changed(layer_at(twin, one.path), one, share, score)
        found = replace(found, costs=(*found.costs, cost))
        if file is not None and (one.path, share) not in known:
            found.save(file)
    return found


def _first_of_each_weight(decisions: Sequence[Decision]) -> list[Decision]:
    found: dict[int, Decision] = {}
    for one in decisions:
        found.setdefault(id(weight_of(one.module)), one)
    return list(found.values())


def _shown(changes: Sequence[Any], progress: bool) -> Iterable[Any]:
    from rich.progress import track

    console = make_console(stderr=True)
    return track(changes, "layer by layer", console=console, transient=True, disable=not progress)


def _known(file: Path | None, start: Sensitivity) -> dict[tuple[str, float | None], LayerCost]:
    """What a file has of the same network on the same batches with the same settings."""
    if file is None or not file.is_file():
        return {}
    old = Sensitivity.load(file)
    same = old.settings == start.settings and math.isclose(old.loss, start.loss, rel_tol=1e-6)
    return {(one.path, one.asked): one for one in old.costs} if same else {}


def _changed(layer: nn.Module, one: Decision, share: float | None, score: Callable[[], Score]) -> LayerCost:
    """The cost of one change of a layer, which gets its own weight back."""
    weight, bias = weight_of(layer), find_bias(layer)
    own, added = weight.detach().clone(), None if bias is None else bias.detach().clone()
    if share is None:
        assert one.method is not None
        quantizer, axis = get_quantizer(one.method, **one.options), channel_axis(layer)
        weight.copy_(quantizer.ternary(own.float(), axis).dequantize())
        if quantizer.uses_bias and bias is not None:
            bias.add_(quantizer.bias_shift(own.float(), axis).to(bias))
    else:
        weight.mul_(keep_largest([own.float()], share)[0])
    try:
        result = score()
        zeros = float((weight == 0).double().mean())
    finally:
        weight.copy_(own)
        if bias is not None and added is not None:
            bias.copy_(added)
    method = one.method if share is None else None
    return LayerCost(one.path, own.numel(), method, share, zeros, result.loss, result.metrics)
