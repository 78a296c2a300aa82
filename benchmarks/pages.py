"""Writes the pages of ``docs/benchmarks`` that come from committed measurements: ``python -m benchmarks.pages``.

A page names the file that it was made of, the machine and the command that measures again. Nothing is copied by hand;
``--check`` says whether the pages are those of the files, which a test asks too.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arm_page, measured_pages
from benchmarks.budgets_page import budgets
from benchmarks.estimate_page import estimates
from benchmarks.front import page as front_page
from benchmarks.mcu.page import mcu
from benchmarks.methods import aims, answers
from benchmarks.methods.recipes import RECIPES
from benchmarks.methods.report import REFERENCES, rows_of
from benchmarks.zoo.page import zoo

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "methods" / "results"
AFTER = ROOT / "benchmarks" / "after_training_results"
ZOO = ROOT / "benchmarks" / "zoo"
ZOO_FILES = ("networks.json", "nodes.json")
NOTE = "<!-- Made by `python -m benchmarks.pages`. Change the measurement, not this page. -->"

NAMES = {
    "resnet20": "ResNet-20, 32x32",
    "resnet56": "ResNet-56, 32x32",
    "resnet18": "ResNet-18, 224x224",
    "mobilenetv2": "MobileNetV2, 224x224",
    "mlp": "MLP 784-1024-1024-10",
}
MACHINES = {"zen4": "AMD EPYC, Zen 4", "zen5": "AMD EPYC, Zen 5"}


ABOUT_CPUS = """\
Every number is the time of another engine divided by ours, so more is better for us and 1 is a draw. Numbers are
medians of interleaved rounds, batch 1, 8-bit activations. In brackets is the same of minima, which is what unshared
cores give. Weights are random, and the given share of them is zero. The first and the last layer are dense.
`tern-bench --suite --help` says how other engines are installed.
"""


ABOUT_METHODS = """\
Every recipe starts from the same trained float network of a seed and goes on for some epochs with its method. `-80`
means 80 % zeros by `PruningSchedule`, `-0.3` the strength of the entropy constraint, `+kd` distillation from the float
network. `stored` counts ternary codes as exported libraries keep them, and all other parameters as float32. Every run
is a JSON file beside its table. `python -m benchmarks.methods` repeats them, and goes on where it was stopped.
"""


ABOUT_AFTER = """\
A trained float network is made ternary by `tern_lightning.post_training`, from 512 training images without labels:
the first and the last layer stay float, activations too. "Rounded" is what the method does, with batch normalization
estimated anew, "fitted" chooses codes and levels on the outputs. In brackets is the share of zeros in the ternary
layers. The [guide](../guides/post-training.md) says how it works.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table whose first column is text and whose others are numbers."""
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _order(case: str) -> tuple[int, str]:
    """Networks in the order of :data:`NAMES`, then everything else."""
    name = case.split("/")[0]
    return (list(NAMES).index(name) if name in NAMES else len(NAMES)), case


def cpu(baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """The page about CPUs.

    Args:
        baselines: What ``tern-bench --suite --write-baseline`` wrote, by the key of its machine.

    Returns:
        The page's text.
    """
    lines = [NOTE, "", "# CPUs: against other engines", ""]
    lines += [*ABOUT_CPUS.splitlines(), ""]
    for key, data in baselines.items():
        machine = data["machine"]
        when = sorted(entry["when"][:10] for entry in data["entries"].values())
        lines += [f"## {MACHINES.get(key, key)}", ""]
        lines += [
            f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}, measured {when[0]}"
            + (f" to {when[-1]}" if when[-1] != when[0] else "")
            + f". Measure again and compare: `tern-bench --suite --compare benchmarks/baseline-{key}.json`.",
            "",
        ]
        cases = sorted(data["entries"], key=_order)
        for case in cases:
            name, threads = case.split("/")
            ratios = data["entries"][case]["ratios"]
            peers = sorted({peer for row in ratios.values() for peer in row["peers"] if "fp32" not in peer})
            rows = []
            for ours, row in ratios.items():
                best = row["peers"][row["best"]] if row["best"] else None
                cells = [f"{best['ratio']:.2f} ({best['of_min']:.2f}) {row['best']}" if best else "none"]
                cells += [f"{row['peers'][p]['ratio']:.2f}" if p in row["peers"] else "" for p in peers]
                rows.append([ours, *cells])
            lines += [f"**{NAMES.get(name, name)}**, {threads} thread{'s' if threads != '1' else ''}", ""]
            lines += [*table(["ours", "the best other engine", *peers], rows), ""]
    return "\n".join(lines)


def methods(folders: Sequence[Path]) -> str:
    """The page about methods.

    Args:
        folders: Results of the comparison, each with ``table.md`` and ``plot.svg``.

    Returns:
        The page's text.
    """
    lines = [NOTE, "", "# Methods: accuracy, zeros and bytes", ""]
    lines += [*ABOUT_METHODS.splitlines(), ""]
    for folder in folders:
        name = folder.relative_to(RESULTS).as_posix()
        link = f"../../{folder.relative_to(ROOT).as_posix()}"
        lines += [f"## {name}", "", f"![accuracy over stored bytes]({link}/plot.svg)", ""]
        lines += [*textwrap.wrap(_trained(folder), 120), ""]
        lines += [(folder / "table.md").read_text().strip(), ""]
    return "\n".join(lines)


def _trained(folder: Path) -> str:
    """When and where the networks of a comparison were trained, and by what."""
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*/*.json"))]
    days, cpus = (sorted({run[key] for run in runs if key in run}) for key in ("when", "cpu"))
    dated = sum("when" in run for run in runs)
    data = json.loads((folder / "summary.json").read_text())["data"]
    said = f"{len(runs)} runs of `python -m benchmarks.methods --data {data}`"
    if not days:
        return f"{said}, which kept no date and no machine."
    rest = "" if dated == len(runs) else "; the others kept no date"
    return f"{said}, {dated} of them from {days[0]} to {days[-1]} on {' and '.join(cpus)}{rest}."


def which(folders: Sequence[Path]) -> str:
    """The page about one change at a time.

    Args:
        folders: Results of the comparison on Fashion-MNIST; the first that has a recipe counts.

    Returns:
        The page's text.
    """
    plan, more = (_plan(folder) for folder in (folders[0], RESULTS / answers.LONG))
    longer = (RESULTS / answers.LONG, more["epochs"])
    return "\n".join([NOTE, "", *answers.page(folders, (plan["float_epochs"], plan["epochs"]), longer)])


def _plan(folder: Path) -> dict[str, Any]:
    """How the networks of a comparison were trained."""
    plan: dict[str, Any] = json.loads((folder / "seed-0" / "float-longer.json").read_text())["plan"]
    return plan


def front(data: Mapping[str, Any]) -> Iterator[str]:
    """The page of accuracy over time, see :func:`benchmarks.front.page.page`."""
    folder = RESULTS / answers.FOLDERS[0]
    plan = _plan(folder)
    rows = rows_of(folder, [recipe.name for recipe in RECIPES], REFERENCES[answers.DATA])
    return front_page.page(data, rows, (plan["float_epochs"], plan["epochs"]))


def after_training(files: Sequence[Path]) -> str:
    """The page about ternary weights without training.

    Args:
        files: What ``python -m benchmarks.after_training --write`` wrote.

    Returns:
        The page's text.
    """
    lines = [NOTE, "", "# Without training: accuracy", "", *ABOUT_AFTER.splitlines(), ""]
    for path in files:
        data = json.loads(path.read_text())
        first = [row for row in data["rows"] if row["seed"] == data["rows"][0]["seed"]]
        ways = list(dict.fromkeys(row["how"] for row in first))
        accuracy = sum(data["float"]) / len(data["float"])
        seeds = f"{len(data['float'])} seed{'s' if len(data['float']) > 1 else ''}"
        where = f"on {data.get('images', 'test images')}. {data['machine']}, {data['when']}"
        lines += [f"## {path.stem}", "", f"Float: {accuracy:.2%}, {seeds}, {where}.", ""]
        lines += [f"`{data['command']}` measures it again.", ""]
        rows = []
        for share in dict.fromkeys(row["asked"] for row in first):
            cells = ["the method's" if share is None else f"{share:.0%}"]
            for how in ways:
                found = [row for row in data["rows"] if (row["asked"], row["how"]) == (share, how)]
                means = [sum(row[key] for row in found) / len(found) for key in ("accuracy", "zeros")]
                cells.append(f"{means[0]:.2%} ({means[1]:.0%})")
            rows.append(cells)
        lines += [*table(["zeros asked", *ways], rows), ""]
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Every page with its text."""
    files = {path.stem.split("-")[-1]: path for path in sorted((ROOT / "benchmarks").glob("baseline-*.json"))}
    folders = sorted(path.parent for path in RESULTS.rglob("table.md"))
    baselines = {key: json.loads(path.read_text()) for key, path in files.items()}
    read = measured_pages.read
    measured = {
        "digits": (
            ("digits.json", "digits-sparse.json"),
            measured_pages.digits([read("digits"), read("digits-sparse")]),
        ),
        "verification": (("verification.json",), measured_pages.verification(read("verification"))),
        "shared-zeros": (("shared-zeros.json",), measured_pages.shared_zeros(read("shared-zeros"))),
        "arm": (
            ("arm.json", "arm-peers.json", "arm-32.json"),
            arm_page.page(read("arm"), read("arm-peers"), read("arm-32")),
        ),
        "mcu": (
            ("mcu.json", "../mcu/cmsis_nn.json"),
            mcu(read("mcu")),
        ),
        "estimate": (("estimate.json", "mcu-estimates.json"), estimates(read("estimate"))),
        "budgets": (("budgets.json", "budgets-loose.json"), budgets(read("budgets"), read("budgets-loose"))),
        "front": (("front.json",), list(front(read("front")))),
        "training-step": (("training-step.json",), measured_pages.training_step(read("training-step"))),
        "milliseconds": (
            ("milliseconds.json", "../baseline-zen5.json"),
            measured_pages.milliseconds(read("milliseconds"), baselines["zen5"]),
        ),
    }
    return {
        PAGES / "cpu.md": cpu(baselines),
        PAGES / "methods.md": methods(folders),
        PAGES / "zoo.md": f"{NOTE}\n\n{zoo(*(json.loads((ZOO / name).read_text()) for name in ZOO_FILES))}\n",
        PAGES / "methods-aims.md": "\n".join([NOTE, "", *aims.page(RESULTS)]) + "\n",
        PAGES / "which.md": which([RESULTS / name for name in answers.FOLDERS]),
        **{PAGES / f"{name}.md": _measured(*made) for name, made in measured.items()},
        PAGES / "after-training.md": after_training(sorted(AFTER.glob("*.json"))),
    }


def _measured(sources: Sequence[str], lines: Sequence[str]) -> str:
    """A page, and the files that it was made of."""
    links = " and ".join(f"[{name.split('/')[-1]}](../../benchmarks/measured/{name})" for name in sources)
    text = "\n".join([NOTE, "", *lines]).rstrip("\n")
    return f"{text}\n\nMade of {links}.\n".replace("measured/../", "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or check them; 1 where they are not those of the measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=str(__doc__).splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say which pages are out of date")
    options = parser.parse_args(arguments)
    return measured_pages.update(pages(), ROOT, options.check)


if __name__ == "__main__":
    sys.exit(main())
