"""Results of :mod:`examples.digits` as a table and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROWS = {
    "onnxruntime fp32": "onnxruntime float32",
    "onnxruntime int8": "onnxruntime int8",
    "onnxruntime 2-bit file": "onnxruntime 2-bit",
    "tern": "tern library",
}
ACCURACIES = {
    "float": "float32 network in torch",
    "ternary": "ternary network in torch",
    "exported": "exported tern library",
}
GRAY, GREEN, INK = "#9aa3ad", "#1b7f5a", "#2b2f33"


def engines(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measured engines, with titles, in the order of :data:`ROWS`."""
    measured = {row["name"]: row for row in results["bench"]["results"][0]["engines"]}
    return [{**measured[name], "title": title} for name, title in ROWS.items() if name in measured]


def show(results: Mapping[str, Any], output: Path, console: Any = None) -> None:
    """Print accuracies, sizes, latencies and where everything is, to a console of ``rich`` or to standard output."""
    from rich.console import Console
    from rich.table import Table

    from tvm_schedules.bench.report import machine_line

    console = console or Console(highlight=False)
    bench, rows = results["bench"], engines(results)
    threads = bench["results"][0]["threads"]

    table = Table(title=f"Accuracy on {results['images']} held-out digits", title_justify="left")
    table.add_column("network")
    table.add_column("accuracy", justify="right")
    for key, title in ACCURACIES.items():
        table.add_row(title, f"{results['accuracy'][key]:.2%}")
    table.caption = f"library and ternary network give the same class for {results['agreement']:.2%} of them"
    console.print(table)

    heading = f"Size and latency, batch 1, {threads} thread{'s' if threads > 1 else ''}"
    table = Table(title=heading, title_justify="left")
    table.add_column("engine")
    for name in ("bytes", "smaller", "median us", "time / tern's"):
        table.add_column(name, justify="right")
    largest = rows[0]["file_bytes"]
    for row in rows:
        own = row["name"] == "tern"
        table.add_row(
            row["title"],
            f"{row['file_bytes']:,}",
            f"{largest / row['file_bytes']:.1f} x",
            f"{1e3 * row['median_ms']:.1f}",
            "" if own else f"{row['ratio']:.2f}",
            style="bold" if own else None,
        )
    files = bench["artifact"]["files"]
    zeros = sum(layer["zeros"] * layer["weights"] for layer in results["exports"]["host"]["layers"].values())
    weights = sum(layer["weights"] for layer in results["exports"]["host"]["layers"].values())
    table.caption = (
        f"the library is {files['model.so']:,} bytes of code and {files['weights.npz']:,} of weights; {weights:,} of "
        f"{results['parameters']:,} parameters are ternary, {zeros / weights:.0%} of them zero"
    )
    console.print(table)
    console.print(machine_line(bench))

    console.print("Where it is", style="italic")
    for path, what in {
        "float.ckpt": "float baseline",
        "ternary.ckpt": "ternary network, loads into the plain class",
        "host/": "library for this machine, with weights, model.onnx and samples",
        "arm/": "the same for any 64-bit ARM",
        "digits.png": "plot",
        "results.json": "all numbers",
    }.items():
        console.print(f"  {str(output / path) + ('/' if path.endswith('/') else ''):<26} {what}", soft_wrap=True)
    console.print(f"{results['seconds']:.0f} s in all")


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy, size, latency and the zeros of every layer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = engines(results)
    layers = results["exports"]["host"]["layers"]
    with plt.rc_context({"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "ytick.color": INK}):
        figure, axes = plt.subplots(2, 2, figsize=(10.5, 6), layout="constrained")
        accuracies = [results["accuracy"][key] for key in ACCURACIES]
        _bars(axes[0, 0], list(ACCURACIES.values()), accuracies, [f"{value:.2%}" for value in accuracies])
        axes[0, 0].set_title(f"Accuracy on {results['images']} held-out digits")
        titles = [row["title"] for row in rows]
        sizes = [row["file_bytes"] / 1024 for row in rows]
        _bars(
            axes[0, 1],
            titles,
            sizes,
            [f"{size:.0f} KiB" + (f", {sizes[0] / size:.1f}x smaller" if size < sizes[0] else "") for size in sizes],
        )
        axes[0, 1].set_title("What has to be on the device")
        times = [1e3 * row["median_ms"] for row in rows]
        texts = [
            f"{us:.0f} us" + ("" if row["name"] == "tern" else f", {row['ratio']:.2f} of tern's")
            for us, row in zip(times, rows, strict=True)
        ]
        _bars(axes[1, 0], titles, times, texts)
        axes[1, 0].set_title(f"Latency of one image, {results['bench']['results'][0]['threads']} thread")
        zeros = [layer["zeros"] for layer in layers.values()]
        texts = [f"{layer['zeros']:.0%}, {layer['entropy']:.2f} bits" for layer in layers.values()]
        _bars(axes[1, 1], list(layers), zeros, texts, GREEN)
        axes[1, 1].set_title("Zeros, entropy of a weight")
        axes[1, 1].set_xlim(0, 1.5)
        figure.suptitle(results["bench"]["machine"]["cpu"], fontsize=9, color=GRAY)
        figure.get_layout_engine().set(h_pad=0.15, w_pad=0.1)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _bars(axis: Any, names: list[str], values: list[float], texts: list[str], color: str | None = None) -> None:
    """Horizontal bars with their values, first on top; rows about our library stand out unless one color is given."""
    colors = [color or (GREEN if "tern" in name else GRAY) for name in names]
    places = range(len(names))
    axis.barh(places, values, color=colors, height=0.68)
    for place, value, text in zip(places, values, texts, strict=True):
        axis.annotate(text, (value, place), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_yticks(list(places), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.7 * max(values))
    axis.set_xticks([])
    axis.tick_params(left=False)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def main() -> None:
    """Print and draw the results of an earlier run again."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m examples.digits_report", description=main.__doc__)
    parser.add_argument("output", type=Path, nargs="?", default=Path("runs/digits"), help="(default: %(default)s)")
    output = parser.parse_args().output
    results = json.loads((output / "results.json").read_text())
    plot(results, output / "digits.png")
    show(results, output)


if __name__ == "__main__":
    main()
