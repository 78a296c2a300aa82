"""One network in a process of its own: ``python -m benchmarks.zoo.one NAME FOLDER`` writes ``FOLDER/result.json``.

Whatever happens to it (an exception, a crash, a network that takes too long) is a row of the table, and not its end.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.zoo.files import FILES
from tests.zoo.registry import NETWORKS, build

ROUNDS, SECONDS = 7, 0.2
"""Interleaved rounds, and seconds of an engine in each."""


def measure(name: str, folder: Path, timed: bool, keep: Any, quick: bool = False) -> dict[str, Any]:
    """Export a network, let it be verified, and measure it beside onnxruntime.

    Args:
        name: A key of the zoo.
        folder: Gets the artifact.
        timed: Whether to measure times.
        keep: Called with what there is after every stage.
        quick: Stop where code would be generated.

    Returns:
        ``stage``: the last one that was begun; ``result``: ``ok``, ``refused``, ``wrong``, ``failed``, or ``lowered``
        where it was to be quick; ``error`` and
        ``raised``; ``seconds`` of the export, ``bytes`` of the artifact, ``relative`` difference of the library,
        ``ternary`` layers, ``steps`` by kernel, ``times`` by engine in milliseconds, ``ratios`` to them.
    """
    import tvm_schedules
    from tern_lightning.exporter import ExportError
    from tern_lightning.exporter import VerificationError as FileError
    from tvm_schedules.errors import TernError, VerificationError

    row: dict[str, Any] = {"name": name, "stage": "build", "result": "failed", "error": None}
    try:
        if quick:
            _lower(name, folder, row, keep)
            return row | {"stage": "done", "result": "lowered", "version": tvm_schedules.__version__}
        artifact = _export_file(name, folder, row, keep) if name in FILES else _export(name, folder, row, keep)
        _describe(artifact, row)
        if timed:
            row["stage"] = "time"
            keep(row)
            _time(artifact, row)
        row |= {"stage": "done", "result": "ok"}
    except (VerificationError, FileError) as error:
        row |= {"result": "wrong", "error": str(error), "raised": type(error).__name__}
    except (TernError, ExportError) as error:
        row |= {"result": "refused", "error": str(error), "raised": type(error).__name__}
    except Exception as error:
        row |= {"error": str(error), "raised": type(error).__name__, "where": traceback.format_exc().splitlines()[-6:]}
    row["version"] = tvm_schedules.__version__
    return row


def _export(name: str, folder: Path, row: dict[str, Any], keep: Any) -> Path:
    import tern_lightning

    example = build(name)
    row["stage"] = "export"
    keep(row)

    def note(line: str) -> None:
        row["line"] = line
        keep(row)

    started = time.perf_counter()
    result = tern_lightning.export(
        example.module, folder / "artifact", samples=example.inputs, batch_size=example.batch, progress=note
    )
    row["seconds"] = time.perf_counter() - started
    row["ternary"] = len(result.network.ternary)
    return Path(result.output)


def _export_file(name: str, folder: Path, row: dict[str, Any], keep: Any) -> Path:
    import tvm_schedules

    file = FILES[name]
    row["stage"] = "export"
    keep(row)

    def note(line: str) -> None:
        row["line"] = line
        keep(row)

    started = time.perf_counter()
    tvm_schedules.build(
        file.load(),
        folder / "artifact",
        input_shapes=file.shapes,
        constants=file.constants,
        samples=file.inputs(),
        progress=note,
    )
    row["seconds"] = time.perf_counter() - started
    return folder / "artifact"


def _lower(name: str, folder: Path, row: dict[str, Any], keep: Any) -> None:
    """Write a network's file, which is held against torch, and choose kernels for all of it."""
    import tern_lightning
    from tvm_schedules import pipeline
    from tvm_schedules.backends.cpu.lower import CpuLowering
    from tvm_schedules.frontend import onnx_model
    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.targets.registry import resolve

    if name in FILES:
        row["stage"] = "lower"
        model = read_model(FILES[name].load())
        onnx_model.fix_inputs(model, FILES[name].constants)
        onnx_model.fix_shapes(model, FILES[name].shapes)
    else:
        example = build(name)
        row["stage"] = "export"
        keep(row)
        result = tern_lightning.export(
            example.module, folder / "artifact", samples=example.inputs, batch_size=example.batch, onnx_only=True
        )
        row |= {"stage": "lower", "ternary": len(result.network.ternary)}
        model = read_model(result.onnx)
    keep(row)
    lowering = CpuLowering(pipeline.read_graph(model), resolve("host"), None)
    lowering.run()
    kernels = [step.kernel for step in lowering.steps]
    row["steps"] = {kernel: kernels.count(kernel) for kernel in sorted(set(kernels))}


def _describe(artifact: Path, row: dict[str, Any]) -> None:
    from tvm_schedules.artifact import store
    from tvm_schedules.bench import peers

    metadata = store.read_metadata(artifact)
    row["bytes"] = peers.ours(artifact, metadata).bytes
    row["relative"] = max(entry["relative"] for entry in metadata["verification"]["outputs"])
    kernels = [step["kernel"] for step in metadata["steps"]]
    row["steps"] = {kernel: kernels.count(kernel) for kernel in sorted(set(kernels))}


def _time(artifact: Path, row: dict[str, Any]) -> None:
    from tvm_schedules.bench.measure import Request, bench

    done = bench(artifact, Request(rounds=ROUNDS, seconds=SECONDS))
    engines = {engine["name"]: engine for engine in done["results"][0]["engines"]}
    row["times"] = {one: engine["median_ms"] for one, engine in engines.items()}
    row["ratios"] = {one: engine["ratio"] for one, engine in engines.items() if one != "tern"}
    skipped = [*done["skipped"], *done["results"][0]["skipped"]]
    row["skipped"] = {entry["name"]: entry["reason"] for entry in skipped}
    row["load"] = [done["before"].get("load"), done["after"].get("load")]
    steps = sorted(done["results"][0]["steps"], key=lambda step: -step["us"])
    row["slowest"] = [[step["name"], step["op"], step["kernel"], round(step["us"], 1)] for step in steps[:8]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the row after every stage, so that a crash leaves what there was."""
    name, place, *more = sys.argv[1:] if arguments is None else arguments
    assert name in NETWORKS or name in FILES, name
    warnings.filterwarnings("ignore")
    folder = Path(place)
    target = folder / "result.json"

    def keep(row: dict[str, Any]) -> None:
        part = target.with_suffix(".part")
        part.write_text(json.dumps(row))
        part.replace(target)

    keep(measure(name, folder, "--no-times" not in more, keep, "--quick" in more))


if __name__ == "__main__":
    main()
