"""What the compiler's process does: fills an artifact's directory, and verifies what it has written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tvm_schedules import pipeline
from tvm_schedules.artifact import metadata, store, weights
from tvm_schedules.artifact.job import SAMPLES, Job
from tvm_schedules.artifact.load import load
from tvm_schedules.artifact.samples import read_runs, save_samples
from tvm_schedules.backends import registry
from tvm_schedules.backends.base import Backend, Say
from tvm_schedules.errors import ModelError
from tvm_schedules.frontend import onnx_model
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.frontend.plain_operators import with_plain_operators
from tvm_schedules.ir.graph import Graph
from tvm_schedules.runtime.model import Model
from tvm_schedules.targets.registry import TargetSpec, resolve
from tvm_schedules.verify import batch_axis
from tvm_schedules.verify import outputs as verification
from tvm_schedules.verify.layerwise import only_amplified
from tvm_schedules.verify.reference import reference_outputs
from tvm_schedules.verify.samples import random_samples

if TYPE_CHECKING:
    from tvm_schedules.tuner import Tuning

__all__ = ["fill", "run"]

LOOKED_AT = 4
"""Runs that are looked at layer by layer where outputs alone do not decide."""

Array = npt.NDArray[Any]
Runs = Sequence[Mapping[str, Array]]


def run(job: Job, say: Say, ask: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Do a job.

    Args:
        job: Which.
        say: For lines of progress.
        ask: Lets the parent do something, by a name, with JSON values.

    Returns:
        ``metadata``, ``report`` and ``tuning`` (the layers that were tuned), in JSON types.

    Raises:
        TernError: As :func:`tvm_schedules.build`.
    """
    folder, place = Path(job.folder), Path(job.work)
    model = read_model(folder / store.MODEL)
    names = [entry["name"] for entry in onnx_model.signature(model, "input")]
    runs = read_runs(place / SAMPLES, names) if job.samples else None
    tuning = None
    if job.tuning is not None:
        from tvm_schedules.tuner.apart import tuning_of

        tuning = tuning_of(job.tuning, place, ask)
    spec = resolve("host") if job.spec is None else job.spec
    content, report = fill(folder, model, spec, runs, job.check, tuning, say)
    layers = None if tuning is None else [layer.to_json() for layer in tuning.layers]
    return {"metadata": content, "report": None if report is None else report.to_dict(), "tuning": layers}


def fill(
    folder: Path,
    model: Any,
    spec: TargetSpec,
    samples: Runs | None,
    check: bool,
    tuning: Tuning | None,
    say: Say,
) -> tuple[dict[str, Any], verification.Report | None]:
    """Write every file of an artifact but the network's, which is there.

    Args:
        folder: The artifact's directory.
        model: The network, with fixed shapes.
        spec: What for.
        samples: The runs to verify with, inputs by name; None draws some.
        check: Whether to verify.
        tuning: How to tune, None for the cost model's configs.
        say: Called with a line of text before each stage.

    Returns:
        The metadata and the report of the verification.

    Raises:
        TernError: As :func:`tvm_schedules.build`.
    """
    backend = registry.for_target(spec)
    say("reading the graph")
    graph = pipeline.read_graph(model)  # refuses what would take memory without bounds, before anything runs it
    runs = random_samples(model) if samples is None else samples
    say(f"reference: {len(runs)} run{'s' if len(runs) > 1 else ''} with onnxruntime")
    try:
        expected = reference_outputs(model, runs)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run the model: {str(error).strip().splitlines()[0]}") from error
    started = time.perf_counter()
    configs = None if tuning is None else tuning.choose(graph, spec, say)
    compiled = pipeline.compile_graph(graph, spec, say, configs)
    code = compiled.write(folder, say)
    seconds = time.perf_counter() - started
    plan = compiled.plan.counting(batch_axis.counting(model, runs, expected))
    if backend.stored_weights:
        weights.write(folder / store.WEIGHTS, compiled.arrays, plan.constants)
    save_samples(folder, runs, expected)
    lacking = backend.unavailable(spec) if backend.stand_in(spec) is None else None
    more: dict[str, Any] = {"code": code} if code else {}
    if code or lacking:
        more["unverified"] = lacking
    if tuning is not None:
        more["tuning"] = [layer.to_json() for layer in tuning.layers]
    content = store.write_metadata(folder, metadata.describe(model, spec, plan, seconds, None) | more)
    report = None
    if check and lacking:
        say(f"NOT VERIFIED, the kernels were not run: {lacking}")
    elif check:
        say("verify")
        report = _verify(folder, model, graph, spec, runs, expected)
        content = store.write_metadata(folder, metadata.describe(model, spec, plan, seconds, report.to_dict()) | more)
    return content, report


def _runner(folder: Path, graph: Graph, spec: TargetSpec, backend: Backend) -> tuple[Model, TargetSpec, str]:
    """What can be run here in place of an artifact: itself, or a stand-in; with the target of it, and in words."""
    reason = backend.unavailable(spec)
    if reason is None:
        loaded = load(folder)
        return loaded, spec, loaded.what
    other = backend.stand_in(spec)
    assert other is not None
    return pipeline.run_in_memory(graph, other), other, f"{other.name} build of the same graph ({reason})"


def _verify(
    folder: Path, model: Any, graph: Graph, spec: TargetSpec, runs: Runs, expected: Sequence[Sequence[Array]]
) -> verification.Report:
    """Run the new code, or a stand-in of it where this machine cannot, and compare.

    Raises:
        VerificationError: The outputs differ.
    """
    backend = registry.for_target(spec)
    runner, used, where = _runner(folder, graph, spec, backend)
    outputs = verification.run_all(runner, runs)
    report = verification.compare_runs(model, outputs, expected, where, runs)

    def probing(probe: Any) -> Any:
        return pipeline.run_in_memory(pipeline.read_graph(probe), used)

    model = with_plain_operators(model)  # whose bytes may be looked at
    if not report.passed and report.quantized:
        report = replace(report, layers=only_amplified(model, runs[:LOOKED_AT], outputs[:LOOKED_AT], probing))
    if not report.passed:
        report = replace(report, first_difference=verification.first_difference(model, runs, probing))
    report.check()
    if used is spec:
        backend.finish(folder, runner, runs[0])
    return report
