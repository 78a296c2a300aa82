"""Text of the page about emulated ARM cores: our counts beside the best of other engines, and what was to be reached.

:mod:`benchmarks.pages` writes it, of ``arm.json`` and ``arm-32.json``, which ``benchmarks.arm --json`` and
``benchmarks.arm.c32 --json`` wrote, and of ``arm-peers.json``, which keeps what other engines took when they were
counted once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measured_pages import paragraph, table_row

__all__ = ["AIMS", "Line", "lines", "page"]

CORES = {
    "a53": "Cortex-A53",
    "a72": "Cortex-A72",
    "a76": "Cortex-A76",
    "neoverse-n2": "Neoverse N2 (i8mm)",
}
WORK = {
    "conv3x3": "convolution 3x3, 64 to 64 channels, 16x16",
    "conv3x3-shared4": "the same, four channels share zeros",
    "dense3x3": "the same, 8-bit weights",
    "depthwise": "depthwise 3x3, 128 channels, 16x16, 8-bit weights",
    "linear": "linear 1024x1024, one row",
    "classifier": "linear 1280 to 1000, one row, 8-bit weights",
    "stem": "convolution 3x3, 3 to 16 channels, 32x32, 8-bit weights",
    "resnet20": "ResNet-20",
    "mobilenetv2": "MobileNetV2, 224x224",
}
ALONE = {"depthwise", "classifier", "stem"}
"""What other engines were counted without the copies from floats and to floats."""
SAME = {"conv3x3-shared4": "conv3x3", "dense3x3": "conv3x3"}
"""What is the same to engines that compute with all weights."""
AIMS: dict[tuple[str, float | None], tuple[float, float, float | None]] = {
    ("conv3x3", 0.5): (1.1, 0.9, 0.8),
    ("conv3x3", 0.8): (2.3, 1.6, 1.3),
    ("conv3x3", 0.9): (3.6, 2.4, 2.0),
    ("resnet20", 0.5): (1.6, 0.9, 0.8),
    ("resnet20", 0.8): (3.3, 2.2, 1.7),
    ("resnet20", 0.9): (5.0, 3.4, 2.6),
    ("mobilenetv2", 0.8): (2.6, 1.5, 1.3),
    ("mobilenetv2", 0.9): (3.2, 1.8, 1.6),
    ("linear", 0.5): (1.0, 1.0, 1.0),
    ("dense3x3", None): (1.0, 1.0, 0.9),
    ("depthwise", None): (1.0, 1.0, 0.9),
    ("classifier", None): (1.0, 1.0, 0.9),
}
"""Work and share of zeros -> the best engine's instructions over ours that were to be reached: without dot products,
with them, and with i8mm."""
KIND = {"a53": 0, "a72": 0, "a76": 1, "neoverse-n2": 2}
"""Core -> which of the three."""


class Line:
    """One piece of work on one core.

    Args:
        ours: Our row.
        peers: The other engines' rows.
    """

    def __init__(self, ours: Mapping[str, Any], peers: Sequence[Mapping[str, Any]]) -> None:
        self.ours = ours
        self.count = ours["instructions"]["all"]
        self.best = min(peers, key=lambda peer: peer["instructions"], default=None)
        aims = AIMS.get((ours["what"], ours["zeros"]))
        self.aim = aims[KIND[ours["target"]]] if aims and self.best else None

    @property
    def ratio(self) -> float | None:
        """The best engine's instructions over ours."""
        return self.best["instructions"] / self.count if self.best else None

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached, to as many digits as it has; None without one."""
        return None if self.aim is None or self.ratio is None else round(self.ratio, 1) >= self.aim

    def cells(self) -> list[str]:
        """The table's row."""
        zeros = "" if self.ours["zeros"] is None else f"{self.ours['zeros']:.0%}".replace("%", " %")
        best = f"{self.best['engine']} {_thousands(self.best['instructions'])}" if self.best else ""
        cycles = self.ours["cycles"]
        return [
            WORK[self.ours["what"]],
            zeros,
            _thousands(self.count),
            "" if cycles is None else _thousands(cycles),
            best,
            "" if self.ratio is None else f"{self.ratio:.2f}",
            "" if self.aim is None else f"{self.aim}, {'reached' if self.reached else 'missed'}",
        ]


def lines(data: Mapping[str, Any], peers: Mapping[str, Any], target: str) -> list[Line]:
    """All that was counted on a core: layers with their copies where the others have them, networks whole."""
    found = []
    others = [*peers["rows"], *(_measured(one) for one in data["rows"] if one["engine"] == "onnxruntime")]
    for ours in data["rows"]:
        what = ours["what"]
        layer = any(one["what"] == what and one["engine"] == "tern whole" for one in data["rows"])
        if ours["target"] != target or ours["engine"] != ("tern whole" if layer and what not in ALONE else "tern"):
            continue
        same = SAME.get(what, what)
        found.append(Line(ours, [one for one in others if (one["what"], one["target"]) == (same, target)]))
    return found


def _measured(one: Mapping[str, Any]) -> dict[str, Any]:
    """A row of onnxruntime the same run, as recorded ones are."""
    return {**one, "engine": "onnxruntime int8", "instructions": one["instructions"]["all"]}


def page(data: Mapping[str, Any], peers: Mapping[str, Any], narrow: Mapping[str, Any]) -> list[str]:
    """The page.

    Args:
        data: What ``benchmarks.arm --json`` wrote.
        peers: What is recorded of other engines.
        narrow: What ``benchmarks.arm.c32 --json`` wrote.
    """
    by_core = {name: lines(data, peers, core) for core, name in CORES.items()}
    results = [line.reached for found in by_core.values() for line in found if line.reached is not None]
    versions = ", ".join(f"{name} {version}" for name, version in peers["packages"].items())
    text = [
        "# ARM: counted instructions",
        "",
        *paragraph(
            "No ARM hardware was used. These are instructions for one run, counted by QEMU, in thousands, and",
            "thousands of cycles as llvm-mca 22 estimates them, without caches. Activations have 8 bits. They were",
            f"counted with apache-tvm {data['packages']['apache-tvm']} and onnxruntime",
            f"{data['packages']['onnxruntime']}, last on {data['when'][:10]}, by the commands at the end of this page.",
        ),
        *paragraph(
            "The ratio is the instructions of the best other engine over ours, so more is better for us. Beside it is",
            f"the ratio that was to be reached; {sum(results)} of {len(results)} are. Other engines compute with all",
            "weights, so zeros change nothing for them.",
        ),
        *paragraph(
            f"The other engines were counted once, and this is what was recorded: {peers['how']} Versions: {versions}.",
            f"Conversion: {peers['conversion']}. onnxruntime was also counted in the run of ours.",
        ),
    ]
    for name, found in by_core.items():
        if found:
            text += [f"## {name}", ""]
            text += [
                table_row("", "zeros", "ours", "cycles", "best other", "ratio", "aim"),
                "|---|---:|---:|---:|---|---:|---|",
            ]
            text += [table_row(*line.cells()) for line in found]
            text.append("")
    return [*text, *_of_32_bits(narrow), "", "## Commands", "", *(f"- `{command}`" for command in data["command"]), ""]


def _of_32_bits(data: Mapping[str, Any]) -> list[str]:
    """The networks as C on 32-bit cores."""
    found = {(one["core"], one["zeros"], one["way"]): one["instructions"] for one in data["rows"]}
    text = [
        "## 32-bit cores, as C",
        "",
        *paragraph(
            "32-bit ARM has no libraries: there the network is C (target `c`), which uses NEON. Thousands of",
            f"instructions of one run, {data['when'][:10]}, with ziglang {data['packages']['ziglang']}:",
            f"`{data['command']}`.",
        ),
        table_row("ResNet-20", "zeros", "with NEON", "portable C", "ratio"),
        "|---|---:|---:|---:|---:|",
    ]
    for core, zeros in dict.fromkeys((one["core"], one["zeros"]) for one in data["rows"]):
        pair = [found[core, zeros, way] for way in ("vectors", "scalar")]
        name = core.replace("cortex-a", "Cortex-A")
        text.append(table_row(name, f"{100 * zeros:.0f} %", *map(_thousands, pair), f"{pair[1] / pair[0]:.2f}"))
    return text


def _thousands(number: float) -> str:
    return f"{number / 1000:,.0f}"
