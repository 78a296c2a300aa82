"""The few numbers that a run is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm_schedules.artifact import store
from tvm_schedules.backends.cpu.files import PROBE
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import TernError
from tvm_schedules.report.run import Run

NOT_ON_DEVICE = (store.MODEL, store.SAMPLES, PROBE)
"""Files of an artifact that a device does not need."""


@dataclass(frozen=True)
class Kept:
    """A budget that a run was trained with.

    Attributes:
        name: What it limits, such as ``host_ms``.
        limit: At most so much.
        estimate: What the network was estimated to take at the end of the last epoch.
        measured: What the compiled network takes, of times with one thread; None where that is not known, or not of
            the budget's target.
    """

    name: str
    limit: float
    estimate: float
    measured: float | None


@dataclass(frozen=True)
class Headline:
    """The few numbers that a run is judged by; None where a run does not say.

    Attributes:
        bytes: What a device has to store.
        float32_bytes: The same weights in float32.
        weight_bytes: The weights as stored.
        sparsity: Share of zeros in the ternary layers, in [0, 1].
        milliseconds: Median latency of our library, on the first machine with the first number of threads.
        faster: Times that other engines take longer there, by name.
        metric: The metric that says how good the network is, and its last value.
        budgets: Those that the run was trained with.
    """

    bytes: int | None
    float32_bytes: int | None
    weight_bytes: int | None
    sparsity: float | None
    milliseconds: float | None
    faster: dict[str, float]
    metric: tuple[str, float] | None
    budgets: tuple[Kept, ...] = ()


def headline(run: Run) -> Headline:
    """The headline of a run.

    Raises:
        TernError: What the run was read from is damaged.
    """
    with reading(f"what is known of {run.name}", TernError):
        found, stored = run.inspection, None
        weights, ternary = (found["totals"]["all"], found["totals"]["ternary"]) if found else ({}, {})
        if found:
            stored = sum(size for name, size in found["files"].items() if name not in NOT_ON_DEVICE)
        sparsity = ternary["sparsity"] if ternary.get("layers") else None
        if sparsity is None and run.training and run.training["epochs"]:
            sparsity = run.training["epochs"][-1]["values"].get("ternary/sparsity")
        engines = run.benches[0]["results"][0]["engines"] if run.benches else []
        ours = [_number(row["median_ms"]) for row in engines if row["name"] == "tern"]
        faster = {str(row["name"]): _number(row["ratio"]) for row in engines if row["name"] != "tern"}
        float32, own = _known(weights.get("float32_bytes")), _known(weights.get("bytes"))
        latency = ours[0] if ours else None
        target = found["details"].get("target", {}).get("name") if found and "details" in found else None
        times = {f"{name}_ms": value for bench in run.benches[:1] for name, value in _one_thread(bench).items()}
        kept = _budgets(run.training, {**times, f"{target}_bytes": _known(stored)})
        return Headline(_known(stored), float32, own, _known(sparsity), latency, faster, _metric(run.training), kept)


_BUDGET, _LIMIT = "budget/", "/limit"
"""What the names of logged estimates and limits begin and end with."""


def _budgets(training: dict[str, Any] | None, measured: dict[str, Any]) -> tuple[Kept, ...]:
    """Budgets of the last epoch, with what was measured of them."""
    values = training["epochs"][-1]["values"] if training and training["epochs"] else {}
    found = []
    for key, limit in values.items():
        name = key.removeprefix(_BUDGET).removesuffix(_LIMIT)
        if key == f"{_BUDGET}{name}{_LIMIT}" and limit is not None and values.get(f"{_BUDGET}{name}") is not None:
            numbers = (_number(limit), _number(values[f"{_BUDGET}{name}"]))
            found.append(Kept(name, *numbers, measured.get(name)))
    return tuple(found)


def _one_thread(bench: dict[str, Any]) -> dict[str, float]:
    """The median of our library with one thread by the name of its target, empty where that was not measured."""
    target = bench.get("artifact", {}).get("target")
    rows = [row for one in bench["results"] if one.get("threads") == 1 for row in one["engines"]]
    return {str(target): _number(row["median_ms"]) for row in rows if row["name"] == "tern" and target}


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} where a number is expected")
    return value


def _known(value: Any) -> Any:
    return None if value is None else _number(value)


_OURS = ("ternary/", _BUDGET)


def metrics(training: dict[str, Any] | None) -> list[str]:
    """Names of what a training logged besides what this package does, the likely measure of quality first."""
    names: dict[str, None] = {}
    for epoch in training["epochs"] if training else ():
        names.update(dict.fromkeys(name for name in dict(epoch["values"]) if not name.startswith(_OURS)))
    return sorted(names, key=lambda name: (not _says_quality(name), "train" in name, list(names).index(name)))


def _says_quality(name: str) -> bool:
    return any(part in name.lower() for part in ("acc", "f1", "auroc", "iou", "map", "bleu", "top1", "top5"))


def _metric(training: dict[str, Any] | None) -> tuple[str, float] | None:
    for name in metrics(training)[:1]:
        for epoch in reversed(training["epochs"] if training else []):
            if epoch["values"].get(name) is not None:
                return name, _number(epoch["values"][name])
    return None


def table(runs: Sequence[Run]) -> Any:
    """The headlines as a ``rich`` table."""
    from rich.table import Table

    made = Table(title=None)
    columns = ["run", "bytes", "weights", "zeros", "ms", "their time / ours", "metric"]
    columns += ["budgets"] if any(headline(run).budgets for run in runs) else []
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if 0 < index < 5 else "left", overflow="fold")
    for run in runs:
        line = headline(run)
        smaller = ""
        if line.float32_bytes and line.weight_bytes:
            smaller = f"{line.float32_bytes / line.weight_bytes:.1f} x smaller"
        made.add_row(
            run.name,
            "" if line.bytes is None else f"{line.bytes:,}",
            smaller,
            "" if line.sparsity is None else f"{line.sparsity:.1%}",
            "" if line.milliseconds is None else f"{line.milliseconds:.4g}",
            ", ".join(f"{name} {ratio:.2f} x" for name, ratio in line.faster.items()),
            "" if line.metric is None else f"{line.metric[0]} {line.metric[1]:.4g}",
            *([", ".join(map(_told, line.budgets))] if "budgets" in columns else []),
        )
    return made


def _told(one: Kept) -> str:
    """A budget in words.

    >>> _told(Kept("host_ms", 0.2, 0.1968, 0.2041)), _told(Kept("operations", 6000, 5990, None))
    ('host_ms 0.1968 estimated of 0.2, 0.2041 measured', 'operations 5990 estimated of 6000')
    """
    said = f"{one.name} {one.estimate:.4g} estimated of {one.limit:.4g}"
    return said if one.measured is None else f"{said}, {one.measured:.4g} measured"
