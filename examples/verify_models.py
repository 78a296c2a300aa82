"""Export well-known networks with random ternary weights and hold the libraries against onnxruntime.

    python -m examples.verify_models resnet20 resnet18 mobilenetv2

Every network is exported with 8-bit activations and run on random inputs that neither calibration nor export have
seen. onnxruntime runs the very ONNX file of the artifact, without graph optimisation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from examples.models import MODELS, random_inputs, randomly_ternary

CLEAR = 0.01
"""Both engines compute integer sums exactly, but round what lies on the edge between two steps by their own float32
arithmetic: about one activation in 65536 a layer. Such a step travels on and grows in a network of random weights."""


@dataclass(frozen=True)
class Verified:
    """How one network came out.

    Attributes:
        name: Of the network.
        inputs: Number of random inputs.
        equal: How many of them get the same class from the library and from onnxruntime.
        classes: Different classes among onnxruntime's answers.
        relative: Largest difference of a logit, as a share of the largest logit.
        clear: How many inputs have a clear answer: two best logits further apart than :data:`CLEAR` of the largest one.
        clear_equal: How many of those get the same class.
        seconds: Export with compilation and verification.
        latency: Median of a run of the library, milliseconds, all threads; tern-bench measures properly.
        file_bytes: Size of library and weights.
    """

    name: str
    inputs: int
    equal: int
    classes: int
    relative: float
    clear: int
    clear_equal: int
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
    import onnx

    import tern_lightning
    import tvm_schedules
    from tvm_schedules.verify import reference_session

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
    session = reference_session(onnx.load(output / "model.onnx"))
    feed = session.get_inputs()[0].name
    theirs = [session.run(None, {feed: image[None]})[0][0] for image in images]
    a, b = np.stack(ours), np.stack(theirs)
    same = a.argmax(1) == b.argmax(1)
    best = np.sort(b, axis=1)
    clear = (best[:, -1] - best[:, -2]) / np.abs(b).max() > CLEAR
    return Verified(
        name=name,
        inputs=count,
        equal=int(same.sum()),
        classes=len(np.unique(b.argmax(1))),
        relative=float(np.abs(a - b).max() / np.abs(b).max()),
        clear=int(clear.sum()),
        clear_equal=int((same & clear).sum()),
        seconds=seconds,
        latency=1e3 * float(np.median(times)),
        file_bytes=sum(result.artifact.metadata["files"][file]["bytes"] for file in ("model.so", "weights.npz")),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; 1 when a network fails its verification or disagrees about an input with a clear answer."""
    from rich.console import Console
    from rich.table import Table

    from tvm_schedules.errors import VerificationError

    parser = argparse.ArgumentParser(prog="python -m examples.verify_models", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["resnet20", "resnet18", "mobilenetv2"], help=", ".join(MODELS))
    parser.add_argument("--inputs", type=int, default=100, help="random inputs (default: %(default)s)")
    parser.add_argument("--zeros", type=float, default=0.8, help="fraction of zero weights (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="keep the artifacts here")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.models) - set(MODELS))
    if unknown:
        parser.error(f"models must be among {', '.join(MODELS)}, got {', '.join(unknown)}")
    table = Table(title=f"Random ternary weights, {options.zeros:.0%} zeros, 8-bit activations, against onnxruntime")
    for column in ("network", "top-1 equal", "clear ones", "classes", "max diff", "export s", "ms", "bytes"):
        table.add_column(column, justify="left" if column == "network" else "right")
    agree = True
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
            agree &= found.clear_equal == found.clear
            equal, clear = f"{found.equal}/{found.inputs}", f"{found.clear_equal}/{found.clear}"
            row = (clear, found.classes, f"{found.relative:.1e}", f"{found.seconds:.1f}", f"{found.latency:.3f}")
            table.add_row(name, equal, *map(str, row), f"{found.file_bytes:,}")
    Console().print(table)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
