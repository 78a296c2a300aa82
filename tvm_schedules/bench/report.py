"""A benchmark's result as tables, CSV and a plot."""

from __future__ import annotations

import csv
import io
from typing import Any


def _size(count: float | None) -> str:
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024 or unit == "MiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def machine_line(result: dict[str, Any]) -> str:
    """CPU and its condition before and after, in one line."""
    parts = [f"{result['machine']['cpu']}, {result['machine']['cores']} cores"]
    before, after = result["before"], result["after"]
    if before["governor"]:
        parts.append(f"governor {'/'.join(before['governor'])}")
    if before["clock_mhz"] and after["clock_mhz"]:
        parts.append(f"clock {max(before['clock_mhz']):.0f} -> {max(after['clock_mhz']):.0f} MHz")
    if before["temperature_c"] and after["temperature_c"]:
        parts.append(f"{max(before['temperature_c'].values()):.0f} -> {max(after['temperature_c'].values()):.0f} C")
    if after["throttled"] not in (None, "0", "0x0"):
        parts.append(f"THROTTLED ({after['throttled']})")
    if before["load"]:
        parts.append(f"load {before['load'][0]:.1f} -> {after['load'][0]:.1f}")
    return ", ".join(parts)


def tables(result: dict[str, Any], layers: int | None = None) -> list[Any]:
    """``rich`` tables and lines: for every number of threads the engines, then the layers.

    Args:
        result: From :func:`tvm_schedules.bench.bench`.
        layers: At most this many layers, the slowest; None means all in the network's order.
    """
    from rich.table import Table

    made: list[Any] = []
    for entry in result["results"]:
        count = entry["threads"]
        table = Table(title=f"{count} thread{'s' if count > 1 else ''}, {result['rounds']} interleaved rounds")
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
        title = (
            f"layers, {count} thread{'s' if count > 1 else ''} (ceiling of this machine: "
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


def to_csv(result: dict[str, Any]) -> str:
    """One line per engine and number of threads."""
    fields = (
        "threads", "name", "median_ms", "min_ms", "q25_ms", "q75_ms", "runs", "ratio", "ratio_of_min", "file_bytes",
        "peak_rss_bytes", "own_rss_bytes", "load_seconds", "relative_error",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for entry in result["results"]:
        for row in entry["engines"]:
            writer.writerow({"threads": entry["threads"], **row})
    return text.getvalue()


def plot(result: dict[str, Any], path: str) -> None:
    """Bar chart of the median latencies with the interquartile range and the ratio to this package's library.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    entries = result["results"]
    figure, axes = plt.subplots(1, len(entries), figsize=(5 * len(entries), 3.2), squeeze=False, layout="constrained")
    for axis, entry in zip(axes[0], entries, strict=True):
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
        axis.set_title(f"{entry['threads']} thread{'s' if entry['threads'] > 1 else ''}")
        axis.margins(x=0.2)
    figure.suptitle(result["machine"]["cpu"])
    figure.savefig(path)
    plt.close(figure)
