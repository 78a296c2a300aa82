"""Pictures of the pages about concepts, drawn by the code that they are about where it can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sitetools.links import DOCS, ROOT

MACHINES = {"zen4": "AMD EPYC, Zen 4", "zen5": "AMD EPYC, Zen 5"}
NETWORKS = {"resnet20": "ResNet-20", "resnet56": "ResNet-56", "resnet18": "ResNet-18", "mobilenetv2": "MobileNetV2"}
PAGES = DOCS / "generated" / "pictures"


def ternary_weights(figure: Any) -> None:
    """A 3x3 window of float weights, its codes, and the distribution of a layer with the threshold."""
    import torch

    from tern_lightning.functional import twn

    torch.manual_seed(1)
    weight = torch.randn(16, 16, 3, 3)
    found = twn(weight)
    level = float(found.positive)
    windows = found.codes[0].flatten(0, 1)
    mixed = torch.stack([(windows == code).sum((1, 2)) for code in (-1, 0, 1)]).amin(0).argmax()  # some of each
    codes = windows[mixed]
    shown = weight.flatten(0, 1)[mixed], codes, codes * level
    titles = "latent weights", "codes", f"ternary weights, level {level:.2f}"
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    for axis, values, title in zip(axes, shown, titles, strict=False):
        axis.imshow(values, cmap="RdBu", vmin=-2, vmax=2)
        for (row, column), value in [((r, c), float(values[r, c])) for r in range(3) for c in range(3)]:
            axis.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[], title=title)
    size = weight.abs().mean() * 0.7
    axes[3].hist(weight.flatten().numpy(), bins=60, color="0.8")
    for bound in (-float(size), float(size)):
        axes[3].axvline(bound, color="tab:red", lw=1)
    for place in (-level, 0, level):
        axes[3].axvline(place, color="tab:blue", lw=3, alpha=0.6)
    axes[3].set(title="thresholds (red), values (blue)", yticks=[])


def halo(figure: Any) -> None:
    """A 4x4 image as it lies in memory, and the runs that three taps of a 3x3 window read for all output pixels."""
    import numpy as np
    from matplotlib.patches import Rectangle

    from tvm_schedules.ir.layout import Halo, Window

    window, dims = Window((1, 3, 3), pads=((0, 0), (1, 1), (1, 1))), (1, 4, 4)
    lo, hi = window.halo(dims)
    pitch = dims[2] + hi[2]  # a row shares its padding with the next one
    layout = Halo(1, 1, dims, "uint8", (dims[1] + hi[1], pitch), lo, hi)
    start, stop = layout.origin - layout.front, layout.origin + layout.end
    held = layout.pack(np.arange(1, 17, dtype=np.uint8).reshape(1, 1, *dims))[start:stop]
    above, below = figure.subplots(2, 1, height_ratios=(1, 2.6), sharex=True)
    above.imshow((held > 0)[None], cmap="Blues", vmin=0, vmax=2, aspect="auto", extent=(0, len(held), 0, 1))
    for place, value in enumerate(held):
        above.text(place + 0.5, 0.45, " abcdefghijklmnop"[value] if value else "0", ha="center", va="center")
        above.axvline(place, color="white", lw=1)
    above.set(yticks=[], title="the image abcd efgh ijkl mnop in memory; white is halo, shared by neighboring rows")
    run = layout.run(window.output(dims))
    shown = {(0, 1): "+1", (1, 2): "+1", (2, 1): "-1"}
    for height, ((row, column), code) in enumerate(reversed(shown.items())):
        phase, shift = window.taps()[row * 3 + column]
        at = layout.offset(0, phase, shift) - start
        color = "tab:green" if code == "+1" else "tab:red"
        below.add_patch(Rectangle((at, height + 0.15), run, 0.7, color=color, alpha=0.35))
        label = f"row {row}, column {column} of the window, code {code}"
        below.text(at + run / 2, height + 0.5, label, ha="center", va="center")
    below.set(ylim=(0, len(shown)), yticks=[], xlabel="place in memory")
    below.set_title("what three weights add or subtract for all output pixels at once: one run each", fontsize=9)


def speed(figure: Any) -> None:
    """How many times faster libraries are than the best of the other engines, from the committed baselines."""
    import json

    axes = figure.subplots(1, len(MACHINES), sharey=True)
    for axis, (key, machine) in zip(axes, MACHINES.items(), strict=True):
        entries = json.loads((ROOT / "benchmarks" / f"baseline-{key}.json").read_text())["entries"]
        cases = [case for case in NETWORKS if f"{case}/1" in entries]
        for shift, (zeros, color) in enumerate({"50%": "0.75", "80%": "tab:blue", "90%": "tab:green"}.items()):
            rows = [entries[f"{case}/1"]["ratios"].get(f"tern {zeros}") for case in cases]
            ratios = [row["peers"][row["best"]]["ratio"] if row else 0 for row in rows]
            places = [at + (shift - 1) * 0.27 for at in range(len(cases))]
            axis.bar(places, ratios, width=0.25, color=color, label=f"{zeros} zeros")
        axis.axhline(1, color="black", lw=1)
        axis.set_xticks(range(len(cases)), [NETWORKS[case] for case in cases])
        axis.set_title(f"{machine}, one thread", fontsize=9)
    axes[0].set_ylabel("time of the best other\nengine / ours")
    axes[0].legend(frameon=False)


PICTURES: dict[str, tuple[Callable[[Any], None], tuple[float, float]]] = {
    "ternary-weights": (ternary_weights, (10, 2.4)),
    "speed": (speed, (10, 2.8)),
    "halo": (halo, (10, 3.0)),
}


def draw(name: str, path: Path) -> None:
    """Draw one picture."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    function, size = PICTURES[name]
    with plt.rc_context({"svg.hashsalt": name, "font.size": 9}):
        figure = plt.figure(figsize=size, layout="constrained")
        function(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def write_pictures() -> None:
    """Draw all."""
    for name in PICTURES:
        draw(name, PAGES / f"{name}.svg")
    draw("ternary-weights", PAGES / "thumbnail.png")  # of tutorials without a picture
