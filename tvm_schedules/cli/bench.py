"""``tern-bench``: an artifact against what a user would otherwise run, in one interleaved measurement."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tvm_schedules.cli.common import add_version, add_waiting, interpreter, numbers, run, said
from tvm_schedules.common.console import make_console, plain
from tvm_schedules.common.files import check_writable, write_file
from tvm_schedules.engines.process import BY_FILE
from tvm_schedules.errors import BenchError

if TYPE_CHECKING:
    from tvm_schedules.bench.measure import Request


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-bench",
        description="Measure an artifact and its alternatives, interleaved and pinned to the same CPUs; print medians, "
        "spread and ratios, and how near every layer is to this machine's ceiling. With --rpc or --tracker the same on "
        "boards that run tern-board serve, after verifying the artifact's samples there.",
    )
    add_version(made)
    made.add_argument("artifact", help="directory made by tern-export")
    made.add_argument(
        "--against",
        default="onnxruntime",
        help="alternatives, separated by commas: onnxruntime (the default), or an engine and your file of the same "
        f"network: {', '.join(f'{name}=FILE' for name in BY_FILE)}; none",
    )
    made.add_argument(
        "--peer-python",
        type=interpreter(tuple(BY_FILE)),
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="an environment that has the engine; repeatable",
    )
    made.add_argument(
        "--threads", type=numbers, default=[1], help="numbers of threads, separated by commas (default: 1)"
    )
    made.add_argument("--rounds", type=int, default=9, help="rounds of the interleaving (default: 9)")
    made.add_argument("--seconds", type=float, default=0.25, help="time for one engine in one round (default: 0.25)")
    made.add_argument("--quick", action="store_true", help="3 rounds of 0.05 s: a look, not a measurement")
    made.add_argument("--layers", type=int, default=None, help="show only this many layers, the slowest")
    made.add_argument("--json", metavar="FILE", help="write everything as JSON, after every round")
    made.add_argument("--csv", metavar="FILE", help="write one line per board, engine and number of threads")
    made.add_argument("--plot", metavar="FILE", help="write bar charts (.png, .svg, .pdf)")
    made.add_argument("--html", metavar="FILE", help="write it with the artifact's layers as a page that stands alone")
    made.add_argument(
        "--crowded",
        type=int,
        metavar="N",
        help="start N busy processes, end them afterward, and measure everything beside them with 1 thread and with "
        "2, unpinned: median, 99th percentile, mean, and their ratios to ours with 1 thread",
    )
    boards = made.add_argument_group("boards")
    boards.add_argument("--rpc", action="append", default=[], metavar="HOST:PORT", help="a board; repeatable")
    boards.add_argument("--tracker", metavar="HOST:PORT", help="a tracker to get boards from, by --key")
    boards.add_argument(
        "--key", action="append", metavar="KEY", help="key of the boards (default: board); repeatable with --tracker"
    )
    add_waiting(boards.add_argument)
    made.add_argument_group("suite", "tern-bench --suite --help: networks against the engines of other projects")
    title = "tern-bench --profile-table FILE --help: times of kernels over shapes and zeros, for tern-estimate"
    made.add_argument_group("profile table", title)
    return made


def _addresses(options: argparse.Namespace) -> list[Any]:
    """The boards that were asked for; none means this machine."""
    from tvm_schedules.remote.connection import Address
    from tvm_schedules.remote.protocol import DEFAULT_PORT, parse_address

    keys = options.key or ["board"]
    if options.rpc and options.tracker:
        raise BenchError("give either --rpc or --tracker")
    if options.key and not (options.rpc or options.tracker):
        raise BenchError("--key needs --rpc or --tracker")
    for address in options.rpc:
        parse_address(address, DEFAULT_PORT)
    if options.tracker:
        parse_address(options.tracker)
        return [Address(options.tracker, key, True, options.timeout, options.wait) for key in keys]
    if len(keys) > 1:
        raise BenchError("with --rpc give --key once: it holds for all boards")
    return [Address(address, keys[0], False, options.timeout, options.wait) for address in options.rpc]


def _request(options: argparse.Namespace) -> Request:
    """What to measure beside the artifact, and for how long."""
    from tvm_schedules.bench.measure import Request

    against = [] if options.against == "none" else options.against.split(",")
    rounds, seconds = (3, 0.05) if options.quick else (options.rounds, options.seconds)
    return Request(against, options.threads, rounds, seconds, dict(options.peer_python))


def _main(options: argparse.Namespace) -> int:
    from tvm_schedules.bench import report
    from tvm_schedules.bench.boards import bench_boards
    from tvm_schedules.bench.crowded import crowded
    from tvm_schedules.bench.measure import bench

    log = make_console(stderr=True, soft_wrap=True)
    request = _request(options)
    addresses = _addresses(options)
    if options.crowded is not None and (
        addresses or options.csv or options.plot or options.html or options.threads != [1]
    ):
        raise BenchError("--crowded is for this machine, 1 and 2 threads, and tables or --json: leave out the rest")
    for path in filter(None, (options.json, options.csv, options.plot, options.html)):
        check_writable(path)
    if options.plot:
        report.check_plot(options.plot)
    newest: dict[str, Any] = {}

    def keep(result: dict[str, Any]) -> None:
        newest.update(result)
        if options.json:
            write_file(options.json, json.dumps(result, indent=1) + "\n")

    interrupted = False
    try:
        with log.status("start") as status:
            how: dict[str, Any] = {"progress": lambda line: status.update(plain(line)), "keep": keep}
            if addresses:
                keep(bench_boards(options.artifact, addresses, request, **how))
            elif options.crowded is not None:
                keep(crowded(options.artifact, options.crowded, request, **how))
            else:
                keep(bench(options.artifact, request, **how))
    except KeyboardInterrupt:
        if not newest:
            raise
        interrupted = True
    results = newest.get("boards", [newest])
    _print(results, options.layers)
    failed = [entry for entry in results if entry.get("failed")]
    for entry in failed:
        name, reason = entry["board"], entry["failed"]
        named = name.rpartition("@")[2] in reason
        log.print(f"error: {reason if named else f'{name}: {reason}'}")
    if options.csv:
        write_file(options.csv, report.to_csv(results))
    if options.plot and any(entry["results"] for entry in results):
        report.plot(results, options.plot)
    if options.html and any(entry["results"] for entry in results):
        _write_page(options, results)
    if interrupted:
        log.print("interrupted: this is what was measured before")
    if options.json and (interrupted or any(entry.get("results") for entry in failed)):
        log.print(f"what was measured before is in {options.json}")
    return 130 if interrupted else 1 if failed else 0


def _write_page(options: argparse.Namespace, results: Sequence[dict[str, Any]]) -> None:
    """The measurements beside what is in the artifact, as HTML."""
    from tvm_schedules.report.page import write_page
    from tvm_schedules.report.run import read_run

    run = read_run(options.artifact)
    run.benches = [entry for entry in results if entry["results"]]
    said("page", write_page([run], options.html))


def _print(results: Sequence[dict[str, Any]], layers: int | None) -> None:
    """The tables of every machine."""
    from tvm_schedules.bench import crowded, report

    console = make_console(width=140)
    for entry in results:
        for part in crowded.tables(entry) if "busy" in entry else report.parts(entry, layers):
            console.print(part)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tern-bench``; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--suite"]:
        from tvm_schedules.cli.suite import main as suite

        return suite(words[1:])
    if any(word.partition("=")[0] == "--profile-table" for word in words):
        from tvm_schedules.cli.profile import main as profile

        return profile(words)
    options = parser().parse_args(words)
    return run(lambda: _main(options))


if __name__ == "__main__":
    raise SystemExit(main())
