"""The page of accuracy over time: what structure gains beside networks whose single weights were pruned."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.methods.report import Row, interpolate

FLOAT, PEER = "float", "onnxruntime int8"
"""Rows of a measurement that are no recipe: the float network's library, and the int8 form in the other engine."""
SINGLE = "single weights"


@dataclass(frozen=True)
class Way:
    """One way to make zeros, of single weights and of blocks.

    Attributes:
        title: The way in words.
        unit: What numbers in the names of its recipes are.
        patterns: Names of recipes by what becomes zero together; single weights are what structure is compared with.
    """

    title: str
    unit: str
    patterns: Mapping[str, str]


WAYS = (
    Way(
        "pruning",
        "{} %",
        {
            SINGLE: "twn-[0-9][0-9]-threshold",
            "pairs": "twn-2x1-[0-9][0-9]-threshold",
            "fours": "twn-4x1-[0-9][0-9]-threshold",
        },
    ),
    Way(
        "entropy",
        "strength {}",
        {SINGLE: "ec2t-entropy-*", "pairs": "ec2t-2x1-entropy-*", "fours": "ec2t-4x1-entropy-*"},
    ),
    Way(
        "entropy with one level",
        "one level, strength {}",
        {SINGLE: "ec2t-one-level-*", "pairs": "ec2t-2x1-one-level-*", "fours": "ec2t-4x1-one-level-*"},
    ),
)
POINTS, TIME = 0.2, 0.15
"""What structure must gain somewhere to be recommended there: points at equal time, or a share of the time."""
CORES = {"a53": "Cortex-A53", "a72": "Cortex-A72", "a76": "Cortex-A76"}
KERNELS = ("patterns", "sparse", "panel", "straight", "narrow")
ABOUT = """\
ResNet-20 with a strided first layer on Fashion-MNIST: {float_epochs} epochs in float, then {epochs} with `twn` and a
pruning schedule. Weights are pruned one by one, or in blocks of two (`pairs`) or four (`fours`) output channels at one
position of the kernel. TWN's threshold makes further zeros, so there are more in all. Rows with a strength are networks
of `ec2t` with an entropy constraint, which decides about the same blocks; with `one level` both signs have the same,
which kernels add up in one list (`options={{"two_levels": False}}`). Points are lost to the float
network that goes on for as long{seeds}. Activations have 8 bits in the libraries.

Milliseconds are those of one thread of an {machine}, {when}, all networks in turns. There the float network takes
{float} ms in our library, and its int8 form {peer} ms in onnxruntime. Numbers of ARM cores are thousands of
cycles, which llvm-mca estimates from the instructions that QEMU counted: there are no caches in them. The command was
`{command}`.

"""
VERDICTS = """\
A structure is called worth it where it has {points} points more than single weights of the same method at equal time,
or takes {time:.0f} % less time at equal accuracy. Between two networks of single weights the curve is a straight line.
"""
BESIDE = """\
Here all networks of `ec2t` are compared with those of `twn` whose single weights were pruned, by the same measure.
"""


def costs(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Time of every recipe, by where: ``ms`` on the CPU that measured, and thousands of cycles by core."""
    rows = [row for row in data["rows"] if row["recipe"] not in (FLOAT, PEER)]
    places = {"ms": {row["recipe"]: float(row["ms"]) for row in rows}}
    for core in data["cores"]:
        places[core] = {row["recipe"]: row["counted"][core]["cycles"] for row in rows if core in row["counted"]}
    return places


def gains(
    rows: Sequence[Row], times: Mapping[str, float], way: Way = WAYS[0], base: Way | None = None
) -> list[tuple[Row, float | None, float | None]]:
    """What structure gains beside networks whose single weights became zero in the same way, or in another one.

    Args:
        rows: Recipes with their accuracy.
        times: Their times.
        way: How zeros are made.
        base: How they are made in the networks beside them; the same way by default.

    Returns:
        Of every recipe with structure, or of all of the way beside another one: its row, the points gained at equal
        time, and the share of time saved at equal accuracy; None where the curve of the others does not reach.
    """
    own = [(row, kind(row)) for row in rows if row.name in times]
    single = sorted((times[row.name], row.lost) for row, of in own if of == (base or way, SINGLE))
    curve = [point for point in single if all(point[1] < other[1] for other in single if other[0] < point[0])]
    made = []
    for row, of in own:
        if of is not None and of[0] == way and (base or of[1] != SINGLE):
            at = times[row.name]
            beside = interpolate(curve, at)
            slower = _time_at(curve, row.lost)
            points = None if beside is None else beside - row.lost
            made.append((row, points, None if slower is None else 1 - at / slower))
    return made


def _time_at(curve: Sequence[tuple[float, float]], lost: float) -> float | None:
    """Where a falling curve of (time, points lost) reaches so many points; None outside."""
    for (fast, much), (slow, little) in pairwise(curve):
        if little <= lost <= much:
            return slow if much == little else fast + (slow - fast) * (much - lost) / (much - little)
    return None


def page(data: Mapping[str, Any], rows: Sequence[Row], epochs: tuple[int, int]) -> Iterator[str]:
    """Lines of the page.

    Args:
        data: What ``python -m benchmarks.front --json`` wrote.
        rows: Recipes with their accuracy, against the float network of equal training.
        epochs: Of the float network and of a recipe.
    """
    places = costs(data)
    times = {row["recipe"]: float(row["ms"]) for row in data["rows"]}
    chosen = [row for row in rows if row.name in places["ms"] and kind(row)]
    yield "# Accuracy over time: is structure worth it?"
    yield ""
    yield from ABOUT.format(
        float_epochs=epochs[0], epochs=epochs[1], machine=data["machine"]["cpu"], when=data["when"],
        peer=f"{times[PEER]:.3f}", float=f"{times[FLOAT]:.3f}", command=data["command"],
        seeds=". A row of one seed is a first look" if min(row.seeds for row in chosen) < 2 else "",
    ).splitlines()  # fmt: skip
    yield "![Points lost over time on every core](../../benchmarks/measured/front.svg)"
    yield ""
    yield from _table(chosen, data, places)
    yield from ["", "## What structure gains", ""]
    yield from VERDICTS.format(points=POINTS, time=100 * TIME).splitlines()
    yield ""
    for place, own in places.items():
        where = "this CPU" if place == "ms" else CORES.get(place, place)
        for way in WAYS:
            if not any((of := kind(row)) and of[0] == way for row in chosen):
                continue
            found = gains(chosen, own, way)
            for name in list(way.patterns)[1:]:
                yield _verdict(f"{where}, {way.title}, {name}", [one for one in found if kind(one[0]) == (way, name)])
    yield from ["", "## What an entropy constraint gains beside pruning", ""]
    yield from BESIDE.splitlines()
    yield ""
    for place, own in places.items():
        where = "this CPU" if place == "ms" else CORES.get(place, place)
        for way in WAYS[1:]:
            if found := gains(chosen, own, way, WAYS[0]):
                yield _verdict(f"{where}, {way.title}", found)


def kind(row: Row) -> tuple[Way, str] | None:
    """How a recipe makes zeros, and of what at once; None where it is not of the page."""
    for way in WAYS:
        for what, pattern in way.patterns.items():
            if fnmatchcase(row.name, pattern):
                return way, what
    return None


def _amount(row: Row) -> str:
    """How much of it: percent of the weights that are pruned, or the strength of a constraint."""
    way, _ = kind(row) or (WAYS[0], "")
    return way.unit.format(row.name.removesuffix("-threshold").rpartition("-")[2])


def _table(rows: Sequence[Row], data: Mapping[str, Any], places: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    cores = [CORES.get(core, core) for core in data["cores"]]
    yield "| " + " | ".join(["zeros", "in all, %", "seeds", "points lost", "ms", *cores, "kernels"]) + " |"
    yield "|---|" + "---:|" * (4 + len(cores)) + "---|"
    used = {row["recipe"]: row["kernels"] for row in data["rows"]}
    for row in rows:
        spread = f" ± {statistics.stdev(row.by_seed.values()):.2f}" if row.seeds > 1 else ""
        layers = ", ".join(f"{n} {name}" for name, n in sorted(used[row.name].items()) if name in KERNELS)
        _, what = kind(row) or (None, "")
        cells = [f"{_amount(row)}, {what}", f"{100 * (row.sparsity or 0):.1f}", str(row.seeds)]
        cells += [f"{row.lost:.2f}{spread}", f"{places['ms'][row.name]:.4f}"]
        cells += [f"{places[core][row.name]:,.0f}" if row.name in places[core] else "" for core in data["cores"]]
        yield "| " + " | ".join([*cells, layers]) + " |"


def _verdict(where: str, found: Sequence[tuple[Row, float | None, float | None]]) -> str:
    points = [(value, row) for row, value, _ in found if value is not None]
    saved = [(value, row) for row, _, value in found if value is not None]
    if not points and not saved:
        return f"- {where}: not comparable, the curves do not overlap"
    said = []
    if points:
        best, row = max(points, key=lambda one: one[0])
        said.append(f"{best:+.2f} points at equal time ({_amount(row)})")
    if saved:
        best, row = max(saved, key=lambda one: one[0])
        said.append(f"{100 * best:+.0f} % of time saved at equal accuracy ({_amount(row)})")
    worth = any(value >= POINTS for value, _ in points) or any(value >= TIME for value, _ in saved)
    return f"- {where}: {'worth it' if worth else 'not worth it'}: at best {', '.join(said)}"


def plot(rows: Sequence[Row], data: Mapping[str, Any], path: Path) -> None:
    """Points lost over time, on every core."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "front"
    import matplotlib.pyplot as plt

    places = costs(data)
    figure, axes = plt.subplots(1, len(places), figsize=(3.4 * len(places), 3.6), sharey=True, layout="constrained")
    lines = dict(zip((SINGLE, "pairs", "fours"), (("o", "-"), ("s", "--"), ("^", ":")), strict=True))
    for axis, (place, times) in zip(np.atleast_1d(axes), places.items(), strict=True):
        for color, way in enumerate(WAYS):
            for what, (marker, line) in lines.items():
                points = sorted((times[r.name], r.lost) for r in rows if kind(r) == (way, what) and r.name in times)
                if points:
                    style = {"marker": marker, "markersize": 5, "linewidth": 1, "color": f"C{color}"}
                    axis.plot(*zip(*points, strict=True), line, label=f"{way.title}, {what}", **style)
        axis.set_xlabel("this CPU, ms" if place == "ms" else f"{place}, thousands of cycles")
        axis.grid(alpha=0.3)
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("points lost")
    first.invert_yaxis()
    first.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
