"""The page about microcontrollers, of what ``python -m benchmarks.mcu --json`` wrote."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mcu.cores import CORES
from benchmarks.mcu.report import reference

__all__ = ["mcu"]

TITLES = {
    "resnet8": "ResNet-8",
    "resnet8-pairs": "ResNet-8, zeros by pairs of channels",
    "resnet8-fours": "ResNet-8, zeros by fours of channels",
    "ds-cnn": "DS-CNN",
    "mobilenet": "MobileNetV1 0.25",
    "autoencoder": "autoencoder",
    "autoencoder-ternary": "autoencoder, first and last layer ternary",
    "conv3x3": "convolution 3x3, 64 to 64 channels, 16x16",
    "conv3x3-pairs": "the same, zeros by pairs of channels",
    "conv3x3-fours": "the same, zeros by fours of channels",
    "pointwise": "convolution 1x1, 64 to 64 channels, 25x5",
    "linear": "linear 640 to 128",
}


AIMS = {
    ("resnet8", False): {"m4": 0.22, "m7": 0.22, "m55": 0.7, "m0+": 0.6},
    ("ds-cnn", True): {"m4": 0.55, "m7": 0.55, "m55": 1.0, "m0+": 0.6},
    ("mobilenet", True): {"m4": 0.55, "m7": 0.55, "m55": 1.0, "m0+": 0.7},
    ("autoencoder", False): {"m4": 0.6, "m7": 0.6, "m55": 1.2, "m0+": 0.7},
    ("conv3x3", False): {"m4": 0.17, "m7": 0.17, "m55": 0.6, "m0+": 0.5},
    ("linear", False): {"m4": 0.6, "m7": 0.6, "m55": 1.0, "m0+": 0.7},
}
"""Shares of CMSIS-NN's instructions that are aimed at with 80 % zeros, by network and whether depthwise is ternary."""

FLASH, RAM = 1 / 3, 1.0
"""Shares of TFLite Micro's bytes that flash and arena are to stay within, on a Cortex-M4."""

LIVE = 1.15
"""How many times the 8-bit tensors that are needed at the same time an arena may have."""


def mcu(data: Mapping[str, Any]) -> list[str]:
    """The page about microcontrollers.

    Args:
        data: What ``benchmarks.mcu --json`` wrote.
    """
    rows, peers = data["rows"], reference(data.get("cmsis_nn"))
    zeros = list(dict.fromkeys(row["zeros"] for row in rows))
    works = list(dict.fromkeys((row["what"], row["depthwise"]) for row in rows))
    found = {(row["core"], row["what"], row["depthwise"], row["zeros"]): row for row in rows}
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
        *_text(*_about(data, peers)),
    ]
    for core in dict.fromkeys(row["core"] for row in rows):
        lines += [f"## {CORES[core].title}", "", _row("zeros", *(f"{share:.0%}" for share in zeros), "CMSIS-NN")]
        lines += ["|---|" + "---:|" * (len(zeros) + 1)]
        for what, depthwise in works:
            theirs = peers["thousands"].get(what, {}).get(core)
            cells = []
            for share in zeros:
                row = found.get((core, what, depthwise, share))
                thousands = row["instructions"] / 1000 if row else 0
                text = f"{thousands:,.0f}" + (f" ({thousands / theirs:.2f})" if theirs else "")
                cells.append(text if row else "")
            lines.append(_row(_name(what, depthwise), *cells, f"{theirs:,}" if theirs else ""))
        lines.append("")
    return [*lines, *_memory(found, works, zeros, peers["tflm"]), *_aims(found, peers)]


def _about(data: Mapping[str, Any], peers: Mapping[str, Any]) -> Iterator[str]:
    """Where the figures of others are from."""
    if data.get("cmsis_nn"):
        yield "CMSIS-NN's kernels were compiled from its source with its own -Ofast and counted in the same way, the"
        yield "convolutions, linear layers, sums and averages of the same networks one after the other."
        recorded = json.loads(Path(__file__).with_name("cmsis_nn.json").read_text())["thousands"]
        pairs = [
            (data["cmsis_nn"][what][core], thousands)
            for what, cores in recorded.items()
            for core, thousands in cores.items()
            if core in data["cmsis_nn"].get(what, {})
        ]
        apart = max(abs(new / old - 1) for new, old in pairs)
        yield f"They differ from the earlier figures by {apart:.1%} at most:"
    yield f"{peers['about']}: {', '.join(peers['sources'])}."


def _aims(found: Mapping[tuple[Any, ...], Mapping[str, Any]], peers: Mapping[str, Any]) -> Iterator[str]:
    """What was aimed at and what came of it, where the other side's number is known."""
    yield from ("## Aims, at 80 % zeros", "")
    yield from _text(*_reasons(found))
    yield from (_row("", "core", "of", "aim", "now", ""), "|---|---|---|---:|---:|---|")
    for (what, depthwise), aims in AIMS.items():
        for core, aim in aims.items():
            row, theirs = found.get((core, what, depthwise, 0.8)), peers["thousands"].get(what, {}).get(core)
            if row and theirs:
                share = row["instructions"] / 1000 / theirs
                yield _aim(what, depthwise, core, "CMSIS-NN's instructions", aim, share)
    for what, theirs in peers["tflm"].items():
        row = found.get(("m4", what, False, 0.8))
        for part, aim in (("flash", FLASH), ("arena", RAM)):
            if row:
                yield _aim(what, False, "m4", f"TFLite Micro's {part}", aim, row[part] / theirs[part])
        if row and "live" in row:
            yield _aim(what, False, "m4", "live 8-bit tensors", LIVE, row["arena"] / row["live"])
    yield ""


def _reasons(found: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Iterator[str]:
    """Why an aim is missed."""
    row, other = (found.get(("m4", what, False, 0.8)) for what in ("autoencoder", "autoencoder-ternary"))
    if row:
        dense = 2 * 640 * 128
        yield f"The autoencoder's first and last layer have {dense:,} dense weights of 8 bits; everything else takes"
        yield f"{row['flash'] - dense:,} bytes of its flash. No code makes dense bytes smaller, so the aim is missed."
    if row and other:
        yield f"With these two layers ternary as well, flash is {other['flash']:,} bytes. What that costs in accuracy"
        yield "is not measured here: these are random weights."


def _aim(what: str, depthwise: bool, core: str, of: str, aim: float, now: float) -> str:
    reached = "reached" if round(now, 2) <= round(aim, 2) else "missed"
    return _row(_name(what, depthwise), CORES[core].title, of, f"{aim:.2f}", f"{now:.2f}", reached)


def _name(what: str, depthwise: bool) -> str:
    return TITLES[what] + (", depthwise ternary" if depthwise else "")


def _memory(
    found: Mapping[tuple[Any, ...], Mapping[str, Any]], works: Sequence[Any], zeros: Sequence[float], peers: Any
) -> Iterator[str]:
    """Bytes on a Cortex-M4."""
    yield from (
        "## Flash and RAM on a Cortex-M4",
        "",
        *_text(
            "Flash is code and tables. The arena is the RAM between the layers; input and output are the caller's.",
            "Live are the tensors that are needed at the same time, the input among them, a byte for each element;",
            "a sum lies in the place of what it was added to.",
        ),
        _row("bytes", *(f"flash, {share:.0%}" for share in zeros), "TFLM", "arena", "live", "TFLM", "stack"),
        "|---|" + "---:|" * (len(zeros) + 5),
    )
    for what, depthwise in works:
        every = [found.get(("m4", what, depthwise, share)) for share in zeros]
        ours = [row for row in every if row]
        theirs = [f"{peers[what][part]:,}" if what in peers else "" for part in ("flash", "arena")]
        arena, live = max(one["arena"] for one in ours), ours[0].get("live")
        cells = [f"{row['flash']:,}" if row else "" for row in every]
        cells += [
            theirs[0],
            f"{arena:,}" + (f" ({arena / live:.2f})" if live else ""),
            f"{live:,}" if live else "",
            theirs[1],
        ]
        yield _row(_name(what, depthwise), *cells, f"{max(one['stack'] for one in ours):,}")
    yield ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(*sentences: str) -> list[str]:
    """A paragraph in lines, and an empty one after it."""
    return [*textwrap.wrap(" ".join(sentences), 130, break_long_words=False, break_on_hyphens=False), ""]
