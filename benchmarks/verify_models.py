"""Export well-known networks with random ternary weights and hold the libraries against onnxruntime.

    python -m benchmarks.verify_models resnet20 resnet18 mobilenetv2

Every network is exported with 8-bit activations and run on random inputs that neither calibration nor export have
seen. onnxruntime runs the very ONNX file of the artifact, without graph optimization. Networks are compared as a
whole, and stage by stage: every 8-bit tensor against onnxruntime's, computed from the library's 8-bit tensors
before it. A value on the edge between two steps may be rounded either way; networks of random weights amplify that
from stage to stage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.random_ternary import random_inputs, randomly_ternary
from examples.models import MODELS
from tvm_schedules.common.files import write_file
from tvm_schedules.engines.system import machine

STAGE_INPUTS = 4
"""Inputs for the comparison stage by stage."""


@dataclass(frozen=True)
class Verified:
    """How one network came out.

    Attributes:
        name: Of the network.
        inputs: Number of random inputs.
        equal: How many of them get the same class from the library and from onnxruntime.
        itself: How many get the same class from onnxruntime with its optimizations and without.
        classes: Different classes among onnxruntime's answers.
        relative: Largest difference of a logit, as a share of the largest logit.
        stages: Number of 8-bit tensors.
        steps: Largest difference of one of them in quantization steps, stage by stage.
        share: Fraction of their elements that differ, in the stage where it is largest.
        seconds: Export with compilation and verification.
        latency: Median of a run of the library, milliseconds, all threads; tern-bench measures properly.
        file_bytes: Size of library, weights and metadata.
    """

    name: str
    inputs: int
    equal: int
    itself: int
    classes: int
    relative: float
    stages: int
    steps: int
    share: float
    seconds: float
    latency: float
    file_bytes: int


def verify(name: str, output: Path, count: int = 100, zeros: float = 0.8, target: str = "host") -> Verified:
    """Export one network and compare.

    Args:
        name: One of :data:`examples.models.MODELS`.
        output: Directory of the artifact.
        count: Random inputs.
        zeros: Fraction of zero weights.
        target: This machine, under any name.
    """
    import tern_lightning
    import tvm_schedules
    from tvm_schedules.bench import peers
    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.verify.layerwise import compare_layers
    from tvm_schedules.verify.reference import reference_session

    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = randomly_ternary(make(), shape, zeros)
    started = time.perf_counter()
    result = tern_lightning.export(
        model, output, target=target, samples=random_inputs(shape, 16, seed=1), activations="uint8"
    )
    seconds = time.perf_counter() - started
    library = tvm_schedules.load(output)
    images, ours, times = random_inputs(shape, count, seed=2).numpy(), [], []
    for image in images:
        begin = time.perf_counter()
        ours.append(library(image[None])[0])
        times.append(time.perf_counter() - begin)
    proto = read_model(output / "model.onnx")
    session = reference_session(proto)
    feed = session.get_inputs()[0].name
    theirs = [session.run(None, {feed: image[None]})[0][0] for image in images]
    default = reference_session(proto, optimized=True)
    again = np.array([default.run(None, {feed: image[None]})[0][0].argmax() for image in images])
    a, b = np.stack(ours), np.stack(theirs)
    same = a.argmax(1) == b.argmax(1)
    stages = compare_layers(proto, [{feed: image[None]} for image in images[:STAGE_INPUTS]], _make_runner(target))
    return Verified(
        name=name,
        inputs=count,
        equal=int(same.sum()),
        itself=int((again == b.argmax(1)).sum()),
        classes=len(np.unique(b.argmax(1))),
        relative=float(np.abs(a - b).max() / np.abs(b).max()),
        stages=len(stages),
        steps=max(stage.steps for stage in stages),
        share=max(stage.share for stage in stages),
        seconds=seconds,
        latency=1e3 * float(np.median(times)),
        file_bytes=peers.ours(result.artifact.path, result.artifact.metadata).bytes,
    )


def _make_runner(target: str) -> Callable[[Any], Callable[..., Any]]:
    """Compiles a model and loads it; the artifact is not kept."""
    import tvm_schedules

    def make(model: Any) -> Callable[..., Any]:
        with tempfile.TemporaryDirectory(prefix="verify-models-") as folder:
            tvm_schedules.build(model, Path(folder) / "probe", target, verify=False)
            return tvm_schedules.load(Path(folder) / "probe")

    return make


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; 1 when a network fails its verification or a stage is more than one step away."""
    from rich.console import Console
    from rich.table import Table

    from tvm_schedules.errors import VerificationError

    parser = argparse.ArgumentParser(prog="python -m benchmarks.verify_models", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["resnet20", "resnet18", "mobilenetv2"], help=", ".join(MODELS))
    parser.add_argument("--inputs", type=int, default=100, help="random inputs (default: %(default)s)")
    parser.add_argument("--zeros", type=float, default=0.8, help="fraction of zero weights (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="keep the artifacts here")
    parser.add_argument("--json", type=Path, help="write what was found, with machine and date")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.models) - set(MODELS))
    if unknown:
        parser.error(f"models must be among {', '.join(MODELS)}, got {', '.join(unknown)}")
    table = Table(title=f"Random ternary weights, {options.zeros:.0%} zeros, 8-bit activations, against onnxruntime")
    for column in (
        "network",
        "top-1 equal",
        "ort itself",
        "classes",
        "max diff",
        "stages",
        "steps",
        "differ",
        "export s",
        "ms",
        "bytes",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    agree, rows = True, []
    with tempfile.TemporaryDirectory(prefix="verify-models-") as temporary:
        for name in options.models:
            print(f"== {name}", flush=True)
            try:
                found = verify(name, (options.output or Path(temporary)) / name, options.inputs, options.zeros)
            except VerificationError as error:
                print(error, file=sys.stderr)
                table.add_row(name, "FAILED")
                agree = False
                continue
            agree &= found.steps <= 1
            rows.append({**dataclasses.asdict(found), "zeros": options.zeros})
            row = [found.classes, f"{found.relative:.1e}", found.stages, found.steps, f"{found.share:.1e}"]
            row += [f"{found.seconds:.1f}", f"{found.latency:.3f}", f"{found.file_bytes:,}"]
            table.add_row(name, f"{found.equal}/{found.inputs}", f"{found.itself}/{found.inputs}", *map(str, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if options.json:
        command = shlex.join(
            ["python", "-m", "benchmarks.verify_models", *(sys.argv[1:] if arguments is None else arguments)]
        )
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = json.dumps({"command": command, "when": when, "machine": machine(), "rows": rows}, indent=1)
        write_file(options.json, text + "\n")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
