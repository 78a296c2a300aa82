"""Compiles, runs on the emulated board under the counting plugin, and reads what the plugin wrote."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arm import models, tools
from tests.arm import board
from tvm_schedules import build
from tvm_schedules.artifact import load_samples, store
from tvm_schedules.bench.peers import quantize
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.frontend.onnx_model import float_model

__all__ = ["CLASSES", "CPUS", "Block", "Region", "layer", "network", "parse"]

CLASSES = ("all", "ldst", "simd", "branch", "scalar", "dot", "mla")
CPUS = {
    "arm": "cortex-a53",
    "a53": "cortex-a53",
    "a55": "cortex-a76",  # QEMU 7.2 has no cortex-a55; this one has the same instructions
    "a72": "cortex-a72",
    "a76": "cortex-a76",
    "neoverse-n1": "neoverse-n1",
    "neoverse-n2": "max,sve=off",  # QEMU 7.2 has no neoverse-n2; this one has i8mm too
}
"""Target of this package -> core that QEMU emulates."""

Counts = dict[str, int]


@dataclass(frozen=True)
class Block:
    """A straight piece of code: how often it ran, and its instructions as hexadecimal words."""

    count: int
    code: tuple[str, ...]

    @property
    def instructions(self) -> int:
        """Instructions executed in it."""
        return self.count * len(self.code)


@dataclass
class Region:
    """What ran between two marks.

    Attributes:
        name: Of the guest.
        counts: Instructions by class, less those of the call.
        blocks: The hottest blocks, those of the call among them.
        kept: Share of the instructions that the blocks hold.
    """

    name: str
    counts: Counts
    blocks: list[Block] = field(default_factory=list)
    kept: float = 0.0


def parse(text: str, names: list[str]) -> list[Region]:
    r"""The plugin's output as regions: the marks ``2 i`` and ``2 i + 1`` are the begin and the end of the ``i``-th.

    >>> parse("mark 0 all=5\nmark 1 all=12\nhot address=10 count=2 code=d503201f,d65f03c0", ["a"])
    [Region(name='a', counts={'all': 7}, blocks=[Block(count=2, code=('d503201f', 'd65f03c0'))], kept=0.57...)]
    """
    regions: list[Region] = []
    before: Counts = {}
    merged: dict[tuple[str, ...], int] = {}
    inside = False
    for line in text.splitlines():
        if line.startswith("mark"):
            _, number, *pairs = line.split()
            now = {k: int(v) for k, v in (pair.split("=") for pair in pairs)}
            inside = int(number) % 2 == 1
            if inside:
                merged = {}
                regions.append(Region(names[int(number) // 2], {k: now[k] - before[k] for k in now}))
            before = now
        elif inside:
            found = re.fullmatch(r"hot address=\w+ count=(\d+) code=(.*)", line)
            assert found is not None, line
            code = tuple(found[2].split(","))
            merged[code] = merged.get(code, 0) + int(found[1])  # a block that was translated twice
            regions[-1].blocks = [Block(n, c) for c, n in merged.items()]
    for region in regions:
        region.kept = sum(block.instructions for block in region.blocks) / region.counts["all"]
    return regions


def _run(job: dict[str, Any], cpu: str, folder: Path, hot: int) -> tuple[dict[str, Region], np.ndarray]:
    """Runs :mod:`.guest`; returns its regions less the cost of a call, and the network's output."""
    counts = folder / "counts.txt"
    job |= {"regions": str(folder / "regions.json"), "output": str(folder / "output.npy")}
    emulator = ["-plugin", f"{tools.plugin()},out={counts},hot={hot}"]
    guest = str(Path(__file__).with_name("guest.py"))
    done = board.run([guest, json.dumps(job)], cpu, timeout=900, emulator=emulator)
    if done.returncode:
        raise board.BoardError(f"{job['engine']} failed on {cpu}: {done.stderr.strip()[-2000:]}")
    regions = parse(counts.read_text(), json.loads(Path(job["regions"]).read_text()))
    call = regions[0].counts
    for region in regions[1:]:
        region.counts = {k: v - call[k] for k, v in region.counts.items()}
    return {region.name: region for region in regions}, np.load(job["output"])


def _tern(model: Any, target: str, folder: Path, hot: int) -> tuple[list[dict[str, Any]], dict[str, Region]]:
    artifact = build(model, folder / "artifact", target, verify=False)
    steps = artifact.metadata["steps"]
    regions, output = _run({"engine": "tern", "artifact": str(artifact.path)}, CPUS[target], folder, hot)
    wanted = load_samples(artifact.path)[1][0][0]
    error = float(np.linalg.norm(output - wanted) / np.linalg.norm(wanted))
    if not error < 0.05:
        raise board.BoardError(f"the library's output on {CPUS[target]} is wrong: relative error {error:.3g}")
    return [{**step, "region": regions[f"step {i}"]} for i, step in enumerate(steps)], regions


def _peer(model: Path, inputs: dict[str, Any], cpu: str, folder: Path, hot: int) -> Region:
    np.savez(folder / "inputs.npz", **inputs)
    job = {
        "engine": "onnxruntime",
        "model": str(model),
        "nothing": str(models.nothing(folder / "nothing.onnx")),
        "inputs": str(folder / "inputs.npz"),
    }
    return _run(job, cpu, folder, hot)[0]["network"]


def layer(name: str, zeros: float, target: str, folder: Path, hot: int = 0, peer: bool = True) -> dict[str, Region]:
    """Counts one layer of :data:`.models.LAYERS` or :data:`.models.LINEARS`.

    Args:
        name: Which.
        zeros: Share of zeros of ternary weights.
        target: Key of :data:`CPUS`.
        folder: Empty, for files.
        hot: How many blocks of code to keep a region.
        peer: Whether to count onnxruntime too.

    Returns:
        ``tern``: the layer's step; ``tern whole``: with the copies from float and to float; ``onnxruntime``, for
        convolutions: a session of one ``QLinearConv``, less the call.

    Raises:
        board.BoardError: Something cannot be prepared or failed, or a result is wrong.
    """
    one: models.Layer | models.LinearLayer = models.LAYERS[name] if name in models.LAYERS else models.LINEARS[name]
    steps, regions = _tern(one.ours(zeros), target, folder, hot)
    found = {
        "tern": max((step["region"] for step in steps), key=lambda region: region.counts["all"]),
        "tern whole": regions["network"],
    }
    if peer and isinstance(one, models.Layer):
        path = folder / "peer.onnx"
        path.write_bytes(one.peer())
        found["onnxruntime"] = _peer(path, {"x": one.peer_input()}, CPUS[target], folder, hot)
    return found


def network(model: Any, target: str, folder: Path, hot: int = 0, peer: bool = True) -> dict[str, Any]:
    """Counts a whole network, from float input to float output.

    Returns:
        ``tern`` and ``onnxruntime`` (8-bit by its own quantizer): regions; ``steps``: the plan's steps with a
        ``region`` each.
    """
    steps, regions = _tern(model, target, folder, hot)
    found: dict[str, Any] = {"tern": regions["network"], "steps": steps}
    if peer:
        artifact = folder / "artifact"
        source, path = folder / "float.onnx", folder / "int8.onnx"
        source.write_bytes(float_model(read_model(artifact / store.MODEL)).SerializeToString())
        quantize(source, path, artifact)
        inputs, _ = load_samples(artifact)
        names = [entry["name"] for entry in store.read_metadata(artifact)["inputs"]]
        found["onnxruntime"] = _peer(path, dict(zip(names, inputs[0], strict=True)), CPUS[target], folder, hot)
    return found
