"""``LatencyBudget`` beside uniform sparsity at the same latency: ``python -m benchmarks.budgets``.

Every float network is made ternary five times for each budget: with the same share of zeros in every layer; with zeros
where the budget puts them; with a budget that also chooses how many output channels of a layer lose weights together;
with one that also lets layers stay float; and by EC2T with one level, with a budget that finds the strengths of its
entropy constraint. The budget is what the uniform network is estimated to take. Everything else is the same::

    python -m benchmarks.budgets --data fashion-mnist --data-dir DIR --precision 32-true --images 20000
    python -m benchmarks.budgets --data fashion-mnist --data-dir DIR --precision 32-true --images 20000 --write

Every run leaves a JSON file, and a later call skips it. ``--write`` measures the exported networks with one thread in
turns, and writes ``benchmarks/measured/budgets.json`` and a plot beside it, ``--write FILE`` another file.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import tvm_schedules
from benchmarks.latency import measure, quickest
from benchmarks.methods.__main__ import PLANS, Comparison, load_data
from benchmarks.methods.__main__ import parser as methods_parser
from benchmarks.methods.recipes import Recipe
from benchmarks.methods.training import accuracy
from tern_lightning import LatencyBudget, PruningSchedule, Schedule
from tvm_schedules.bench.machines import ThisMachine
from tvm_schedules.cli.common import words
from tvm_schedules.common.files import user_path, write_file
from tvm_schedules.estimate.estimate import estimate

RESULT = Path(__file__).with_name("measured") / "budgets.json"
ZEROS = "80,90,95"
"""Percentages of zeros of the uniform networks, whose latencies are the budgets."""
TARGET = "host"
EVERY = 10
"""Optimizer steps from one choice of zeros to the next."""
GROUPS = (1, 2, 4)
"""Numbers of output channels that the third way chooses from."""
LEVELS = 1
"""Trained levels of EC2T."""
WAYS = ("uniform", "budget", "grouped", "float", "entropy")
_STEERED: dict[str, dict[str, Any]] = {
    "budget": {}, "grouped": {"groups": GROUPS}, "float": {"allow_float": True}, "entropy": {"by": "entropy"},
}  # fmt: skip
"""What a budget may choose, by way."""
SECONDS = 0.3
"""For a network in a round."""


def uniform(zeros: float) -> Recipe:
    """The same share of zeros in every layer."""

    def extras() -> list[Any]:
        return [PruningSchedule(zeros, "layer", Schedule("cubic", end=0.5), every=EVERY)]

    return Recipe(f"uniform-{100 * zeros:g}", "twn", {"factor": 0.0}, extras=extras)


def budget(how: str, milliseconds: float, shape: Sequence[int]) -> Recipe:
    """As many milliseconds; the rest is that of :func:`uniform`, but that EC2T trains its level."""

    def extras() -> list[Any]:
        own = {"schedule": Schedule("cubic", end=0.5), "every": EVERY, **_STEERED[how]}
        return [LatencyBudget(TARGET, milliseconds, input_shape=tuple(shape), **own)]

    name = f"{how}-{1e3 * milliseconds:.1f}-us"
    if how == "entropy":
        return Recipe(name, "ec2t", {"two_levels": LEVELS == 2}, extras=extras)
    return Recipe(name, "twn", {"factor": 0.0}, extras=extras)


def float_layers(path: Path) -> int:
    """Convolutions and linear layers of an exported network whose weights are not ternary."""
    import onnx

    graph = onnx.load(path).graph
    ternary = [one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT2]
    layers = sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in graph.node)
    return layers - len({name.rpartition(".weight")[0] for name in ternary})


def percentages(text: str) -> list[str]:
    """The type of an argument that takes percentages of zeros.

    >>> percentages("50,80")
    ['50', '80']
    """
    found = words(text)
    if not found or not all(one.replace(".", "", 1).isdigit() and 0 < float(one) < 100 for one in found):
        raise argparse.ArgumentTypeError(f"percentages above 0 and below 100, got {text!r}")
    return found


def trained(comparison: Comparison, seed: int, zeros: float) -> list[dict[str, Any]]:
    """The networks of a seed and a budget, trained or found: a row each, with the folder of ``model.onnx``."""
    shape = (1, *comparison.data.train[0].shape[1:])
    rows: list[dict[str, Any]] = []
    for how in WAYS:
        recipe = uniform(zeros) if how == "uniform" else budget(how, rows[0]["estimate_ms"], shape)
        found = comparison.run(recipe, seed, False)
        network = comparison.output / f"seed-{seed}" / recipe.name
        (said,) = estimate(network / "model.onnx", [TARGET])
        if said.seconds is None:
            raise SystemExit(f"nothing is known about times: {said.source}")
        row = {
            "seed": seed,
            "zeros": zeros,
            "how": how,
            **{key: found[key] for key in ("accuracy", "sparsity", "adds")},
        }
        row |= {"estimate_ms": 1e3 * said.seconds, "network": str(network)}
        row["layers"] = {step.name: step.zeros for step in said.steps if step.zeros is not None}
        row["float_layers"] = float_layers(network / "model.onnx")
        rows.append(row)
        print(
            f"seed {seed}, {how}, {zeros:.0%}: {row['accuracy']:.2%}, {row['sparsity']:.1%} zeros, "
            f"{row['estimate_ms']:.4f} ms",
            flush=True,
        )
    return rows


def measured(rows: Sequence[dict[str, Any]], rounds: int) -> None:
    """Compiles and measures every network; adds ``measured_ms``."""
    artifacts = []
    for row in rows:
        network = Path(row.pop("network"))
        artifacts.append(network / "artifact")
        if not artifacts[-1].is_dir():
            tvm_schedules.build(network / "model.onnx", artifacts[-1], TARGET, verify=False)
    for row, times in zip(rows, measure(artifacts, rounds, SECONDS), strict=True):
        row["measured_ms"] = quickest(times)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy over measured latency, a point a network, and means as lines."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "budgets"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for how, marker in zip(WAYS, "os^vd", strict=True):
        own = [row for row in rows if row["how"] == how]
        if not own:
            continue
        points = axes.plot([r["measured_ms"] for r in own], [100 * r["accuracy"] for r in own], marker, markersize=4)
        shares = sorted({row["zeros"] for row in own})
        groups = [[row for row in own if row["zeros"] == zeros] for zeros in shares]
        means = [[sum(r[key] for r in one) / len(one) for key in ("measured_ms", "accuracy")] for one in groups]
        axes.plot([x for x, _ in means], [100 * y for _, y in means], color=points[0].get_color(), label=how)
    axes.set(xlabel="measured, ms", ylabel="accuracy, %")
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _about(options: argparse.Namespace, comparison: Comparison) -> dict[str, Any]:
    """What a result depends on, and the command that repeats it."""
    command = f"python -m benchmarks.budgets --data {options.data} --data-dir DIR --seeds {options.seeds}"
    for name in ("images", "network", "float_epochs", "epochs", "precision"):
        if (value := getattr(options, name)) is not None:
            command += f" --{name.replace('_', '-')} {value}"
    command += "" if options.zeros == words(ZEROS) else f" --zeros {','.join(options.zeros)}"
    file = "" if options.write in (None, RESULT) else f" {options.write.name}"
    when = time.strftime("%Y-%m-%d", time.gmtime())
    about = {
        "command": f"{command} --write{file}",
        "when": when,
        "machine": ThisMachine().describe(),
        "data": options.data,
    }
    counts = {"levels": LEVELS, "images": len(comparison.data.train[1]), "test_images": len(comparison.data.test[1])}
    return {**about, **counts, "plan": asdict(comparison.plan)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, print, and measure where that is asked for."""
    parser = methods_parser()
    parser.prog, parser.description = "python -m benchmarks.budgets", str(__doc__).splitlines()[0]
    parser.set_defaults(output=Path("runs/budgets"))
    parser.add_argument(
        "--zeros",
        type=words,
        default=words(ZEROS),
        help=f"percentages of zeros of the uniform networks (default: {ZEROS})",
    )
    parser.add_argument("--images", type=int, metavar="N", help="train on the first N images (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="how often every network is measured (default: 7)")
    written = "measure, and write the result and a plot (default: among the committed ones)"
    parser.add_argument("--write", type=user_path, nargs="?", const=RESULT, metavar="FILE", help=written)
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(1)
    changes = {name: getattr(options, name) for name in ("network", "float_epochs", "epochs", "precision")}
    plan = replace(PLANS[options.data], **{name: value for name, value in changes.items() if value is not None})
    data = load_data(options)
    if options.images:
        data = replace(data, train=(data.train[0][: options.images], data.train[1][: options.images]))
    output = options.output / f"{options.data}-{plan.network}"
    comparison = Comparison(data, plan, output, lambda name, share: None, keep=True)
    floats, rows = [], []
    for seed in (int(text) for text in options.seeds.split(",")):
        floats.append(accuracy(comparison.float_net(seed), data.test))
        print(f"seed {seed}: float {floats[-1]:.2%}", flush=True)
        for percent in options.zeros:
            rows += trained(comparison, seed, float(percent) / 100)
    if options.write:
        measured(rows, options.rounds)
        result = {**_about(options, comparison), "float": floats, "rows": rows}
        print(write_file(options.write, json.dumps(result, indent=1) + "\n"))
        plot(rows, options.write.with_suffix(".svg"))


if __name__ == "__main__":
    main()
