"""Tables and JSON of counted instructions."""

from __future__ import annotations

from typing import Any

from benchmarks.arm import mca
from benchmarks.arm.count import CLASSES, Region

__all__ = ["blocks", "row", "steps", "table"]


def row(what: str, target: str, engine: str, region: Region, cycles: bool, zeros: float | None) -> dict[str, Any]:
    """One engine's figures in JSON types; ``cycles`` are None without LLVM's tools, ``zeros`` where all is dense."""
    return {
        "what": what,
        "zeros": zeros,
        "target": target,
        "engine": engine,
        "instructions": region.counts,
        "cycles": mca.estimate(region.blocks, mca.CORES[target]) if cycles else None,
        "kept": region.kept,
    }


def _thousands(number: float | None) -> str:
    return "" if number is None else f"{number / 1000:,.0f}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in rows) for i in range(len(rows[0]))]
    left = 3  # the first columns are words
    lines = []
    for line in rows:
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> str:
    """Thousands of instructions by class and of cycles, and their ratios to onnxruntime's on the same CPU."""
    lines = [["what", "target", "engine", "zeros", *CLASSES, "ratio", "cycles", "ratio"]]
    peers = {(r["what"], r["target"]): r for r in rows if r["engine"] == "onnxruntime"}
    for r in rows:
        peer = peers.get((r["what"], r["target"]))
        ours = peer is not None and peer is not r
        ratio = f"{r['instructions']['all'] / peer['instructions']['all']:.3f}" if ours and peer else ""
        timed = f"{r['cycles'] / peer['cycles']:.3f}" if ours and peer and r["cycles"] and peer["cycles"] else ""
        counts = [_thousands(r["instructions"][k]) for k in CLASSES]
        zeros = "" if r["zeros"] is None else f"{r['zeros']:.0%}"
        lines.append([r["what"], r["target"], r["engine"], zeros, *counts, ratio, _thousands(r["cycles"]), timed])
    return _aligned(lines)


def steps(found: list[dict[str, Any]], target: str, cycles: bool) -> str:
    """A network's steps: thousands of instructions by class and of cycles."""
    lines = [["step", "kernel", "", *CLASSES, "cycles"]]
    for step in found:
        region = step["region"]
        estimate = mca.estimate(region.blocks, mca.CORES[target]) if cycles else None
        counts = [_thousands(region.counts[k]) for k in CLASSES]
        lines.append([step["name"], step["kernel"], "", *counts, _thousands(estimate)])
    return _aligned(lines)


def blocks(region: Region, count: int, core: str | None) -> str:
    """The hottest blocks: how often they ran, their share, cycles a round, and the code (words without LLVM)."""
    hottest = sorted(region.blocks, key=lambda b: -b.instructions)[:count]
    times = mca.cycles(hottest, core) if core else [None] * len(hottest)
    code = mca.assembly(hottest) if core else [list(block.code) for block in hottest]
    parts = []
    for block, time, lines in zip(hottest, times, code, strict=True):
        head = f"{block.count} x {len(block.code)} instructions, {block.instructions / region.counts['all']:.1%}"
        head += f", {time:.1f} cycles a round on {core}" if time is not None else ""
        parts.append("\n  ".join([head, *lines]))
    return "\n".join(parts)
