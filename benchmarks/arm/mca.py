"""Cycles by LLVM's machine code analyzer: its model of a core, no caches, every block as if it ran back to back."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence

from benchmarks.arm import tools
from benchmarks.arm.count import Block

__all__ = ["CORES", "assembly", "cycles", "estimate"]

CORES = {
    "arm": "cortex-a53",
    "a53": "cortex-a53",
    "a55": "cortex-a55",
    "a72": "cortex-a72",
    "a76": "cortex-a76",
    "neoverse-n1": "neoverse-n1",
    "neoverse-n2": "neoverse-n2",
}
"""Target -> core that LLVM has a model of; cortex-a72 and cortex-a76 share the one of cortex-a57."""

ITERATIONS = 100
UNKNOWN = "nop"  # for what LLVM cannot read or has no costs of


def _run(tool: str, options: list[str], text: str) -> str:
    path = tools.llvm_tool(tool)
    if path is None:
        raise FileNotFoundError(f"{tool} of LLVM {tools.LLVM} is not installed (Debian: apt-get install llvm-22)")
    done = subprocess.run([path, *options], input=text, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stderr.strip()[:500]}")
    return done.stdout


def assembly(blocks: Sequence[Block]) -> list[list[str]]:
    """Every block's instructions as text.

    Raises:
        FileNotFoundError: LLVM's tools are not installed.
    """
    words = sorted({word for block in blocks for word in block.code})
    lines = [" ".join(f"0x{byte:02x}" for byte in int(word, 16).to_bytes(4, "little")) for word in words]
    found = _run("llvm-mc", ["--disassemble", "-triple=aarch64", "-mattr=+all"], "\n".join(lines))
    text = [
        line.strip().replace("\t", " ") for line in found.splitlines() if line.startswith("\t") and "\t." not in line
    ]
    if len(text) != len(words):
        raise RuntimeError(f"llvm-mc read {len(text)} of {len(words)} instructions")
    names = dict(zip(words, text, strict=True))
    return [[names[word] for word in block.code] for block in blocks]


def _local(line: str) -> str:
    """Branches go to the block itself: the analyzer wants labels, not distances."""
    if line.startswith(("bl ", "casa", "cas", "swp", "ldadd")):
        return UNKNOWN
    line = re.sub(r"^b(\.\w+)?\s+#?.*$", "b.ne .Lblock", line)
    line = re.sub(r"^((?:cbn?z|tbn?z)\s+.*,\s*)#-?\w+$", r"\1.Lblock", line)
    return re.sub(r"^(adrp?\s+\w+,\s*)#.*$", r"\1.Lblock", line)


def cycles(blocks: Sequence[Block], core: str) -> list[float]:
    """Cycles of one round of every block, of many rounds back to back.

    Raises:
        FileNotFoundError: LLVM's tools are not installed.
        RuntimeError: They do not take the code.
    """
    parts = [".Lblock:"]
    for index, lines in enumerate(assembly(blocks)):
        parts += [f"// LLVM-MCA-BEGIN {index}", *map(_local, lines), f"// LLVM-MCA-END {index}"]
    options = ["-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}", "--json", "--instruction-info=false"]
    options += ["--resource-pressure=false", "-skip-unsupported-instructions=lack-sched"]
    regions = json.loads(_run("llvm-mca", options, "\n".join(parts) + "\n"))["CodeRegions"]
    found = {int(region["Name"]): region["SummaryView"]["TotalCycles"] / ITERATIONS for region in regions}
    return [float(found.get(index, 0.0)) for index in range(len(blocks))]


def estimate(blocks: Sequence[Block], core: str) -> float:
    """Cycles of all that was kept of a region; raises as :func:`cycles`."""
    return sum(block.count * each for block, each in zip(blocks, cycles(blocks, core), strict=True))
