"""Calls one network very many times and prints how much memory the process has: ``python -m benchmarks.soak``.

Linux. The exit status is 1 if the memory, the number of threads or of open files still grows after the first tenth, or
if a call gives other numbers than the first one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SLACK = 1 << 20
"""Bytes that memory may grow by and still be called constant: pages that are touched late."""


@dataclass(frozen=True)
class Sample:
    """The process after some calls.

    Attributes:
        calls: How many.
        rss: Bytes in memory.
        threads: Threads.
        files: Open files.
        us: Median time of the calls since the sample before, in microseconds.
        worst: The longest of them.
    """

    calls: int
    rss: int
    threads: int
    files: int
    us: float
    worst: float


def sample(calls: int, times: Sequence[int]) -> Sample:
    """The process as it is now.

    Args:
        calls: How many calls there were.
        times: Nanoseconds of the last ones.
    """
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    threads, files = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))
    ordered = sorted(times)
    return Sample(calls, resident, threads, files, ordered[len(ordered) // 2] / 1e3, ordered[-1] / 1e3)


def soak(artifact: Path, calls: int, threads: int, every: int, say: Callable[[Sample], None]) -> list[Sample]:
    """Call an artifact's network, with its stored inputs in turn.

    Args:
        artifact: A directory made by ``tern-export`` for this machine.
        calls: How many times.
        threads: Threads of the network.
        every: Calls from one look at the process to the next.
        say: Called with each look.

    Raises:
        ValueError: A call gave other numbers than the first call with these inputs.
    """
    import tvm_schedules
    from tvm_schedules.artifact import load_samples

    model, (inputs, _) = tvm_schedules.load(artifact, threads=threads), load_samples(artifact)

    def digest(result: object) -> bytes:
        arrays = result if isinstance(result, tuple) else (result,)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest()

    first = [digest(model(*arrays)) for arrays in inputs]
    made, times = list[Sample](), list[int]()
    for number in range(1, calls + 1):
        which = number % len(inputs)
        start = time.perf_counter_ns()
        result = model(*inputs[which])
        times.append(time.perf_counter_ns() - start)
        if digest(result) != first[which]:
            raise ValueError(f"call {number} gave other numbers than the first one with these inputs")
        if number % every == 0 or number == calls:
            made.append(sample(number, times))
            say(made[-1])
            times.clear()
    return made


def growth(samples: Sequence[Sample]) -> list[str]:
    """What still grew after the first tenth of the calls, in words; nothing if all is well."""
    settled = [entry for entry in samples if 10 * entry.calls >= samples[-1].calls]
    first, last = settled[0], settled[-1]
    found = [f"memory by {last.rss - first.rss} bytes"] if last.rss - first.rss > SLACK else []
    found += [f"threads by {last.threads - first.threads}"] if last.threads > first.threads else []
    return found + ([f"open files by {last.files - first.files}"] if last.files > first.files else [])


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("artifact", nargs="?", help="directory made by tern-export (default: ResNet-20, 80 %% zeros)")
    parser.add_argument("--calls", type=int, default=100_000, help="default: %(default)d")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)d")
    parser.add_argument("--every", type=int, default=5000, help="calls from one line to the next; default: %(default)d")
    options = parser.parse_args(words)
    if options.calls < 1 or options.every < 1:
        parser.error("--calls and --every must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(options.artifact) if options.artifact else Path(folder) / "resnet20"
        if not options.artifact:
            import tvm_schedules
            from tvm_schedules.bench import networks

            tvm_schedules.build(networks.build("resnet20", 0.8), artifact, "host", samples=networks.samples("resnet20"))
        print(f"{'calls':>10} {'RSS KiB':>10} {'threads':>8} {'files':>6} {'median us':>10} {'worst us':>10}")

        def say(entry: Sample) -> None:
            numbers = f"{entry.threads:8d} {entry.files:6d} {entry.us:10.1f} {entry.worst:10.0f}"
            print(f"{entry.calls:10d} {entry.rss // 1024:10d} {numbers}", flush=True)

        samples = soak(artifact, options.calls, options.threads, options.every, say)
    found = growth(samples)
    print(f"grew: {', '.join(found)}" if found else "nothing grew after the first tenth")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
