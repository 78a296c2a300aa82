"""The networks of ``tests/zoo``: export, verification, size, and time beside onnxruntime.

    python -m benchmarks.zoo --output runs/zoo.json
    python -m benchmarks.zoo --only vit,swin --no-times
    python -m benchmarks.zoo --quick --jobs 2

Every network is exported in a process of its own with a limit of time. What is done stands in the JSON file after every
network, and is not done again. Networks of packages that are not installed are left out, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.zoo.files import FILES
from tests.zoo.registry import NETWORKS
from tvm_schedules.common.files import write_file
from tvm_schedules.engines.system import machine

COMMAND = (sys.executable, "-m", "benchmarks.zoo.one")
"""What does one network, with its name and a folder."""
VECTORS = {"avx512vnni": "AVX-512 VNNI", "avx512bw": "AVX-512", "avx2": "AVX2"}


def run_apart(name: str, timeout: float, how: Sequence[str] = ()) -> dict[str, Any]:
    """Let a process do one network.

    Args:
        name: A key of the zoo.
        timeout: Seconds after which the process and all that it started are ended.
        how: Options of :mod:`benchmarks.zoo.one`.

    Returns:
        Its row; of a process that ended otherwise than it should, what it had written, with ``result`` ``crashed`` or
        ``slow``.
    """
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        command = [*COMMAND, name, folder, *how]
        log = Path(folder) / "log"
        with log.open("w") as stream:
            child = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                status: int | None = child.wait(timeout)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        place = Path(folder) / "result.json"
        row: dict[str, Any] = json.loads(place.read_text()) if place.is_file() else {"name": name, "stage": "start"}
        if status is None:
            row |= {"result": "slow", "error": f"not done in {timeout:.0f} s, at: {row.get('line', row['stage'])}"}
        elif status != 0:
            last = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
            row |= {"result": "crashed", "error": f"exit status {status}: {last[-600:]}"}
    row["kind"] = (NETWORKS.get(name) or FILES[name]).kind
    row["aim"], row["rival"] = (NETWORKS[name].aim, NETWORKS[name].rival) if name in NETWORKS else (None, None)
    return row


def vectors() -> str:
    """The widest vector instructions for bytes of this CPU, as far as they are of x86."""
    features = machine()["features"]
    return next((said for name, said in VECTORS.items() if name in features), machine()["architecture"])


def chosen(only: str) -> list[str]:
    """Names of the zoo, all or those that were asked for.

    Raises:
        ValueError: A name is not in the zoo.
    """
    known = [*NETWORKS, *FILES]
    names = [name for name in only.split(",") if name] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--only must be among {', '.join(known)}, got {', '.join(unknown)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing in the file; 1 when a network did not come through."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", default="", help="names, separated by commas (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time; more than one spoils the times")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one network (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/zoo.json"), help="file to go on with (%(default)s)")
    parser.add_argument("--no-times", action="store_true", help="export and verify only")
    parser.add_argument("--quick", action="store_true", help="write the ONNX files and choose kernels, compile nothing")
    parser.add_argument("--again", action="store_true", help="measure also what the file has")
    options = parser.parse_args(arguments)
    try:
        names = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    stored = json.loads(options.output.read_text()) if options.output.is_file() else {"machine": machine(), "rows": {}}
    lacking = {name: reason for name in names if (reason := (NETWORKS.get(name) or FILES[name]).lacks())}
    todo = [name for name in names if name not in lacking and (options.again or name not in stored["rows"])]
    for name, reason in lacking.items():
        print(f"{name:28} left out: {reason}", flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    how = [option for option, wanted in (("--quick", options.quick), ("--no-times", options.no_times)) if wanted]

    def one(name: str) -> dict[str, Any]:
        return run_apart(name, options.timeout, how)

    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        for row in pool.map(one, todo):
            stored["rows"][row["name"]] = row | ({"vectors": vectors()} if row.get("ratios") else {})
            stored["when"] = time.strftime("%Y-%m-%d")
            write_file(options.output, (json.dumps(stored, indent=1) + "\n").encode())
            print(line(row), flush=True)
    return (
        0 if all(stored["rows"][name]["result"] in ("ok", "lowered") for name in names if name in stored["rows"]) else 1
    )


def line(row: dict[str, Any]) -> str:
    """A row as a line of the terminal."""
    ratios = " ".join(
        f"{name.removeprefix('onnxruntime ')} {ratio:.2f}" for name, ratio in row.get("ratios", {}).items()
    )
    error = " ".join(str(row.get("error") or "").split())
    return f"{row['name']:28} {row['result']:8} {row.get('seconds', 0):6.1f} s  {ratios} {error[:300]}"


if __name__ == "__main__":
    sys.exit(main())
