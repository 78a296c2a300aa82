"""What one change does, and which recipes nobody beats: the page "Which method?", from the files of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import wrap

from benchmarks.methods.report import REFERENCES, Row, check, paired, ranking, rows_of

DATA = "fashion-mnist"
FOLDERS = ("fashion-mnist-resnet20-s2", "bf16/fashion-mnist-resnet20-s2")
"""Results that the page is made of: trained in float32, and older ones in which layers computed in bfloat16."""


LONG = "12-epochs/fashion-mnist-resnet20-s2"
"""Results of recipes that had more epochs and the float network as a teacher, with a float network of as many."""
MARK = "*"
"""Behind the name of what comes from a later folder."""


@dataclass(frozen=True)
class Change:
    """Two recipes that differ in one thing.

    Attributes:
        question: What a reader asks.
        change: What is done, in words.
        name: The recipe with it.
        other: The recipe without it.
    """

    question: str
    change: str
    name: str
    other: str


TERMS = "What do two terms give?"
ENTROPY = "Prune, or make zeros worth their bits?"
LEVELS = "Does a method need a level for each sign?"
TEACHER = "Does a teacher help?"
GROUPS = "What does it cost to put zeros in groups, which a CPU can skip?"
INPUTS = "What do 8-bit inputs of layers cost?"
THRESHOLD = "Does TWN keep its threshold beside a pruning schedule?"
ENDS = "What are a float first and last layer worth?"
LONGER = "What does the float network gain by the epochs that a method has?"
CHANGES = (
    *(Change(TERMS, f"two terms at {z} % zeros", f"multilevel-2-{z}", f"twn-{z}") for z in (50, 80, 90, 95)),
    Change(TERMS, "two terms, zeros as they come", "multilevel-2", "twn"),
    *(
        Change(ENTROPY, f"{said} {s} for pruning to {z} %{words}", f"ec2t-{name}-{s}", f"twn-{z}{end}")
        for said, name in (("entropy constraint", "entropy"), ("one level and entropy constraint", "one-level"))
        for words, end in (("", ""), (", where the threshold stays", "-threshold"))
        for s, z in (("0.4", 80), ("0.6", 90))
    ),
    *(
        Change(
            LEVELS,
            f"one level for both, {where}entropy constraint {s}",
            f"ec2t-{n}one-level-{s}",
            f"ec2t-{n}entropy-{s}",
        )
        for n, where in (("", ""), ("2x1-", "2 output channels together, "), ("4x1-", "4 output channels together, "))
        for s in (("0.4", "0.6") if n else ("0.2", "0.4", "0.6", "0.9"))
    ),
    *(
        Change(TEACHER, f"weight {weight}, temperature {heat}, at 90 % zeros", f"twn-90-teacher-{name}", "twn-90")
        for name, weight, heat in (("0.3", 0.3, 2), ("0.5", 0.5, 2), ("0.7", 0.7, 2), ("1", 1, 2), ("0.5-4", 0.5, 4))
    ),
    *(
        Change(GROUPS, f"{size} output channels together, {z} % zeros", f"twn-{size}x1-{z}", f"twn-{z}")
        for size in (2, 4)
        for z in (50, 70, 80, 90, 95)
    ),
    *(
        Change(
            GROUPS,
            f"{n} output channels together, by an entropy constraint of {s}",
            f"ec2t-{n}x1-{name}",
            f"ec2t-{name}",
        )
        for n in (2, 4)
        for s in ("0.2", "0.4", "0.6", "0.9")
        for name in [f"entropy-{s}"]
    ),
    *(
        Change(
            GROUPS,
            f"{n} channels that are alike, not neighbors, {z} % pruned",
            f"twn-{n}x1-{z}-rearranged",
            f"twn-{n}x1-{z}-threshold",
        )
        for n in (2, 4)
        for z in (80,)
    ),
    *(
        Change(
            GROUPS,
            f"a penalty of {strength} on groups of 4 before they are pruned, {z} % zeros",
            f"twn-4x1-{z}-penalty-{strength}",
            f"twn-4x1-{z}-at-once",
        )
        for strength in ("0.03", "0.1", "0.3")
        for z in (80, 90)
    ),
    *(
        Change(GROUPS, f"groups of 4 pruned all at once, {z} % zeros", f"twn-4x1-{z}-at-once", f"twn-4x1-{z}")
        for z in (80, 90)
    ),
    *(
        Change(THRESHOLD, f"the threshold stays, {z} % pruned", f"twn-{z}-threshold", f"twn-{z}")
        for z in (50, 70, 80, 90, 95)
    ),
    *(
        one
        for n in (2, 4)
        for z in (50, 70, 80, 90, 95)
        for how, recipe in [(f"{n} channels together, {z} % pruned", f"twn-{n}x1-{z}")]
        for one in (
            Change(THRESHOLD, f"the threshold stays, {how}", f"{recipe}-threshold", recipe),
            Change(GROUPS, f"the threshold stays, {how}", f"{recipe}-threshold", f"twn-{z}-threshold"),
        )
    ),
    Change(INPUTS, "float network", "float-a8", "float-longer"),
    Change(INPUTS, "twn", "twn-a8", "twn"),
    Change(INPUTS, "twn at 90 % zeros", "twn-90-a8", "twn-90"),
    Change(INPUTS, "two terms at 90 % zeros", "multilevel-2-90-a8", "multilevel-2-90"),
    Change(ENDS, "both ternary", "twn-ends", "twn"),
    Change(LONGER, "float", "float-longer", "float"),
)
ABOUT = """\
ResNet-20 with a strided first layer on 28x28 images of ten kinds of clothes (60,000 to train on, 10,000 to test). A
float network is trained for {float_epochs} epochs, then goes on for {epochs} epochs with a recipe. Points are lost to
`{reference}`: the same network that goes on in float as long as the others do. Settings are those of the comparison on
[drawn characters](methods-aims.md): none was chosen by these test images. A row of one seed is a first look. Networks
marked with an asterisk were trained with layers in bfloat16, and lose points to a float network that was, too. All rows
are in [Methods](methods.md). `python -m benchmarks.methods --data fashion-mnist` repeats the runs and goes on where it
was stopped.

Names of recipes begin with the method. A number like 80 is the share of weights that a schedule prunes in percent, and
`4x1` says that four output channels share their zeros. `threshold` and "the threshold stays" mean that TWN's own
threshold makes zeros beside the schedule; without it the schedule alone makes them (`options={{"factor": 0.0}}`).
"""


def effect(change: Change, rows: Sequence[Row]) -> list[str] | None:
    """Cells of a change: what, points gained, the test, thousands of bytes more; None where a recipe is missing."""
    named = {row.name: row for row in rows}
    if change.name not in named or change.other not in named:
        return None
    own, other = named[change.name], named[change.other]
    both = [seed for seed in own.by_seed if seed in other.by_seed]
    if not both:
        return None
    gained = sum(other.by_seed[seed] - own.by_seed[seed] for seed in both) / len(both)
    better, worse = (own, other) if gained >= 0 else (other, own)
    size = "" if own.size is None or other.size is None else f"{(own.size - other.size) / 1e3:+.1f}"
    return [change.change, f"{gained:+.2f}", paired(better.by_seed, worse.by_seed), size]


def frontier(rows: Sequence[Row]) -> list[Row]:
    """Ternary networks than which no other one is smaller and loses less, by size."""
    ternary = [row for row in rows if row.sparsity is not None and row.size is not None]
    ordered = sorted(ternary, key=lambda row: (row.size or 0.0, row.lost))
    return [row for index, row in enumerate(ordered) if all(row.lost < one.lost for one in ordered[:index])]


def merged(groups: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of several folders; a recipe is taken from the first that has it, and marked if that is a later one."""
    rows = list(groups[0])
    for later in groups[1:]:
        known = {row.name.removesuffix(MARK) for row in rows}
        rows += [replace(row, name=row.name + MARK) for row in later if row.name not in known]
    return rows


def _first(change: Change, groups: Sequence[Sequence[Row]]) -> list[str] | None:
    """The cells of a change from the first folder that has both of its recipes."""
    for number, rows in enumerate(groups):
        cells = effect(change, rows)
        if cells is not None:
            return [cells[0] + MARK * (number > 0), *cells[1:]]
    return None


def _longer(folder: Path, epochs: int) -> Iterator[str]:
    """What recipes reach that are given more time, beside a float network that is given as much."""
    reference = REFERENCES[DATA]
    rows = rows_of(folder, (), reference)
    own = {row.name: row for row in rows}
    yield from ["", f"## What do {epochs} epochs and a teacher give?", ""]
    best, teacher = (own[name].accuracy for name in (reference, "float"))
    text = (
        f"Recipes have {epochs} epochs here, and points are lost to a float network that went on for as many: it has "
        f"{best:.2f} %. The teacher (`+kd`) is the float network that recipes start from, which has {teacher:.2f} %. "
        f"`python -m benchmarks.methods --data {DATA} --epochs {epochs} --distill` repeats the runs."
    )
    yield from wrap(text, 120, break_on_hyphens=False)
    yield from [
        "",
        "| recipe | seeds | accuracy, % | lost, points | zeros, % | stored, kB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.sparsity is not None:
            cells = [row.name, str(row.seeds), f"{row.accuracy:.2f}", f"{row.lost:.2f}", f"{100 * row.sparsity:.1f}"]
            yield "| " + " | ".join([*cells, f"{(row.size or 0) / 1e3:.1f}"]) + " |"
    yield ""
    yield from (line for line in check(rows, DATA) if "within" in line)


def page(folders: Sequence[Path], epochs: tuple[int, int], longer: tuple[Path, int] | None = None) -> Iterator[str]:
    """Lines of the page.

    Args:
        folders: Results of the comparison; where several have a recipe, the first counts.
        epochs: Of the float network and of a recipe.
        longer: Results of recipes with more epochs and a teacher, and how many epochs.
    """
    reference = REFERENCES[DATA]
    groups = [rows_of(folder, (), reference) for folder in folders]
    rows = merged(groups)
    yield "# Which method? Figures on Fashion-MNIST"
    yield ""
    yield from ABOUT.format(float_epochs=epochs[0], epochs=epochs[1], reference=reference).splitlines()
    for question in dict.fromkeys(change.question for change in CHANGES):
        found = [_first(change, groups) for change in CHANGES if change.question == question]
        measured = [row for row in found if row is not None]
        yield from ["", f"## {question}", ""]
        if not measured:
            yield "Not measured yet."
            continue
        yield "| change | points gained | test | kB more |"
        yield "|---|---:|---|---:|"
        yield from ("| " + " | ".join(row) + " |" for row in measured)
    yield from ["", "## Which recipe loses least?", ""]
    yield from ranking(rows) or ["Not measured yet."]
    yield from ["", "## Which are worth their bytes?", ""]
    yield "No other ternary network here is smaller and loses less than one of these."
    yield from ["", "| recipe | seeds | stored, kB | lost, points | zeros, % |", "|---|---:|---:|---:|---:|"]
    for row in frontier(rows):
        cells = [row.name, str(row.seeds), f"{(row.size or 0) / 1e3:.1f}", f"{row.lost:.2f}"]
        yield "| " + " | ".join([*cells, f"{100 * (row.sparsity or 0):.1f}"]) + " |"
    yield from ["", "## What was aimed at", ""]
    yield from check(rows, DATA)
    if longer is not None:
        yield from _longer(*longer)
    yield ""
