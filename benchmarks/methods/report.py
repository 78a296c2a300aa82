"""Table, plot and aims of a comparison, from the JSON files of its runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

from tvm_schedules.common.files import write_file

AIMS: dict[str, dict[float, float]] = {
    "digits": {0.0: 0.5, 0.95: 0.5, 0.98: 1.5},
    "glyphs": {0.8: 0.5, 0.9: 1.0, 0.95: 2.0},
    "fashion-mnist": {0.5: 0.2, 0.8: 0.3, 0.9: 0.6, 0.95: 1.2},
}
"""Points that a network may lose against float, by its share of zeros. On digits every recipe of that share is meant
(0: its own one), elsewhere the best of at least that share."""
REFERENCES = {"fashion-mnist": "float-longer"}
"""What points are lost to, where it is not the float network that recipes start from: one that is trained as long."""
BANDS = {
    "below 70% zeros": (0.0, 0.7),
    "at about 80% zeros": (0.76, 0.85),
    "at about 90% zeros": (0.87, 0.93),
    "at about 95% zeros": (0.94, 0.97),
}
"""Shares of zeros within which recipes are ranked."""
NEARLY = 0.005
"""Scheduled zeros are a whole number of weights, and count as reached if so little is missing."""
DEEPEST = 15.0
"""Points below float down to which rows are drawn."""
DISTILLED = ", distilled"
PLAIN_TWN = ("twn", "twn-[0-9][0-9]", "twn-factor-*")
AGAINST_TWN = (
    ("several levels", "multilevel-2*", False, False),
    ("entropy-constrained", "ec2t-entropy*", False, False),
    ("entropy-constrained with one level", "ec2t-one-level*", False, False),
    ("distilled", "*", True, False),
    ("several levels", "multilevel-2*", True, True),
    ("entropy-constrained", "ec2t-entropy*", True, True),
)
"""What is compared with plain TWN: its name, the recipes, whether those are distilled, whether TWN is."""


@dataclass(frozen=True)
class Row:
    """One recipe over its seeds.

    Attributes:
        name: Of the recipe, with ``+kd`` where it was distilled.
        zeros: The scheduled share of zeros; None for the method's own.
        seeds: How many runs.
        accuracy: Mean, in per cent.
        spread: Standard deviation over the seeds, in points; None for one seed.
        lost: Mean of float minus this network, seed by seed, in points.
        sparsity: Mean share of zeros in the ternary layers; None for float.
        entropy: Bits a weight; None for float.
        size: Bytes of the whole network, over the runs that say; None where none does.
        operations: Additions and multiplications for one image.
        by_seed: The points lost, by seed.
    """

    name: str
    zeros: float | None
    seeds: int
    accuracy: float
    spread: float | None
    lost: float
    sparsity: float | None
    entropy: float | None
    size: float | None
    operations: float
    by_seed: dict[int, float] = field(default_factory=dict)


def rows_of(folder: Path, order: Sequence[str], reference: str = "float") -> list[Row]:
    """Read ``seed-*/*.json`` below a folder; the float network comes first, recipes follow in ``order``.

    Args:
        folder: Of the results.
        order: Names of recipes.
        reference: What points are lost to; seeds for which there is none are left out.

    Raises:
        FileNotFoundError: There is no such network.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("seed-*/*.json")):
        found = json.loads(path.read_text())
        runs.setdefault(path.stem, []).append(found)
    if "float" not in runs or reference not in runs:
        raise FileNotFoundError(f"{folder} has no seed-*/float.json and {reference}.json: nothing was trained yet")
    floats = {run["seed"]: run["accuracy"] for run in runs[reference]}
    places = {name: place for place, name in enumerate(["float", *order])}
    names = sorted(runs, key=lambda name: (places.get(name.removesuffix("+kd"), len(places)), name))
    kept = {name: [run for run in runs[name] if run["seed"] in floats] for name in names}
    return [_row(name, own, floats) for name, own in kept.items() if own]


def _row(name: str, runs: list[dict[str, Any]], floats: dict[int, float]) -> Row:
    def mean(key: str) -> float | None:
        said = [run[key] for run in runs if key in run]
        return statistics.fmean(said) if said else None

    reached = [100 * run["accuracy"] for run in runs]
    lost = {run["seed"]: 100 * (floats[run["seed"]] - run["accuracy"]) for run in runs}
    return Row(
        name,
        runs[0].get("zeros"),
        len(runs),
        statistics.fmean(reached),
        statistics.stdev(reached) if len(runs) > 1 else None,
        statistics.fmean(lost.values()),
        mean("sparsity"),
        mean("entropy"),
        mean("bytes"),
        statistics.fmean(run["adds"] + run["multiplies"] for run in runs),
        lost,
    )


def table(rows: Sequence[Row], reference: str = "float") -> str:
    """The rows in Markdown, with the points that they lose to a reference."""
    lost = f"lost to {reference}, points"
    lines = [
        f"| recipe | seeds | accuracy, % | {lost} | zeros, % | entropy, bits | stored, kB | Mops |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        zeros = "" if row.sparsity is None else f"{100 * row.sparsity:.1f}"
        bits = "" if row.entropy is None else f"{row.entropy:.2f}"
        lost = "" if row.name == reference else f"{row.lost:.2f}"
        cells = [row.name, str(row.seeds), f"{row.accuracy:.2f}{spread}", lost, zeros, bits]
        size = "" if row.size is None else f"{row.size / 1e3:.1f}"
        lines.append("| " + " | ".join([*cells, size, f"{row.operations / 1e6:.2f}"]) + " |")
    return "\n".join(lines)


def check(rows: Sequence[Row], data: str) -> list[str]:
    """A line for every aim of a data set: reached, missed or not measured, with the figures."""
    ternary = [row for row in rows if row.sparsity is not None]
    lines = []
    for zeros, allowed in AIMS.get(data, {}).items():
        if data == "digits":
            meant = [row for row in ternary if (row.zeros or 0.0) == zeros]
            worst = max(meant, key=lambda row: row.lost, default=None)
            what = f"every recipe at {zeros:.0%} zeros" if zeros else "every recipe at its own zeros"
            lines.append(_verdict(f"{what} within {allowed} points of float", worst, allowed))
            for row in meant:
                if row is not worst and row.lost > allowed:
                    lines.append(f"- missed, too: {row.name} loses {row.lost:.2f}")
        else:
            meant = [row for row in ternary if row.sparsity is not None and row.sparsity >= zeros - NEARLY]
            best = min(meant, key=lambda row: row.lost, default=None)
            lines.append(_verdict(f"the best at {zeros:.0%} zeros within {allowed} points of float", best, allowed))
    return lines + ([] if data == "digits" else _against_twn(ternary))


def ranking(rows: Sequence[Row]) -> list[str]:
    """A line for every band of zeros: the recipe that loses least, and the next, with a paired test of the two.

    The test is Student's for the differences seed by seed, two-sided; only recipes of most seeds are ranked.
    """
    lines = []
    for band, (low, high) in BANDS.items():
        inside = [row for row in rows if row.sparsity is not None and low <= row.sparsity < high]
        most = max((row.seeds for row in inside), default=0)
        ranked = sorted((row for row in inside if row.seeds == most), key=lambda row: row.lost)
        if len(ranked) < 2:
            continue
        first, second = ranked[:2]
        text = f"- {band} {first.name} loses least ({first.lost:.2f}), {second.name} is next ({second.lost:.2f})"
        lines.append(f"{text}; {paired(first.by_seed, second.by_seed)}")
    return lines


def paired(better: Mapping[int, float], worse: Mapping[int, float]) -> str:
    """Student's test of the differences seed by seed, in words."""
    differences = [worse[seed] - better[seed] for seed in better if seed in worse]
    if len(differences) < 2:
        return "one seed says nothing about the order"
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    if spread == 0:
        return f"the same difference in all {len(differences)} seeds"
    from scipy.stats import t  # type: ignore[import-untyped]  # comes with scikit-learn, which the examples need

    probability = 2 * float(t.sf(abs(mean) * len(differences) ** 0.5 / spread, len(differences) - 1))
    return f"difference {mean:.2f} ± {spread:.2f} over {len(differences)} seeds, p = {probability:.3f}"


def _verdict(what: str, row: Row | None, allowed: float) -> str:
    if row is None:
        return f"- not measured: {what}"
    return f"- {'reached' if row.lost <= allowed else 'missed'}: {what}: {row.name} loses {row.lost:.2f}"


def _against_twn(rows: Sequence[Row]) -> list[str]:
    """Compare every kind of recipe with plain TWN at equal stored bytes, by the points that they lose to float.

    Not by accuracy, because a row may be of fewer seeds than another.
    """
    lines = []
    for what, pattern, distilled, distilled_twn in AGAINST_TWN:
        curve = _twn_curve(rows, distilled_twn)
        gains = []
        for row in _of_kind(rows, pattern, distilled):
            if row.size is None:
                continue
            smaller = bool(curve) and row.size < curve[0][0]
            reference = curve[0][1] if smaller else interpolate(curve, row.size)
            # Whoever is better than a larger network is so at equal size, too; whoever is worse may not be.
            if reference is not None and not (smaller and row.lost >= reference):
                gains.append((reference - row.lost, row))
        what += f" better than {'distilled' if distilled_twn else 'plain'} TWN at equal stored bytes"
        if not gains:
            lines.append(f"- not measured: {what}")
            continue
        better = sum(gain > 0 for gain, _ in gains)
        word = "reached" if better == len(gains) else f"reached by {better} of {len(gains)}" if better else "missed"
        lines.append(f"- {word}: {what}: " + ", ".join(f"{row.name} {gain:+.2f}" for gain, row in gains))
    return lines


def _twn_curve(rows: Sequence[Row], distilled: bool) -> list[tuple[float, float]]:
    """Sorted points (bytes, points lost) of plain TWN."""
    plain = [row for pattern in PLAIN_TWN for row in _of_kind(rows, pattern, distilled)]
    points = sorted({(row.size, row.lost) for row in plain if row.size is not None})
    # A larger network that is worse says nothing about the method: the best of at most that size counts.
    return [point for point in points if all(point[1] <= other[1] for other in points if other[0] <= point[0])]


def _of_kind(rows: Sequence[Row], pattern: str, distilled: bool) -> list[Row]:
    names = [(row.name.removesuffix("+kd"), row.name.endswith("+kd") or "-teacher-" in row.name) for row in rows]
    return [row for row, (name, kd) in zip(rows, names, strict=True) if fnmatchcase(name, pattern) and kd == distilled]


def interpolate(curve: Sequence[tuple[float, float]], at: float) -> float | None:
    """The value of a curve of sorted points at a place between the first and the last; None outside."""
    for (left, low), (right, high) in pairwise([*curve, *curve[-1:]]):
        if left <= at <= right:
            return high if right == left else low + (high - low) * (at - left) / (right - left)
    return None


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against zeros, entropy, stored bytes and operations, as SVG or PNG by the name's ending.

    What is more than ``DEEPEST`` points below float is not drawn.
    """
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "compare"  # the same rows give the same file
    from matplotlib import pyplot

    baseline = next(row for row in rows if row.name == "float")
    ternary = [row for row in rows if row.sparsity is not None]
    axes_of = {
        "zeros, %": lambda row: 100 * row.sparsity,
        "entropy, bits a weight": lambda row: row.entropy,
        "stored, kB": lambda row: None if row.size is None else row.size / 1e3,
        "operations, millions": lambda row: row.operations / 1e6,
    }
    figure, axes = pyplot.subplots(1, 4, figsize=(14, 4.2), sharey=True, layout="constrained")
    for axis, (label, value) in zip(axes, axes_of.items(), strict=True):
        for name, (color, marker, members) in _kinds(ternary).items():
            places = [(value(row), row.accuracy) for row in members]
            points = [(at, reached) for at, reached in places if at is not None]
            if points:
                faces = "none" if name.endswith(DISTILLED) else color
                axis.scatter(
                    *zip(*points, strict=True), s=30, marker=marker, facecolors=faces, edgecolors=color, label=name
                )
        axis.axhline(baseline.accuracy, color="black", linewidth=1, label="float")
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("accuracy, %")
    lowest = min(row.accuracy for row in ternary) if ternary else baseline.accuracy
    axes[0].set_ylim(max(lowest - 0.5, baseline.accuracy - DEEPEST), None)
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _kinds(rows: Sequence[Row]) -> dict[str, tuple[str, str, list[Row]]]:
    """Rows by what is drawn alike: color, marker, rows. Distilled ones are drawn open."""
    looks = {
        "one level, own zeros": ("tab:blue", "o"),
        "one level, pruned": ("tab:orange", "s"),
        "several levels": ("tab:green", "^"),
        "EC2T": ("tab:red", "D"),
    }
    kinds: dict[str, tuple[str, str, list[Row]]] = {
        name + suffix: (*look, []) for suffix in ("", DISTILLED) for name, look in looks.items()
    }
    for row in rows:
        several = "-2" in row.name and not row.name.startswith("twn")
        if row.name.startswith("ec2t"):
            name = "EC2T"
        else:
            name = "several levels" if several else "one level, own zeros" if row.zeros is None else "one level, pruned"
        kinds[name + DISTILLED * row.name.endswith("+kd")][2].append(row)
    return kinds


def report(folder: Path, data: str, order: Sequence[str]) -> None:
    """Write ``summary.json``, ``table.md`` and ``plot.svg`` into a folder, and print table and aims."""
    reference = REFERENCES.get(data, "float")
    rows = rows_of(folder, order, reference)
    lines = check(rows, data) + ([] if data == "digits" else ranking(rows))
    text = table(rows, reference) + "\n\n" + "\n".join(lines) + "\n"
    summary = {"data": data, "rows": [{k: _short(v) for k, v in vars(row).items() if k != "by_seed"} for row in rows]}
    for name, content in (("table.md", text), ("summary.json", json.dumps(summary, indent=1) + "\n")):
        write_file(folder / name, content)
    plot(rows, folder / "plot.svg")
    print(text)


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
