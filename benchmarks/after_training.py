"""What ternary weights without training cost in accuracy, beside plain rounding.

Float networks are those of ``python -m benchmarks.methods`` with the same options; where its results lie, none is
trained again::

    python -m benchmarks.after_training --data digits --output runs/compare
    python -m benchmarks.after_training --data fashion-mnist --data-dir DIR --output runs/compare --write

``--write`` puts the result among the committed ones, from which ``python -m benchmarks.pages`` makes the page.
"""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.methods.__main__ import PLANS, Comparison, load_data
from benchmarks.methods.__main__ import parser as methods_parser
from benchmarks.methods.data import Data, scaled
from benchmarks.methods.training import accuracy
from tern_lightning import post_training
from tvm_schedules.common.files import write_file
from tvm_schedules.targets import host_cpu

RESULTS = Path(__file__).with_name("after_training_results")
SAMPLES = 512
"""Images that codes and statistics are fitted on; their labels are not looked at."""
OPTIONS: dict[str, dict[str, Any]] = {
    "twn, rounded": {"fit": False},
    "twn, fitted": {},
    "two terms, fitted": {"method": "sws", "options": {"terms": 2, "per_channel": True}},
}
DEFAULTS: dict[str, Any] = {"method": "twn", "options": {"per_channel": True}}


def measure(net: nn.Module, data: Data, shares: Sequence[float | None]) -> Iterator[dict[str, Any]]:
    """Accuracy and zeros of a float network after each of the conversions."""
    images = scaled(data.train[0][:SAMPLES])
    for share in shares:
        for name, options in OPTIONS.items():
            made, started = copy.deepcopy(net), time.perf_counter()
            found = post_training(made, images, zeros=share, **{**DEFAULTS, **options})
            seconds = time.perf_counter() - started
            weights = sum(one.ternary.codes[0].numel() for one in found.values())
            zeros = sum(one.ternary.sparsity() * one.ternary.codes[0].numel() for one in found.values()) / weights
            error = sum(one.error for one in found.values()) / len(found)
            yield {
                "asked": share, "how": name, "zeros": zeros, "error": error, "accuracy": accuracy(made, data.test),
                "seconds": round(seconds, 1),
            }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = methods_parser()
    parser.prog, parser.description = "python -m benchmarks.after_training", str(__doc__).splitlines()[0]
    parser.add_argument("--zeros", default="none,0.5,0.6,0.7,0.8,0.9", help="shares to ask for (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put the result among the committed ones")
    options = parser.parse_args(arguments)
    shares = [None if text == "none" else float(text) for text in options.zeros.split(",")]
    torch.set_num_threads(1)
    plan = PLANS[options.data]
    changes = {name: getattr(options, name) for name in ("network", "float_epochs", "precision")}
    plan = replace(plan, **{name: value for name, value in changes.items() if value is not None})
    data = load_data(options)
    comparison = Comparison(data, plan, options.output / f"{options.data}-{plan.network}", lambda name, share: None)
    more = f" --zeros {options.zeros}" if options.zeros != parser.get_default("zeros") else ""
    more += "".join(
        f" --{name} {value}"
        for name in ("validation", "precision")
        if (value := getattr(options, name)) != parser.get_default(name)
    )
    result: dict[str, Any] = {
        "network": plan.network, "machine": f"{host_cpu.name() or platform.machine()}, one thread",
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m benchmarks.after_training --data {options.data} --seeds {options.seeds}{more}",
        "images": f"{len(data.test[1]):,} {'training images held back' if options.validation else 'test images'}",
        "float": [], "rows": [],
    }  # fmt: skip
    for seed in (int(text) for text in options.seeds.split(",")):
        net = comparison.float_net(seed).eval()
        result["float"].append(accuracy(net, data.test))
        print(f"seed {seed}: float {result['float'][-1]:.2%}", flush=True)
        for row in measure(net, data, shares):
            print(
                f"  {row['asked']} {row['how']}: {row['accuracy']:.2%}, {row['zeros']:.1%} zeros, {row['seconds']} s",
                flush=True,
            )
            result["rows"].append({"seed": seed, **row})
    if options.write:
        print(write_file(RESULTS / f"{options.data}-{plan.network}.json", json.dumps(result, indent=1) + "\n"))


if __name__ == "__main__":
    main()
