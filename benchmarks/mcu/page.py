"""The page about microcontrollers, of what ``python -m benchmarks.mcu --json`` wrote."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from benchmarks.mcu.cores import CORES
from benchmarks.mcu.report import reference

__all__ = ["mcu", "title"]

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
    ("mobilenet", False): {"m4": 0.55, "m7": 0.55, "m55": 1.0, "m0+": 0.7},
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
    zeros = sorted({row["zeros"] for row in rows})
    works = sorted(
        {(row["what"], row["depthwise"]) for row in rows}, key=lambda work: (list(TITLES).index(work[0]), work[1])
    )
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
            f"workstation, bit for bit. The last ones were counted on {data['when'][:10]} with",
            f"{' and '.join(data['tools'].values())}, by `{'`, `'.join(data['commands'])}`.",
        ),
        *_text(*_about(data, peers)),
    ]
    for core in (core for core in CORES if any(row["core"] == core for row in rows)):
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
            lines.append(_row(title(what, depthwise), *cells, f"{theirs:,}" if theirs else ""))
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


@dataclass(frozen=True)
class _Aim:
    """A share that was aimed at, and what came of it.

    Args:
        what: The network.
        depthwise: Whether its depthwise layers are ternary.
        core: Of :data:`~benchmarks.mcu.cores.CORES`.
        part: Of a row: ``instructions``, ``flash`` or ``arena``.
        of: What it is a share of.
        aim: The share.
        now: Instructions or bytes.
        whole: What the share is taken of.
    """

    what: str
    depthwise: bool
    core: str
    part: str
    of: str
    aim: float
    now: int
    whole: int

    @property
    def reached(self) -> bool:
        """Whether it is, without rounding."""
        return self.now <= self.aim * self.whole


def _all_aims(found: Mapping[tuple[Any, ...], Mapping[str, Any]], peers: Mapping[str, Any]) -> Iterator[_Aim]:
    """Those for which both sides are known."""
    for (what, depthwise), aims in AIMS.items():
        for core, aim in aims.items():
            row, theirs = found.get((core, what, depthwise, 0.8)), peers["thousands"].get(what, {}).get(core)
            if row and theirs:
                of = "CMSIS-NN's instructions"
                yield _Aim(what, depthwise, core, "instructions", of, aim, row["instructions"], 1000 * theirs)
    for what, theirs in peers["tflm"].items():
        row = found.get(("m4", what, False, 0.8))
        if row:
            for part, aim in (("flash", FLASH), ("arena", RAM)):
                yield _Aim(what, False, "m4", part, f"TFLite Micro's {part}", aim, row[part], theirs[part])
            yield _Aim(what, False, "m4", "arena", "live 8-bit tensors", LIVE, row["arena"], row["live"])


def _aims(found: Mapping[tuple[Any, ...], Mapping[str, Any]], peers: Mapping[str, Any]) -> Iterator[str]:
    """What was aimed at and what came of it, where the other side's number is known."""
    yield from ("## Aims, at 80 % zeros", "")
    every = list(_all_aims(found, peers))
    missed = [one for one in every if not one.reached]
    yield from _text(f"{len(every) - len(missed)} of {len(every)} are reached.", *_reasons(missed, found))
    yield from (_row("", "core", "of", "aim", "now", ""), "|---|---|---|---:|---:|---|")
    for one in every:
        name, core, said = title(one.what, one.depthwise), CORES[one.core].title, "reached" if one.reached else "missed"
        yield _row(name, core, one.of, f"{one.aim:.3f}", f"{one.now / one.whole:.3f}", said)
    yield ""


def _reasons(missed: Sequence[_Aim], found: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Iterator[str]:
    """By how much each aim is missed, and of what that is made."""
    for one in missed:
        yield f"{title(one.what, one.depthwise)} on a {CORES[one.core].title}: {one.now:,}"
        yield f"{'instructions' if one.part == 'instructions' else f'bytes of {one.part}'},"
        yield f"{one.now - floor(one.aim * one.whole):,} more than the aim."
        if (one.what, one.part) == ("autoencoder", "flash"):
            dense, other = 2 * 640 * 128, found.get((one.core, "autoencoder-ternary", False, 0.8))
            yield f"Its first and last layer have {dense:,} dense weights of 8 bits; everything else takes"
            yield f"{one.now - dense:,} bytes. No code makes dense bytes smaller."
            if other:
                yield f"With these two layers ternary as well, it is {other['flash']:,} bytes. What that costs in"
                yield "accuracy is not measured here: these are random weights."
        elif one.part == "arena":
            row = found[one.core, one.what, one.depthwise, 0.8]
            yield f"The tensors that live at the same time have {row['live']:,} bytes; the other"
            yield f"{one.now - row['live']:,} are padding around images, planes of whole words, and lists of a"
            yield "layer's weights."


def title(what: str, depthwise: bool) -> str:
    """A network as people call it."""
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
        yield _row(title(what, depthwise), *cells, f"{max(one['stack'] for one in ours):,}")
    yield ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(*sentences: str) -> list[str]:
    """A paragraph in lines, and an empty one after it."""
    return [*textwrap.wrap(" ".join(sentences), 130, break_long_words=False, break_on_hyphens=False), ""]
