"""Command line of the suite: ``tern-bench --suite`` or ``python -m tvm_schedules.cli.suite``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tvm_schedules.bench.suite import __doc__ as description
from tvm_schedules.bench.suite.cases import CASES
from tvm_schedules.cli.common import interpreter, run, words
from tvm_schedules.common.console import make_console, plain
from tvm_schedules.common.files import check_writable, temporary_folder, user_path, write_file
from tvm_schedules.common.near import meant
from tvm_schedules.engines.process import PEERS
from tvm_schedules.errors import BenchError


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-bench --suite", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    groups = ", ".join(sorted({case.group for case in CASES.values()}))
    add("--only", type=words, metavar="NAMES", help=f"cases or groups ({groups}), separated by commas")
    add("--threads", type=words, help="numbers of threads, separated by commas (default: 1 and, if there are CPUs, 2)")
    add("--rounds", type=int, default=9, help="turns of every engine in a case (default: 9)")
    add("--seconds", type=float, default=0.25, help="length of a turn (default: 0.25)")
    add("--patience", type=float, default=3.0, metavar="SECONDS", help="wait for quiet before a turn (default: 3)")
    add("--quick", action="store_true", help="3 rounds of 0.05 s without waiting: a look, not a measurement")
    add(
        "--peer-python",
        type=interpreter(PEERS),
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="a peer's environment",
    )
    add(
        "--work",
        type=user_path,
        metavar="DIR",
        help="where libraries and models are kept (default: a temporary directory)",
    )
    add("--json", type=user_path, metavar="FILE", help="results; finished ones in it are not measured again")
    add("--tune", type=user_path, metavar="DATABASE", help="tune our libraries, with this database file")
    add("--prepare-only", action="store_true", help="make libraries and models, measure nothing")
    add("--plot", metavar="FILE", help="write a bar chart (.png, .svg, .pdf)")
    add("--compare", type=user_path, metavar="FILE", help="show what moved since this baseline")
    add("--write-baseline", type=user_path, metavar="FILE", help="write the ratios of this run")
    return made


def _chosen(names: Sequence[str] | None) -> list[str]:
    """Cases by their names and those of groups."""
    if not names:
        return list(CASES)
    groups = {case.group for case in CASES.values()}
    unknown = [name for name in names if name not in CASES and name not in groups]
    if unknown:
        known, hint = ", ".join([*sorted(groups), *CASES]), meant(unknown[0], [*groups, *CASES])
        raise BenchError(f"--only must name cases or groups ({known}), got {', '.join(unknown)}{hint}")
    return [name for name, case in CASES.items() if name in names or case.group in names]


def _threads(texts: Sequence[str] | None) -> list[int]:
    from tvm_schedules.engines import system

    cores = len(system.usable_cpus())
    if texts is None:
        return [1, 2][:cores]
    if not texts or not all(text.isdecimal() and 1 <= int(text) <= cores for text in texts):
        raise BenchError(f"--threads must be numbers from 1 to {cores}, got {','.join(texts)}")
    return [int(text) for text in texts]


def _prefixed(say: Callable[[str], None], prefix: str, line: str) -> None:
    say(prefix + line)


def _measure(options: argparse.Namespace, work: Path, say: Any) -> dict[str, Any]:
    from tvm_schedules.bench import micro
    from tvm_schedules.bench.suite import prepare
    from tvm_schedules.bench.suite.run import Results, run_case
    from tvm_schedules.engines import system
    from tvm_schedules.targets.registry import resolve

    rounds, seconds, patience = (3, 0.05, 0.0) if options.quick else (options.rounds, options.seconds, options.patience)
    if rounds < 1 or seconds <= 0:
        raise BenchError(f"--rounds and --seconds must be positive, got {rounds} and {seconds}")
    names, counts = _chosen(options.only), _threads(options.threads)
    results = Results(options.json, f"{prepare.source_hash()} {rounds}x{seconds} {options.tune or ''}".strip())
    work.mkdir(parents=True, exist_ok=True)
    pythons = dict(options.peer_python)
    for name in names:
        todo = [count for count in counts if not results.finished(f"{name}/{count}")]
        if not todo and not options.prepare_only:
            continue
        found, skipped = prepare.contenders(CASES[name], work / name, pythons, say, options.tune)
        for count in [] if options.prepare_only else todo:
            prefix = f"{name}, {count} thread{'s' * (count > 1)}: "
            entry = run_case(found, count, rounds, seconds, partial(_prefixed, say, prefix), patience)
            entry["skipped"] = [*skipped, *entry["skipped"]]
            results.add(f"{name}/{count}", entry)
    library = work / "micro.so"
    for count in [] if options.prepare_only else counts:
        if not results.finished(f"ceilings/{count}"):
            say(f"what the machine can do, {count} threads")
            micro.build(resolve("host"), library)
            rates = micro.measure_apart(library, system.usable_cpus()[-count:], 4 * seconds)
            results.add(f"ceilings/{count}", {"threads": count, "rates": rates})
    return results.data


def _main(options: argparse.Namespace) -> int:
    from tvm_schedules.bench.suite import baseline, show

    old = baseline.read(options.compare) if options.compare else None  # a wrong file is noticed now, not in an hour
    for path in filter(None, (options.json, options.plot, options.write_baseline)):
        check_writable(path)
    log = make_console(stderr=True)
    with temporary_folder("suite") as temporary, log.status("start") as status:

        def say(line: str) -> None:
            status.update(plain(line))
            if not log.is_terminal:
                log.print(line)

        results = _measure(options, options.work or Path(temporary), say)
    if options.prepare_only:
        return 0
    if options.write_baseline:
        write_file(options.write_baseline, json.dumps(baseline.make(results), indent=1) + "\n")
    if options.plot:
        try:
            show.plot(results, options.plot)
        except ImportError:
            raise BenchError("matplotlib is not installed; install it with: pip install matplotlib") from None
        except ValueError as error:
            raise BenchError(f"cannot write the plot: {error}") from error
    console = make_console(width=150)
    items = show.tables(results)
    if old is not None:
        new = baseline.make(results)
        items += show.comparison(baseline.compare(old, new), baseline.same_machine(old, new))
    for item in items:
        console.print(item)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: _main(options))


if __name__ == "__main__":
    raise SystemExit(main())
