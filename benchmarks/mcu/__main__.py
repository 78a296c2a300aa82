"""``python -m benchmarks.mcu``: what networks as C cost on emulated microcontrollers, beside CMSIS-NN.

Instructions are counted exactly by QEMU and say nothing about cycles: memory, pipelines and caches are not in them.
Every run's output is compared with that of the same C code on this machine, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mcu import cmsis_nn, count, networks, report
from benchmarks.mcu.cores import CORES
from tvm_schedules.common.files import write_file

DEPTHWISE = ("ds-cnn", "mobilenet")
"""Networks that have a form with ternary depthwise layers."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.mcu", description=__doc__.splitlines()[0])
    names = [*networks.NETWORKS, *networks.LAYERS]
    made.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(names)} (default: all)")
    made.add_argument("--cores", default=",".join(CORES), help=f"of {', '.join(CORES)} (default: all)")
    made.add_argument("--zeros", default="80", help="shares of zeros in percent, such as 50,80,90 (default: 80)")
    made.add_argument("--depthwise", action="store_true", help="ternary depthwise layers too, where there are any")
    made.add_argument("--options", default="-O3", help="more options of the compiler, in one word (default: -O3)")
    made.add_argument("--functions", type=int, default=0, metavar="N", help="also show the N heaviest functions")
    made.add_argument("--folder", type=Path, help="keep exported networks here, and take them from here")
    made.add_argument("--json", metavar="FILE", help="write everything as JSON")
    made.add_argument("--add", action="store_true", help="keep what the file of --json has of other rows")
    made.add_argument("--compare", metavar="FILE", help="what moved since such a file; 1 where anything takes more")
    made.add_argument("--cmsis-nn", type=Path, metavar="FOLDER", help="count CMSIS-NN too, from a checkout of it")
    made.add_argument("--verify", action="store_true", help="compare every network with onnxruntime first")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Counts and prints; returns the exit status."""
    made = parser()
    options = made.parse_args(arguments)
    names = [*networks.NETWORKS, *networks.LAYERS]
    wanted, cores = options.what or names, options.cores.split(",")
    for given, known, kind in ((wanted, names, "WHAT"), (cores, list(CORES), "--cores")):
        if wrong := set(given) - set(known):
            made.error(f"{kind} must be of {', '.join(known)}, got {', '.join(sorted(wrong))}")
    try:
        zeros = [float(share) / 100 for share in options.zeros.split(",")]
    except ValueError:
        zeros = [-1.0]
    if not all(0 <= share < 1 for share in zeros):
        made.error(f"--zeros must be percentages from 0 to below 100, got {options.zeros}")
    if reason := next(filter(None, map(count.missing, cores)), None):
        print(reason, file=sys.stderr)
        return 1
    before = json.loads(Path(options.compare).read_text())["rows"] if options.compare else None
    with tempfile.TemporaryDirectory(prefix="tern-mcu-") as place:
        rows = list(_rows(wanted, cores, zeros, options, Path(place)))
    theirs = cmsis_nn.counted(wanted, cores, options.cmsis_nn.resolve()) if options.cmsis_nn else {}
    print(report.table(rows, report.reference(theirs)))
    if options.json:
        data: dict[str, Any] = {
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commands": [_command(options)],
        }
        data |= {"tools": _versions(cores), "cmsis_nn": theirs, "rows": rows}
        if options.add and Path(options.json).exists():
            data = report.merged(json.loads(Path(options.json).read_text()), data)
        write_file(options.json, json.dumps(data, indent=1) + "\n")
    if before is None:
        return 0
    text, worse = report.changes(before, rows)
    print(f"\nsince {options.compare}\n{text}")
    return int(worse)


def _rows(
    wanted: Sequence[str], cores: Sequence[str], zeros: Sequence[float], options: argparse.Namespace, place: Path
) -> Iterator[dict[str, Any]]:
    """What was counted, one row for every network and core."""
    folder = options.folder or place / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        for share in zeros:
            for depthwise in (False, True)[: 1 + (options.depthwise and name in DEPTHWISE)]:
                model, samples = networks.build(name, share, depthwise, folder)
                artifact = place / f"{name}-{share}-{depthwise}"
                count.prepare(model, samples, artifact, options.verify)
                live = networks.live_bytes(model)
                for core in cores:
                    found = count.count(artifact, core, options.options.split())
                    row = {"what": name, "core": core, "zeros": share, "depthwise": depthwise}
                    row |= {"options": options.options, "instructions": found.instructions}
                    row |= {part: getattr(found, part) for part in ("flash", "arena", "stack")} | {"live": live}
                    if options.functions:
                        heaviest = sorted(found.functions.items(), key=lambda item: -item[1])[: options.functions]
                        print(report.name(row), core, *(f"{what} {n / 1000:,.0f}" for what, n in heaviest), sep="\n  ")
                    yield row


def _command(options: argparse.Namespace) -> str:
    """What counts the same again, without this machine's folders."""
    words = [*options.what, "--cores", options.cores, "--zeros", options.zeros, f"--options={options.options}"]
    words += ["--depthwise"] * options.depthwise
    words += ["--cmsis-nn", "CMSIS-NN"] if options.cmsis_nn else []
    return shlex.join(["python", "-m", "benchmarks.mcu", *words])


def _versions(cores: Sequence[str]) -> dict[str, str]:
    """Of compilers and emulators."""
    families = [CORES[core].tools for core in cores]
    tools = dict.fromkeys(tool for family in families for tool in (f"{family.prefix}gcc", family.emulator))
    lines = (subprocess.run([tool, "--version"], capture_output=True, text=True).stdout for tool in tools)
    return {tool: text.splitlines()[0] for tool, text in zip(tools, lines, strict=True)}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except count.McuError as error:
        sys.exit(str(error))
