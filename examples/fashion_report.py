"""Results of :mod:`examples.fashion_mnist` as a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm_schedules.common.console import make_console

PEERS = {"onnxruntime fp32": "float, onnxruntime", "onnxruntime int8": "onnxruntime int8"}
FLOAT = "onnxruntime fp32"


def points(results: Mapping[str, Any]) -> list[tuple[str, float, float, float]]:
    """Name, accuracy, bytes and milliseconds: the float network in onnxruntime, then every ternary library.

    The float network has the layers of the ternary ones, so that onnxruntime's time for the first of them in float32
    is its time too.
    """
    networks = results["networks"]
    rows = next(iter(networks.values()))["engines"]
    found = []
    if FLOAT in rows:
        found.append((PEERS[FLOAT], results["float"], rows[FLOAT]["file_bytes"], rows[FLOAT]["median_ms"]))
    return found + [(name, one["accuracy"], one["bytes"], one["ms"]) for name, one in networks.items()]


def show(results: Mapping[str, Any], output: Path) -> None:
    """Print accuracies, bytes and times, and where everything is."""
    from rich.table import Table

    console = make_console(width=120)
    table = Table(title=f"Fashion-MNIST, {results['images']:,} test images", title_justify="left")
    table.add_column("network", no_wrap=True)
    for name in ("accuracy", "points lost", "zeros", "bytes", "ms", "int8, ms", "agreement"):
        table.add_column(name, justify="right")
    table.add_row("float", f"{results['float']:.2%}", *[""] * 6)
    for name, one in results["networks"].items():
        peer = one["engines"].get("onnxruntime int8")
        table.add_row(
            name,
            f"{one['accuracy']:.2%}",
            f"{100 * (results['float'] - one['accuracy']):.2f}",
            f"{one['zeros']:.0%}",
            f"{one['bytes']:,}",
            f"{one['ms']:.3f}",
            "" if peer is None else f"{peer['median_ms']:.3f}",
            f"{one['agreement']:.2%}",
        )
    table.caption = (
        "accuracy, bytes and ms an image of the exported libraries; int8, ms: onnxruntime's time for the same network; "
        "agreement: images that library and network in torch give one class"
    )
    console.print(table)
    for path, what in {
        "float.ckpt, <name>.ckpt": "the networks, which load into the plain class",
        "exported/<name>/": "a library for this machine",
        "fashion.png": "plot",
        "results.json": "all numbers",
    }.items():
        console.print(f"  {output}/{path:<26} {what}", soft_wrap=True)
    console.print(f"{results['seconds']:.0f} s in all")


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy against bytes and against milliseconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4), layout="constrained", sharey=True)
    for index, (name, reached, size, ms) in enumerate(points(results)):
        for axis, at in ((axes[0], size / 1e3), (axes[1], ms)):
            axis.scatter(at, 100 * reached, color=f"C{index}", label=name, s=40)
    for axis, label in ((axes[0], "stored, kB"), (axes[1], "one image, ms")):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        axis.axhline(100 * results["float"], color="black", linewidth=0.8, label="accuracy of the float network")
    axes[0].set_ylabel(f"accuracy on {results['images']:,} test images, %")
    axes[1].legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
