"""``tern-bench``: an artifact against what a user would otherwise run, in one interleaved measurement."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from tvm_schedules.cli import run, write_text
from tvm_schedules.errors import BenchError


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers separated by commas, got {text!r}") from None


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-bench",
        description="Measure an artifact and its alternatives, interleaved and pinned to the same CPUs; print medians, "
        "spread and ratios, and how near every layer is to this machine's ceiling.",
    )
    made.add_argument("artifact", help="directory made by tern-export")
    made.add_argument(
        "--against", default="onnxruntime", help="alternatives, separated by commas (default: onnxruntime); none"
    )
    made.add_argument(
        "--threads", type=_numbers, default=[1], help="numbers of threads, separated by commas (default: 1)"
    )
    made.add_argument("--rounds", type=int, default=9, help="rounds of the interleaving (default: 9)")
    made.add_argument("--seconds", type=float, default=0.25, help="time for one engine in one round (default: 0.25)")
    made.add_argument("--quick", action="store_true", help="3 rounds of 0.05 s: a look, not a measurement")
    made.add_argument("--layers", type=int, default=None, help="show only this many layers, the slowest")
    made.add_argument("--json", metavar="FILE", help="write everything as JSON")
    made.add_argument("--csv", metavar="FILE", help="write one line per engine and number of threads")
    made.add_argument("--plot", metavar="FILE", help="write a bar chart (.png, .svg, .pdf)")
    return made


def _main(options: argparse.Namespace) -> int:
    from tvm_schedules.bench import bench, report

    try:
        from rich.console import Console
    except ImportError:
        raise BenchError("rich is not installed; install it with: pip install rich") from None
    log = Console(stderr=True)
    against = [] if options.against == "none" else options.against.split(",")
    rounds, seconds = (3, 0.05) if options.quick else (options.rounds, options.seconds)
    with log.status("start") as status:
        result = bench(options.artifact, against, options.threads, rounds, seconds, status.update)
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    if options.csv:
        write_text(options.csv, report.to_csv(result))
    if options.plot:
        try:
            report.plot(result, options.plot)
        except ImportError:
            raise BenchError("matplotlib is not installed; install it with: pip install matplotlib") from None
        except (OSError, ValueError) as error:
            raise BenchError(f"cannot write the plot: {error}") from error
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a file has no width
    console.print(report.machine_line(result), highlight=False)
    for table in report.tables(result, options.layers):
        console.print(table, highlight=False)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tern-bench``; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: _main(options))


if __name__ == "__main__":
    raise SystemExit(main())
