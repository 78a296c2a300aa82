"""A benchmark's result as tables, CSV and a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_schedules.common.files import write_file
from tvm_schedules.errors import BenchError


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
    parts = [machine["cpu"] or "CPU n/a", f"{machine['cores'] or 'n/a'} core{'' if machine['cores'] == 1 else 's'}"]
    parts.append(f"governor {'/'.join(before['governor'] or ['n/a'])}")
    clocks = [f"{max(state['clock_mhz']):.0f}" if state["clock_mhz"] else "n/a" for state in (before, after)]
    parts.append(f"clock {' -> '.join(clocks)} MHz")
    heat = [
        f"{max(state['temperature_c'].values()):.0f}" if state["temperature_c"] else "n/a" for state in (before, after)
    ]
    parts.append(f"{' -> '.join(heat)} C")
    limited = []
    for state, when in ((before, "before"), (after, "after")):
        if state["throttled"] not in (None, "0", "0x0"):
            limited.append(f"THROTTLED {when} ({state['throttled']})")
        held = [name for name, level in (state["cooling"] or {}).items() if level]
        if held:
            limited.append(f"clock HELD DOWN {when} by {', '.join(held)}")
    known = before["throttled"] is not None or before["cooling"]
    parts += limited or ["not throttled" if known else "throttling n/a"]
    loads = [f"{state['load'][0]:.1f}" if state["load"] else "n/a" for state in (before, after)]
    parts.append(f"load {' -> '.join(loads)}")
    return ", ".join(parts)


def parts(result: dict[str, Any], layers: int | None = None) -> list[Any]:
    """Everything to print about one machine: its name where it is a board, verification, condition, tables."""
    made: list[Any] = []
    if "board" in result:
        end = "" if not result["failed"] else ", ended early" if "machine" in result else ", not measured"
        made.append(f"board {result['board']}{end}")
        if result["verification"] or not result["failed"]:
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


CAPTION = (
    "IQR: middle half of the runs; tern faster by: median over tern's; load s: seconds from the file to the first run; "
    "own RSS: peak RSS without what the process had before; rel. error: largest difference from the outputs that the "
    "artifact has stored, over the largest of them"
)


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
        columns = [
            "engine",
            "median ms",
            "min ms",
            "IQR ms",
            "tern faster by",
            "load s",
            "own RSS",
            "files",
            "peak RSS",
        ]
        columns += ["rel. error", *(["mJ a run"] if _metered(entry) else [])]
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in entry["engines"]:
            table.add_row(
                row["name"],
                f"{row['median_ms']:.4g}",
                f"{row['min_ms']:.4g}",
                f"{row['q25_ms']:.4g} - {row['q75_ms']:.4g}",
                "" if row["name"] == "tern" else f"{row['ratio']:.2f} x",
                f"{row['load_seconds']:.2g}",
                _size(row["own_rss_bytes"]),
                _size(row["file_bytes"]),
                _size(row["peak_rss_bytes"]),
                f"{row['relative_error']:.1e}",
                *([f"{row['millijoules']:.3g}" if row["millijoules"] else "n/a"] if _metered(entry) else []),
            )
        table.caption = CAPTION
        made.append(table)
        made += _energy_line(entry)
        made += [f"{row['name']} on {row['device']}" for row in entry["engines"] if row.get("device")]
        made += [
            f"{skipped['name']} not run: {skipped['reason']}" for skipped in [*entry["skipped"], *result["skipped"]]
        ]
        if entry["steps"]:  # else the run ended before
            made.append(_steps(entry, layers))
    return made


def _steps(entry: dict[str, Any], layers: int | None) -> Any:
    """The table of a library's steps. What a program of several steps computes is said in the first of them."""
    from rich.table import Table

    ceiling, title = entry["ceiling_gadds"], f"layers, {_threads(entry)}"
    if ceiling is not None:
        title += (
            f" (ceiling of this machine: {ceiling['u8']:.0f} Gadd/s of bytes "
            f"and {ceiling['f32']:.0f} of floats from the L1 cache)"
        )
    table = Table(title=title)
    headings = ("step", "operator", "kernel", "input", "us", "share", "dense GMAC/s", "Gadd/s", "of ceiling")
    for index, column in enumerate(headings):
        table.add_column(column, justify="left" if index < 4 else "right")
    rows = entry["steps"]
    if layers is not None and len(rows) > layers:
        rows = sorted(rows, key=lambda row: -row["us"])[:layers]
    before = None
    for row in rows:
        program = row["name"].rpartition("/")[0], row["op"], row["kernel"]
        again = program == before and "," in row["op"]
        before = program
        table.add_row(
            row["name"],
            '"' if again else row["op"],
            row["kernel"],
            row["operand"],
            f"{row['us']:.1f}",
            f"{row['share']:.1%}",
            f"{row['dense_gmacs']:.1f}" if row["dense_gmacs"] else "",
            f"{row['gadds']:.1f}" if row["gadds"] else "",
            f"{row['ceiling_share']:.0%}" if row["ceiling_share"] else "",
        )
    return table


def _metered(entry: dict[str, Any]) -> bool:
    return any(row.get("millijoules") for row in entry["engines"])


def _energy_line(entry: dict[str, Any]) -> list[str]:
    """Where the energy comes from, or why there is none."""
    energy = entry.get("energy")
    if energy is None:
        return []
    if energy["sensor"] is None:
        return [f"energy not measured: {energy['reason']}"]
    return [f"energy: {energy['sensor']}; all that the machine takes meanwhile, times the median latency"]


def _surroundings(result: dict[str, Any]) -> dict[str, Any]:
    """The machine and its condition, for CSV: the highest clock and temperature; empty where unknown."""
    found: dict[str, Any] = {"cpu": result["machine"]["cpu"], "cores": result["machine"]["cores"]}
    found["governor"] = "/".join(result["before"]["governor"] or [])
    for when in ("before", "after"):
        state = result[when] or dict.fromkeys(result["before"])
        held = [f"{name} {level}" for name, level in (state["cooling"] or {}).items() if level]
        found |= {
            f"clock_mhz_{when}": max(state["clock_mhz"] or [""]),
            f"temperature_c_{when}": max((state["temperature_c"] or {"": ""}).values()),
            f"throttled_{when}": "; ".join([state["throttled"] or "", *held]).strip("; "),
        }
    return found


def to_csv(results: Sequence[dict[str, Any]]) -> str:
    """One line per board, engine and number of threads."""
    fields = (
        "board", "threads", "name", "median_ms", "min_ms", "q25_ms", "q75_ms", "runs", "ratio", "ratio_of_min",
        "file_bytes", "peak_rss_bytes", "own_rss_bytes", "load_seconds", "relative_error", "watts", "millijoules",
        "device", "cpu", "cores", "governor", "clock_mhz_before", "clock_mhz_after", "temperature_c_before",
        "temperature_c_after", "throttled_before", "throttled_after",
    )  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for result in results:
        for entry in result["results"]:
            for row in entry["engines"]:
                where = {"board": result.get("board", ""), "threads": entry["threads"]}
                writer.writerow({**where, **row, **_surroundings(result)})
    return text.getvalue()


def check_plot(path: str) -> None:
    """Refuse a plot that could not be written, before anything is measured.

    Raises:
        BenchError: matplotlib is not installed, or knows no such kind of file.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise BenchError("matplotlib is not installed; install it with: pip install 'tern-lightning[plot]'") from None
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    kind = Path(path).suffix[1:].lower()
    if kind not in known:
        raise BenchError(f"--plot must end in one of {', '.join('.' + name for name in known)}, got {path!r}")


def plot(results: Sequence[dict[str, Any]], path: str) -> None:
    """Bar charts of the median latencies with the interquartile range and the ratio to this package's library.

    Args:
        results: One row of charts for each, one chart for each number of threads.
        path: File to write, see :func:`check_plot`.

    Raises:
        OutputError: It cannot be written.
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
    picture = io.BytesIO()
    try:
        figure.savefig(picture, format=Path(path).suffix[1:].lower())
    finally:
        plt.close(figure)
    write_file(path, picture.getvalue())


def _bars(axis: Any, entry: dict[str, Any]) -> None:
    """One chart."""
    rows = entry["engines"][::-1]
    medians = [row["median_ms"] for row in rows]
    spread = [
        [row["median_ms"] - row["q25_ms"] for row in rows],
        [row["q75_ms"] - row["median_ms"] for row in rows],
    ]
    colors = ["tab:green" if row["name"] == "tern" else "tab:gray" for row in rows]
    names = [row["name"] + (f"\n{row['device'].split(' (')[0]}" if row.get("device") else "") for row in rows]
    axis.barh(names, medians, xerr=spread, color=colors)
    for index, row in enumerate(rows):
        if row["name"] != "tern":
            axis.annotate(f" {row['ratio']:.2f}x", (row["q75_ms"], index), va="center")
    axis.set_xlabel("latency, ms")
    axis.margins(x=0.2)
