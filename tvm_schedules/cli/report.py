"""``tern-report``: what training, export and benchmark of networks gave, as one page and as a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from tvm_schedules.cli.common import add_version, run, said
from tvm_schedules.common.console import make_console
from tvm_schedules.common.files import check_writable
from tvm_schedules.errors import TernError
from tvm_schedules.report.headline import headline, table
from tvm_schedules.report.model_explorer import write_node_data
from tvm_schedules.report.page import write_page
from tvm_schedules.report.run import read_runs


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-report",
        description="Show runs side by side: bytes, zeros, latency and accuracy, and each run's training, layers and "
        "times. A source is an artifact, an .onnx file, a checkpoint, JSON of tern-bench or of CompressionReport, or a "
        "folder in which one of each lies: the folder of a run.",
    )
    add_version(made)
    made.add_argument("sources", metavar="SOURCE", nargs="+", help="one for each run")
    made.add_argument("--html", metavar="FILE", help="write a page that needs no other file and no network")
    made.add_argument(
        "--model-explorer",
        metavar="FOLDER",
        help="write the steps' times and zeros as node data for Model Explorer, to be loaded beside the ONNX file of "
        "the artifact; for one run",
    )
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def _main(options: argparse.Namespace) -> int:
    if options.html:
        check_writable(options.html)
    if options.model_explorer and len(options.sources) > 1:
        raise TernError("--model-explorer is for one run, got several")
    runs = read_runs(options.sources, lambda line: said("left out", line))
    if options.json:
        print(json.dumps([{**one.to_dict(), "headline": asdict(headline(one))} for one in runs], indent=1))
    else:
        try:
            console = make_console(width=140)
        except ImportError:
            raise TernError("rich is not installed; install it with: pip install rich, or use --json") from None
        console.print(table(runs))
        for one in runs:
            for note in one.notes:
                console.print(f"{one.name}: {note}")
    if options.html:
        said("page", write_page(runs, options.html))
    if options.model_explorer:
        write_node_data(runs[0], options.model_explorer)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tern-report``; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: _main(options))


if __name__ == "__main__":
    raise SystemExit(main())
