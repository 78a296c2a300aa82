"""``python -m benchmarks.mcu.estimates``: what ``tern-estimate`` says of networks whose instructions were counted.

It takes the counts from ``benchmarks/measured/mcu.json``, estimates the same networks, and writes
``benchmarks/measured/mcu-estimates.json``. None of these networks is in a profile table.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.mcu import networks
from benchmarks.mcu.profile import TARGETS
from tvm_schedules.common.files import temporary_folder, write_file
from tvm_schedules.estimate.estimate import estimate_graph
from tvm_schedules.estimate.targets import device
from tvm_schedules.pipeline import read_graph

MEASURED = Path(__file__).parents[1] / "measured"
RESULT = MEASURED / "mcu-estimates.json"


def main() -> int:
    """Estimates, prints and writes; returns the exit status."""
    counted = [
        row
        for row in json.loads((MEASURED / "mcu.json").read_text())["rows"]
        if row["what"] in networks.NETWORKS and row["core"] in TARGETS
    ]
    rows: list[dict[str, Any]] = []
    with temporary_folder("estimates") as folder:
        for key in dict.fromkeys((row["what"], row["zeros"], row["depthwise"]) for row in counted):
            graph = read_graph(networks.build(*key, folder)[0])
            rows += [_row(row, graph) for row in counted if (row["what"], row["zeros"], row["depthwise"]) == key]
    data: dict[str, Any] = {"command": "python -m benchmarks.mcu.estimates"}
    data |= {"when": time.strftime("%Y-%m-%d", time.gmtime()), "rows": rows}
    data["errors"] = {core: estimate_graph(graph, device(target)).error for core, target in TARGETS.items()}
    print(write_file(RESULT, json.dumps(data, indent=1) + "\n"))
    return 0


def _row(row: dict[str, Any], graph: Any) -> dict[str, Any]:
    """What was counted of a network on a core, and what is estimated."""
    on = device(TARGETS[row["core"]])
    said = estimate_graph(graph, on)
    assert said.seconds is not None
    made = {key: row[key] for key in ("what", "core", "zeros", "depthwise", "instructions", "flash", "arena")}
    made |= {"estimate": round(said.seconds / on.seconds), "estimate_flash": said.stored_bytes}
    made |= {"estimate_arena": said.ram["arena"]}
    print(
        f"{row['what']} {row['zeros']:.0%} {row['core']}: {row['instructions']:,} instructions,"
        f" {made['estimate'] / row['instructions'] - 1:+.1%}; {row['flash']:,} bytes of flash,"
        f" {made['estimate_flash'] / row['flash'] - 1:+.1%}",
        flush=True,
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
