"""The suite's results as tables and a plot."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tvm_schedules.bench.suite.baseline import Change
from tvm_schedules.bench.suite.cases import CASES, I2S_TARGET, NBITS, versus_i2s
from tvm_schedules.common.files import user_path, write_file

CEILINGS = {
    "sparse": ("nonzero_macs", "add_l1"),
    "panel": ("nonzero_macs", "add_l1"),
    "straight": ("nonzero_macs", "add_f32"),
    "dense_channels": ("macs", "dot_i8"),
    "dense_dot": ("macs", "dot_i8"),
    "depthwise_dot": ("macs", "dot_i8"),
    "linear_dot": ("macs", "dot_i8"),
    "dense": ("macs", "fma_f32"),
}
"""What bounds a kernel: which of its step's counts, and which of the machine's rates."""


def shares(step: Mapping[str, Any], ceilings: Mapping[str, float]) -> dict[str, float]:
    """How near a step is to what bounds it, each in [0, 1]: ``compute``, and ``memory`` for reading its weights.

    Weights of linear layers are read once a run; where they fit decides which memory they come from.
    """
    found: dict[str, float] = {}
    if step["us"] <= 0:
        return found
    count, rate = CEILINGS.get(step["kernel"], ("", ""))
    if count not in step:
        pass
    elif rate == "add_l1" and "read_l1" in ceilings:
        # A byte or a float that is loaded and added; the L1 cache gives that many bytes.
        rate, size = "read_l1", 1 if step.get("operand") == "uint8" else 4
        found["compute"] = step[count] * size / step["us"] / 1e3 / ceilings[rate]
    elif rate in ceilings:
        found["compute"] = step[count] / step["us"] / 1e3 / ceilings[rate]
    if step["kernel"] in ("linear_dot", "linear_pairs", "linear") and step.get("bytes_weights"):
        stored = step["bytes_weights"]
        level = next((name for name, most in (("l1", 3e4), ("l2", 1e6), ("l3", 1.6e7)) if stored < most), "dram")
        if f"read_{level}" in ceilings:
            found["memory"] = stored / step["us"] / 1e3 / ceilings[f"read_{level}"]
    return found


def _cases(entries: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    order = list(CASES)
    for key in sorted(entries, key=lambda k: (order.index(k.split("/")[0]) if k.split("/")[0] in order else -1, k)):
        name = key.split("/")[0]
        if name in CASES:
            yield key, name, entries[key]


def _target(key: str, name: str, ours: str, row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The value that a target is about, and the target."""
    case = CASES[name]
    if case.group == "linear" and NBITS in row["peers"]:
        return versus_i2s(key, row["peers"][NBITS]["ratio"]), I2S_TARGET
    if row["floats"]:
        sparse = next((numbers for peer, numbers in row["peers"].items() if peer.startswith("DeepSparse fp32")), None)
        return (sparse["ratio"], 1.5) if sparse else (None, None)
    best = row["peers"][row["best"]]["ratio"] if row["best"] else None
    return best, case.targets.get(row["zeros"])


def tables(results: Mapping[str, Any]) -> list[Any]:
    """``rich`` tables and lines: engines, ratios, layers by share of the ceiling."""
    from rich.table import Table

    made: list[Any] = []
    entries = results["entries"]
    table = Table(title="times, ms: median (minimum)")
    for column in ("case/threads", "engine", "median", "minimum", "others", "rel. error"):
        table.add_column(column, justify="left" if column in ("case/threads", "engine") else "right")
    for key, _, entry in _cases(entries):
        for row in entry["engines"]:
            numbers = [f"{row[field]:.4g}" for field in ("median_ms", "min_ms")]
            table.add_row(key, row["name"], *numbers, f"{row['others']:.0%}", f"{row['relative_error']:.1e}")
        made += [f"{key}: {skip['name']} not measured: {skip['reason']}" for skip in entry["skipped"]]
        table.add_section()
    made.insert(0, table)
    table = Table(title="best peer's time by ours")
    for column in ("case/threads", "ours", "best peer", "ratio", "of minima", "noise", "target", ""):
        table.add_column(column, justify="left" if column in ("case/threads", "ours", "best peer") else "right")
    for key, name, entry in _cases(entries):
        for ours, row in entry["ratios"].items():
            if row["best"] is None:
                continue
            best = row["peers"][row["best"]]
            value, target = _target(key, name, ours, row)
            met = "" if value is None or target is None else ("ok" if value >= target else f"missed: {value:.2f}")
            note = " of I2_S" if CASES[name].group == "linear" else ""
            numbers = [f"{best['ratio']:.2f}", f"{best['of_min']:.2f}", f"{best['noise']:.1%}"]
            table.add_row(key, ours, row["best"], *numbers, f"{target:g}{note}" if target else "", met)
    made.append(table)
    made += [_scaling(entries), *_layers(entries)]
    return [item for item in made if item]


def _scaling(entries: Mapping[str, Any]) -> str:
    """How much faster two threads are than one, from minima."""
    parts = []
    for name in CASES:
        one, two = (entries.get(f"{name}/{threads}") for threads in (1, 2))
        if one and two:
            times = [{row["name"]: row["min_ms"] for row in entry["engines"] if row["ours"]} for entry in (one, two)]
            each = [f"{ours} {times[0][ours] / times[1][ours]:.2f}" for ours in times[0] if ours in times[1]]
            parts.append(f"{name}: {', '.join(each)}")
    return "1 to 2 threads, minima: " + "; ".join(parts) if parts else ""


def _layers(entries: Mapping[str, Any]) -> list[Any]:
    from rich.table import Table

    made: list[Any] = []
    for threads in sorted({entry["threads"] for entry in entries.values()}):
        ceilings = entries.get(f"ceilings/{threads}", {}).get("rates")
        if not ceilings:
            continue
        rates = ", ".join(f"{kind} {rate:.0f}" for kind, rate in ceilings.items())
        table = Table(title=f"steps over 3 % of a network's time, {threads} threads; ceilings in 1e9 a second: {rates}")
        for column in ("case", "ours", "step", "kernel", "us", "share", "of ceiling"):
            table.add_column(column, justify="right" if column in ("us", "share", "of ceiling") else "left")
        for key, name, entry in _cases(entries):
            if not key.endswith(f"/{threads}"):
                continue
            for ours, steps in entry["steps"].items():
                total = sum(step["us"] for step in steps) or 1.0
                for step in steps:
                    if step["us"] / total < 0.03:
                        continue
                    near = ", ".join(f"{kind} {share:.0%}" for kind, share in shares(step, ceilings).items())
                    times = [f"{step['us']:.1f}", f"{step['us'] / total:.0%}", near]
                    table.add_row(name, ours, step["name"], step["kernel"], *times)
        made.append(table)
    return made


def comparison(changes: Sequence[Change], same_machine: bool) -> list[Any]:
    """A table of the ratios that moved."""
    from rich.table import Table

    table = Table(title="best peer's time by ours, then and now")
    for column in ("case/threads", "ours", "peer", "then", "now", "change", "noise band", ""):
        table.add_column(column, justify="left" if column in ("case/threads", "ours", "peer", "") else "right")
    for item in changes:
        new = "" if item.new is None else f"{item.new:.2f}"
        change = "" if item.change is None else f"{item.change:+.1%}"
        table.add_row(item.key, item.ours, item.peer, f"{item.old:.2f}", new, change, f"{item.band:.1%}", item.verdict)
    moved = [item for item in changes if item.verdict in ("faster", "SLOWER")]
    lines = [f"{len(moved)} of {len(changes)} ratios moved by more than noise"]
    if not same_machine:
        lines.append("the baseline is of another machine: ratios of different machines differ for reasons of their own")
    return [table, *lines]


def plot(results: Mapping[str, Any], path: str) -> None:
    """Bars of the best peer's time by ours, by case and zeros; marks are the targets.

    Raises:
        ImportError: matplotlib is not installed.
        OutputError: The file cannot be written.
        ValueError: The file's ending is not that of a picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars: list[tuple[str, str, float, float, float | None]] = []
    for key, name, entry in _cases(results["entries"]):
        for ours, row in entry["ratios"].items():
            if row["best"] is not None:
                best = row["peers"][row["best"]]
                target = None if row["floats"] else CASES[name].targets.get(row["zeros"])
                bars.append((key, ours, best["ratio"], best["ratio"] * best["noise"], target))
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.2 * len(bars)), layout="constrained")
    labels = [f"{key}  {ours}" for key, ours, *_ in bars]
    at = range(len(bars))
    colors = ["tab:green" if ratio >= 1 else "tab:orange" for _, _, ratio, _, _ in bars]
    axis.barh(at, [bar[2] for bar in bars], xerr=[bar[3] for bar in bars], color=colors)
    for index, (*_, target) in enumerate(bars):
        if target is not None:
            axis.plot([target, target], [index - 0.4, index + 0.4], color="black")
    axis.axvline(1, color="gray", linewidth=0.8)
    axis.set_yticks(at, labels, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("best peer's time by ours (black: target)")
    axis.set_title(str(results["machine"]["cpu"]))
    picture = io.BytesIO()
    try:
        figure.savefig(picture, format=user_path(path).suffix[1:])
    finally:
        plt.close(figure)
    write_file(path, picture.getvalue())
