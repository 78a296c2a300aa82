"""A benchmark's result as tables, CSV and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any


def _size(count: float | None) -> str:
    if count is None:
        return "n/a"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024 or unit == "MiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def _threads(entry: dict[str, Any]) -> str:
    return f"{entry['threads']} thread{'s' if entry['threads'] > 1 else ''}"


def machine_line(result: dict[str, Any]) -> str:
    """CPU and its condition before and after, in one line."""
    machine, before = result["machine"], result["before"]
    after = result["after"] or before
    parts = [machine["cpu"] or "CPU n/a", f"{machine['cores'] or 'n/a'} cores"]
    parts.append(f"governor {'/'.join(before['governor'] or ['n/a'])}")
    clocks = [f"{max(state['clock_mhz']):.0f}" if state["clock_mhz"] else "n/a" for state in (before, after)]
    parts.append(f"clock {' -> '.join(clocks)} MHz")
    heat = [
        f"{max(state['temperature_c'].values()):.0f}" if state["temperature_c"] else "n/a" for state in (before, after)
    ]
    parts.append(f"{' -> '.join(heat)} C")
    for state, when in ((before, "before"), (after, "after")):
        if state["throttled"] not in (None, "0", "0x0"):
            parts.append(f"THROTTLED {when} ({state['throttled']})")
        held = [name for name, level in (state["cooling"] or {}).items() if level]
        if held:
            parts.append(f"clock HELD DOWN {when} by {', '.join(held)}")
    loads = [f"{state['load'][0]:.1f}" if state["load"] else "n/a" for state in (before, after)]
    parts.append(f"load {' -> '.join(loads)}")
    return ", ".join(parts)


def parts(result: dict[str, Any], layers: int | None = None) -> list[Any]:
    """Everything to print about one machine: its name where it is a board, verification, condition, tables."""
    made: list[Any] = []
    if "board" in result:
        made.append(f"board {result['board']}{', ended early' if result['failed'] else ''}")
        made += [f"  {line}" for line in _verification(result["verification"])]
    if "machine" in result:
        made.append(machine_line(result))
    return made + tables(result, layers)


def _verification(report: dict[str, Any] | None) -> list[str]:
    """What a board's verification found."""
    if report is None:
        return ["not verified"]
    return [
        f"verified there: {output['name']}, {report['runs']} runs, relative difference from onnxruntime "
        f"{output['relative']:.1e}"
        for output in report["outputs"]
    ]


def tables(result: dict[str, Any], layers: int | None = None) -> list[Any]:
    """``rich`` tables and lines: for every number of threads the engines, then the layers.

    Args:
        result: From :func:`tvm_schedules.bench.bench`.
        layers: At most this many layers, the slowest; None means all in the network's order.
    """
    from rich.table import Table

    made: list[Any] = []
    for entry in result["results"]:
        cpus = f" on CPU {', '.join(str(number) for number in entry['cpus'])}" if entry["cpus"] else ""
        table = Table(title=f"{_threads(entry)}{cpus}, {entry['rounds']} of {result['rounds']} interleaved rounds")
        columns = ("engine", "median ms", "min ms", "IQR ms", "tern faster by", "files", "peak RSS", "rel. error")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in entry["engines"]:
            table.add_row(
                row["name"],
                f"{row['median_ms']:.4g}",
                f"{row['min_ms']:.4g}",
                f"{row['q25_ms']:.4g} - {row['q75_ms']:.4g}",
                "" if row["name"] == "tern" else f"{row['ratio']:.2f} x",
                _size(row["file_bytes"]),
                _size(row["peak_rss_bytes"]),
                f"{row['relative_error']:.1e}",
            )
        made.append(table)
        made += [
            f"{skipped['name']} not run: {skipped['reason']}" for skipped in [*entry["skipped"], *result["skipped"]]
        ]
        ceiling = entry["ceiling_gadds"]
        if ceiling is None:  # the run ended before
            continue
        title = (
            f"layers, {_threads(entry)} (ceiling of this machine: "
            f"{ceiling['u8']:.0f} Gadd/s of bytes "
            f"and {ceiling['f32']:.0f} of floats from the L1 cache)"
        )
        table = Table(title=title)
        headings = ("step", "operator", "kernel", "input", "us", "share", "dense GMAC/s", "Gadd/s", "of ceiling")
        for index, column in enumerate(headings):
            table.add_column(column, justify="left" if index < 4 else "right")
        rows = entry["steps"]
        if layers is not None and len(rows) > layers:
            rows = sorted(rows, key=lambda row: -row["us"])[:layers]
        for row in rows:
            table.add_row(
                row["name"],
                row["op"],
                row["kernel"],
                row["operand"],
                f"{row['us']:.1f}",
                f"{row['share']:.1%}",
                f"{row['dense_gmacs']:.1f}" if row["dense_gmacs"] else "",
                f"{row['gadds']:.1f}" if row["gadds"] else "",
                f"{row['ceiling_share']:.0%}" if row["ceiling_share"] else "",
            )
        made.append(table)
    return made


def to_csv(results: Sequence[dict[str, Any]]) -> str:
    """One line per board, engine and number of threads."""
    fields = (
        "board", "threads", "name", "median_ms", "min_ms", "q25_ms", "q75_ms", "runs", "ratio", "ratio_of_min",
        "file_bytes", "peak_rss_bytes", "own_rss_bytes", "load_seconds", "relative_error",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for result in results:
        for entry in result["results"]:
            for row in entry["engines"]:
                writer.writerow({"board": result.get("board", ""), "threads": entry["threads"], **row})
    return text.getvalue()


def plot(results: Sequence[dict[str, Any]], path: str) -> None:
    """Bar charts of the median latencies with the interquartile range and the ratio to this package's library.

    Args:
        results: One row of charts for each, one chart for each number of threads.
        path: File to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured = [result for result in results if any(entry["engines"] for entry in result["results"])]
    columns = max((len(result["results"]) for result in measured), default=1)
    size = (5 * columns, 3.2 * max(1, len(measured)))
    figure, axes = plt.subplots(max(1, len(measured)), columns, figsize=size, squeeze=False, layout="constrained")
    for line, result in zip(axes, measured, strict=False):
        for axis, entry in zip(line, result["results"], strict=False):
            _bars(axis, entry)
            name = result.get("board")
            axis.set_title(f"{name + ': ' if name else ''}{result['machine']['cpu'] or 'CPU n/a'}, {_threads(entry)}")
    for axis in figure.axes:
        axis.set_visible(axis.has_data())  # one board may have come further than another
    figure.savefig(path)
    plt.close(figure)


def _bars(axis: Any, entry: dict[str, Any]) -> None:
    """One chart."""
    rows = entry["engines"][::-1]
    medians = [row["median_ms"] for row in rows]
    spread = [
        [row["median_ms"] - row["q25_ms"] for row in rows],
        [row["q75_ms"] - row["median_ms"] for row in rows],
    ]
    colours = ["tab:green" if row["name"] == "tern" else "tab:gray" for row in rows]
    axis.barh([row["name"] for row in rows], medians, xerr=spread, color=colours)
    for index, row in enumerate(rows):
        if row["name"] != "tern":
            axis.annotate(f" {row['ratio']:.2f}x", (row["q75_ms"], index), va="center")
    axis.set_xlabel("latency, ms")
    axis.margins(x=0.2)
