"""The page about microcontrollers, of what ``python -m benchmarks.mcu --json`` wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.mcu.cores import CORES

__all__ = ["mcu"]

TITLES = {
    "resnet8": "ResNet-8",
    "ds-cnn": "DS-CNN",
    "mobilenet": "MobileNetV1 0.25",
    "autoencoder": "autoencoder",
    "conv3x3": "convolution 3x3, 64 to 64 channels, 16x16",
    "pointwise": "convolution 1x1, 64 to 64 channels, 25x5",
    "linear": "linear 640 to 128",
}


def mcu(data: Mapping[str, Any], peers: Mapping[str, Any]) -> list[str]:
    """The page about microcontrollers.

    Args:
        data: What ``benchmarks.mcu --json`` wrote.
        peers: The recorded figures of CMSIS-NN and TFLite Micro.
    """
    rows = data["rows"]
    zeros = list(dict.fromkeys(row["zeros"] for row in rows))
    works = list(dict.fromkeys((row["what"], row["depthwise"]) for row in rows))
    found = {(row["core"], row["what"], row["depthwise"], row["zeros"]): row for row in rows}
    sources = ", ".join(peers["sources"])
    lines = [
        "# Microcontrollers: counted instructions",
        "",
        *_text(
            "No hardware was used. These are instructions for one run, 8-bit input, counted by QEMU, in thousands;",
            "memory, pipelines and caches are not in them, so they are no cycles. In brackets is the ratio to",
            "CMSIS-NN's int8 kernels where these were counted: less is better for us. Networks are those of MLPerf",
            "Tiny with random weights; their first, last and depthwise layers are dense with 8 bits, except where it",
            "says that depthwise layers are ternary too. Every run gave the numbers of the same C code on the",
            f"workstation, bit for bit. The command was `{data['command']}`, {data['when'][:10]}, with",
            f"{' and '.join(data['tools'].values())}.",
        ),
        *_text(f"CMSIS-NN was counted once, in the same way: {sources}. {peers['about']}."),
    ]
    for core in dict.fromkeys(row["core"] for row in rows):
        lines += [f"## {CORES[core].title}", "", _row("zeros", *(f"{share:.0%}" for share in zeros), "CMSIS-NN")]
        lines += ["|---|" + "---:|" * (len(zeros) + 1)]
        for what, depthwise in works:
            theirs = peers["thousands"].get(what, {}).get(core)
            cells = []
            for share in zeros:
                thousands = found[core, what, depthwise, share]["instructions"] / 1000
                cells.append(f"{thousands:,.0f}" + (f" ({thousands / theirs:.2f})" if theirs else ""))
            lines.append(_row(_name(what, depthwise), *cells, f"{theirs:,}" if theirs else ""))
        lines.append("")
    return [*lines, *_memory(found, works, zeros, peers["tflm"])]


def _name(what: str, depthwise: bool) -> str:
    return TITLES[what] + (", depthwise ternary" if depthwise else "")


def _memory(
    found: Mapping[tuple[Any, ...], Mapping[str, Any]], works: Sequence[Any], zeros: Sequence[float], peers: Any
) -> Iterator[str]:
    """Bytes on a Cortex-M4."""
    yield from (
        "## Flash and RAM on a Cortex-M4",
        "",
        *_text("Flash is code and tables. The arena is the RAM between the layers; input and output are the caller's."),
        _row("bytes", *(f"flash, {share:.0%}" for share in zeros), "TFLM", "arena", "TFLM", "stack"),
        "|---|" + "---:|" * (len(zeros) + 4),
    )
    for what, depthwise in works:
        ours = [found["m4", what, depthwise, share] for share in zeros]
        theirs = [f"{peers[what][part]:,}" if what in peers else "" for part in ("flash", "arena")]
        cells = [*(f"{one['flash']:,}" for one in ours), theirs[0], f"{ours[0]['arena']:,}", theirs[1]]
        yield _row(_name(what, depthwise), *cells, f"{max(one['stack'] for one in ours):,}")
    yield ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(*sentences: str) -> list[str]:
    """A paragraph in lines, and an empty one after it."""
    return [*textwrap.wrap(" ".join(sentences), 130, break_long_words=False, break_on_hyphens=False), ""]
