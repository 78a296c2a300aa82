"""From an ONNX model to a verified artifact directory."""

from __future__ import annotations

import math
import operator
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.artifact import store, weights
from tvm_schedules.artifact.child import SAMPLES
from tvm_schedules.artifact.load import Model, load
from tvm_schedules.artifact.process import compiler, prepare
from tvm_schedules.backends import toolchain as linking
from tvm_schedules.backends.gpu import artifact as gpu
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import read_arrays, reading
from tvm_schedules.errors import ArtifactError, ModelError, TunerError
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.frontend import onnx_reader as reader
from tvm_schedules.ir.plan import Plan
from tvm_schedules.targets import registry as targets
from tvm_schedules.verify import batch_axis as batch
from tvm_schedules.verify import outputs as verification
from tvm_schedules.verify.reference import reference_outputs
from tvm_schedules.verify.samples import Samples, named_samples, random_samples, split_samples

if TYPE_CHECKING:
    from tvm_schedules.tuner import Tuning

KEPT_RUNS = 8  # samples stored in the artifact
KEPT_BYTES = 1 << 20


@dataclass(frozen=True)
class Artifact:
    """A directory that was just built.

    Attributes:
        path: The directory.
        metadata: Content of its ``metadata.json``.
        report: Result of the verification, None when it was switched off.
    """

    path: Path
    metadata: dict[str, Any]
    report: verification.Report | None

    def load(self, *, threads: int | None = None) -> Model:
        """Load it, see :func:`tvm_schedules.load`."""
        return load(self.path, threads=threads)


def build(
    model: str | os.PathLike[str] | bytes | Any,
    output: str | os.PathLike[str],
    target: str | targets.TargetSpec = "host",
    *,
    samples: Samples | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    batch_sizes: Sequence[int] = (),
    verify: bool = True,
    tune: Tuning | str | Path | bool | None = None,
    progress: Callable[[str], None] | None = None,
) -> Artifact:
    """Compile an ONNX model into an artifact directory and check it against onnxruntime.

    The work is done by a process of its own, which nothing in this one has to survive.

    Args:
        model: Path, bytes or ``onnx.ModelProto``.
        output: Directory to make. An earlier artifact there is replaced as a whole once the new one is complete and
            verified, and stays untouched on any failure; anything else there is refused.
        target: Name of a preset, a TVM target as JSON, or a :class:`~tvm_schedules.targets.registry.TargetSpec`.
        samples: Inputs to verify with, stored in the artifact with onnxruntime's outputs: an array for a single input,
            a sequence in the order of the inputs, or a mapping by name; the first axis may hold many runs. Default:
            random.
        input_shapes: Sizes for inputs that have open ones in the file. Samples serve as well: an open first dimension
            then becomes 1.
        batch_sizes: Numbers of samples to compile the network for beside its own one. A call with many samples runs as
            many as fit by the largest of them, the rest by smaller ones. Each is a library with weights of its own.
        verify: Compare the library's outputs with onnxruntime's. For a target that this machine cannot run, a host
            build of the same graph stands in.
        tune: Measure on the device which kernel and which of its numbers is best for every layer, and remember it in a
            file: True, the file's path, or a :class:`~tvm_schedules.tuner.Tuning`. Otherwise a cost model decides.
        progress: Called with a line of text before each stage.

    Raises:
        ModelError: The model cannot be read, has open shapes, weights that are not finite, or an unsupported operator;
            or it cannot be compiled for other numbers of samples.
        ValueError: A batch size is less than 1.
        TargetError: Unknown target.
        LinkError: No linker for the target.
        CompilerError: The compiler's process ended; nothing was changed.
        OutputError: ``output`` may not be replaced or cannot be written.
        VerificationError: The outputs differ; nothing is written.
        TunerError: Tuning is not possible, or its file is damaged.
    """
    place = store.check(output)
    sizes = sorted({operator.index(size) for size in batch_sizes})
    if sizes and sizes[0] < 1:
        raise ValueError(f"batch sizes must be at least 1, got {', '.join(map(str, batch_sizes))}")
    # Only LLVM knows this machine, and it is in the child; all other targets are known here.
    spec = None if target == "host" else targets.resolve(target) if isinstance(target, str) else target
    if spec is not None and spec.is_gpu:
        gpu.check(spec)
    elif spec is None or verify or not spec.is_c:  # C source needs a compiler only to be verified
        linking.linker(None if spec is None else spec.triple)
    prepare(os.path.realpath(place))
    proto = onnxtools.read_model(model)
    shapes = dict(input_shapes or {})
    if samples is not None:
        for name, shape in _sample_shapes(proto, samples).items():
            shapes.setdefault(name, shape)
    onnxtools.fix_shapes(proto, shapes)
    runs = None if samples is None else split_samples(onnxtools.signature(proto, "input"), samples)
    tuning = _tuning(tune, spec)
    if sizes and spec is not None and spec.is_c:
        raise ModelError(f"target {spec.name!r} has no libraries to choose from: it takes no batch sizes")
    say = progress or (lambda line: None)
    with store.replacing(place) as folder:
        done = _apart(folder, place, proto, spec, runs, verify, tuning, say)
        if sizes:
            made = _batches(folder, place, proto, done["metadata"], sizes, spec, runs, verify, tuning, say)
            done["metadata"] = store.write_metadata(folder, {**done["metadata"], "batches": made})
    if tuning is not None:
        from tvm_schedules.tuner.search import Tuned

        tuning.layers = [Tuned.from_json(layer) for layer in done["tuning"]]
    report = None if done["report"] is None else verification.Report.from_dict(done["report"])
    return Artifact(place, done["metadata"], report)


def _batches(
    folder: Path,
    output: Path,
    model: Any,
    metadata: Mapping[str, Any],
    sizes: Sequence[int],
    spec: targets.TargetSpec | None,
    runs: Sequence[Mapping[str, Any]] | None,
    check: bool,
    tuning: Tuning | None,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Compile a network for other numbers of samples, each in a directory of its own.

    Returns:
        Names of the directories, and the hashes of their metadata.

    Raises:
        ModelError: The network's first axes do not count samples, or it cannot be compiled for so many.
    """
    names = [entry["name"] for entry in metadata["inputs"] if entry.get("batch")]
    if not names:
        raise ModelError(
            "the network cannot be compiled for several batch sizes: the first axes of its inputs and outputs are not "
            "known to count samples that do not depend on each other"
        )
    own = next(entry["shape"][0] for entry in metadata["inputs"] if entry.get("batch"))
    made = {}
    for size in sizes:
        if size == own:
            continue
        say(f"batch size {size}")
        place = folder / f"batch-{size}"
        place.mkdir()
        more = None if runs is None else batch.regrouped(runs, names, size)
        try:
            done = _apart(place, output, batch.resized(model, names, size), spec, more, check, tuning, say)
        except ModelError as error:
            raise ModelError(
                f"the network cannot be compiled for batch size {size} (its own is {own}, and shapes inside of it may "
                f"be fixed for that): {error}"
            ) from error
        for name in store.NOT_RUN:  # the network's own are there, beside
            (place / name).unlink(missing_ok=True)
        made[place.name] = store.write_metadata(place, done["metadata"])["sha256"]
    return made


def _apart(
    folder: Path,
    output: Path,
    model: Any,
    spec: targets.TargetSpec | None,
    runs: Sequence[Mapping[str, Any]] | None,
    check: bool,
    tuning: Tuning | None,
    say: Callable[[str], None],
) -> Any:
    """Let :func:`fill` run in the compiler's process; returns what it says."""
    work = folder / store.WORK
    work.mkdir()
    (folder / store.MODEL).write_bytes(model.SerializeToString())
    if runs is not None:
        stacks = {f"input{index}": np.stack([run[name] for run in runs]) for index, name in enumerate(runs[0])}
        np.savez(work / SAMPLES, allow_pickle=False, **stacks)
    job: dict[str, Any] = {
        "folder": os.path.realpath(folder),
        "work": os.path.realpath(work),
        "output": os.path.realpath(output),
        "parent": os.getpid(),
        "directory": os.getcwd(),
        "environ": dict(os.environ),
        "target": "host" if spec is None else spec.to_fields(),
        "samples": runs is not None,
        "check": check,
        "tuning": None,
    }
    answers = {}
    if tuning is not None:
        from tvm_schedules.tuner import apart

        job["tuning"] = apart.parts(tuning)
        answers["measure"] = lambda value: apart.measure(tuning, value)
    # A process that has used a graphics processor holds memory of it, so that one does not wait for more.
    with compiler(job, keep=spec is None or not spec.is_gpu) as child:
        done = child.result(say, answers)
    shutil.rmtree(work, ignore_errors=True)
    return done


def _tuning(tune: Tuning | str | Path | bool | None, spec: targets.TargetSpec | None) -> Tuning | None:
    """The argument ``tune`` as what it stands for.

    Raises:
        TunerError: The target is no CPU that TVM makes code for.
    """
    if not tune:
        return None
    from tvm_schedules.tuner import Tuning

    if spec is not None and spec.tvm["kind"] != "llvm":
        raise TunerError(f"tuning is for CPUs that TVM makes code for; target {spec.name!r} is {spec.tvm['kind']}")
    return tune if isinstance(tune, Tuning) else Tuning(None if isinstance(tune, bool) else tune)


def _sample_shapes(model: Any, samples: Samples) -> dict[str, list[int]]:
    """Shapes that samples give to inputs with open sizes; an open first dimension counts samples and becomes 1."""
    entries = onnxtools.signature(model, "input")
    shapes = {}
    for name, array in named_samples(entries, samples).items():
        declared = next(entry["shape"] for entry in entries if entry["name"] == name)
        if all(isinstance(size, int) for size in declared) or len(declared) != array.ndim:
            continue
        shapes[name] = [
            size if isinstance(size, int) else (1 if axis == 0 else int(array.shape[axis]))
            for axis, size in enumerate(declared)
        ]
    return shapes


def fill(
    folder: Path,
    model: Any,
    spec: targets.TargetSpec,
    samples: Sequence[Mapping[str, Any]] | None,
    check: bool,
    tuning: Tuning | None,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], verification.Report | None]:
    """Write every file of an artifact but the network's, which is there; this runs in the compiler's process.

    Args:
        folder: The artifact's directory.
        model: The network, with fixed shapes.
        spec: What for.
        samples: The runs to verify with, inputs by name; None draws some.
        check: Whether to verify.
        tuning: How to tune, None for the cost model's choices.
        say: Called with a line of text before each stage.

    Returns:
        The metadata and the report of the verification.

    Raises:
        TernError: As :func:`build`.
    """
    from tvm_schedules.backends.cpu.compile import compile_model
    from tvm_schedules.backends.cpu.probe import build_probe

    reader.read(reader.load_model(model))  # refuses what would take memory without bounds, before anything runs it
    runs = random_samples(model) if samples is None else samples
    say(f"reference: {len(runs)} runs with onnxruntime")
    try:
        expected = reference_outputs(model, runs)
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run the model: {str(error).strip().splitlines()[0]}") from error
    started = time.perf_counter()
    code: dict[str, Any] = {}
    if spec.is_gpu:
        say(f"compile for {spec.name} ({spec.tvm['kind']})")
        plan, arrays, code = gpu.write(folder, model, spec, say)
        seconds = time.perf_counter() - started
    elif spec.is_c:
        from tvm_schedules.backends.c.artifact import write_artifact

        plan, arrays = write_artifact(folder, model, spec, say), {}
        seconds = time.perf_counter() - started
    else:
        say(f"compile for {spec.name} ({spec.tvm.get('mcpu', 'generic')})")
        choose = None if tuning is None else lambda graph, target: tuning.choose(graph, target, say)
        compiled = compile_model(model, spec, say, choose, linking.own_threads())
        plan, arrays, seconds = compiled.plan, compiled.arrays, time.perf_counter() - started
        say("link")
        linking.export_library(compiled.module, folder / store.LIBRARY, spec.triple, compiled.wakes)
        build_probe(spec, folder / store.PROBE)
    plan = plan.counting(batch.counting(model, runs, expected))
    if not spec.is_c:
        weights.write(folder / store.WEIGHTS, arrays, plan.constants)
    _save_samples(folder / store.SAMPLES, runs, expected)
    lacking = gpu.needed(spec) if spec.is_gpu else None
    more: dict[str, Any] = {"code": code, "unverified": lacking} if spec.is_gpu else {}
    if tuning is not None:
        more["tuning"] = [layer.to_json() for layer in tuning.layers]
    content = store.write_metadata(folder, _metadata(model, spec, plan, seconds, None) | more)
    report = None
    if check and lacking:
        say(f"NOT VERIFIED, the kernels were not run: {lacking}")
    elif check:
        say("verify")
        report = _verify(folder, model, spec, runs, expected)
        if spec.is_c:
            from tvm_schedules.backends.c.artifact import write_sample

            write_sample(folder, runs[0])
        content = store.write_metadata(folder, _metadata(model, spec, plan, seconds, report.to_dict()) | more)
    return content, report


def _save_samples(path: Path, runs: Sequence[Mapping[str, Any]], expected: Sequence[Sequence[Any]]) -> None:
    """Store the first samples as ``input0``, ... and onnxruntime's ``output0``, ..., each ``[runs, *shape]``."""
    one = sum(array.nbytes for array in [*runs[0].values(), *expected[0]])
    kept = max(1, min(len(runs), KEPT_RUNS, KEPT_BYTES // max(1, one)))
    arrays = {f"input{i}": np.stack([run[name] for run in runs[:kept]]) for i, name in enumerate(runs[0])}
    arrays |= {f"output{i}": np.stack([run[i] for run in expected[:kept]]) for i in range(len(expected[0]))}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def load_samples(path: str | Path) -> tuple[list[list[Any]], list[list[Any]]]:
    """An artifact's stored samples.

    Returns:
        Inputs and onnxruntime's outputs: for every run the arrays in the network's order.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    folder = user_path(path)
    path = folder / store.SAMPLES
    with reading(path, ArtifactError, "; export it again"):
        arrays = read_arrays(path)
        sides = []
        for side in ("input", "output"):
            stacked = [arrays[f"{side}{index}"] for index in range(sum(name.startswith(side) for name in arrays))]
            if not stacked or any(array.dtype.kind not in "biuf" for array in stacked):
                raise ValueError(f"it holds no {side}s that are numbers")
            sides.append([list(run) for run in zip(*stacked, strict=True)])
        if len(sides[0]) != len(sides[1]):
            raise ValueError(f"it has inputs of {len(sides[0])} runs and outputs of {len(sides[1])}")
        return sides[0], sides[1]


def _compiled_model(model: Any, spec: targets.TargetSpec) -> verification.Runner:
    """Compile in memory, without linking."""
    if spec.is_gpu:
        return gpu.in_memory(model, spec)
    if spec.is_c:
        from tvm_schedules.backends.c.artifact import in_memory

        return in_memory(model, spec)
    from tvm_schedules.backends.cpu.compile import compile_model
    from tvm_schedules.backends.cpu.runtime import CpuModel
    from tvm_schedules.packing.registry import expand

    compiled = compile_model(model, spec)
    return CpuModel(
        compiled.plan, compiled.module, expand(compiled.plan.constants, compiled.plan.constant_bytes, compiled.arrays)
    )


def _verify(
    folder: Path,
    model: Any,
    spec: targets.TargetSpec,
    runs: Sequence[Mapping[str, Any]],
    expected: Sequence[Sequence[Any]],
) -> verification.Report:
    """Run the new library, or a host build of the same graph where this machine cannot, and compare.

    Raises:
        VerificationError: The outputs differ.
    """
    host = spec if spec.triple is None else targets.resolve("host")
    runner: verification.Runner
    if spec.triple is None:
        runner = loaded = load(folder)
        where = loaded.what
    else:
        runner, where = (
            _compiled_model(model, host),
            f"host build of the same graph (target {spec.name} is another CPU)",
        )
    report = verification.compare_runs(model, verification.run_all(runner, runs), expected, where, runs)
    if not report.passed:
        first = verification.first_difference(model, runs, lambda probe: _compiled_model(probe, host))
        report = replace(report, first_difference=first)
    return report.check()


def _metadata(
    model: Any, spec: targets.TargetSpec, plan: Plan, seconds: float, report: dict[str, Any] | None
) -> dict[str, Any]:
    """Everything that is worth knowing about an artifact."""
    weights = sum(math.prod(layer.shape) for layer in plan.layers)
    quantized = onnxtools.quantized_tensors(model)
    written = plan.to_json()
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "packages": _versions(),
        "target": spec.to_dict(),
        "quantization": {
            "activations": sorted({dtype for _, _, dtype in quantized.values()}) or ["float32"],
            "quantized_tensors": len(quantized),
            "ternary_layers": len(plan.layers),
            "ternary_weights": weights,
            "bits_per_weight_stored": 8 * sum(layer.bytes for layer in plan.layers) / weights if weights else None,
        },
        **written,
        "steps": _with_operands(model, written["steps"], set(quantized)),
        "compile_seconds": round(seconds, 3),
        "verification": report,
    }


def _with_operands(model: Any, steps: Sequence[Mapping[str, Any]], quantized: set[str]) -> list[dict[str, Any]]:
    """Steps with ``operand``: as the kernel says, or ``uint8`` where the node of that name reads a quantized tensor."""
    nodes = {node.name: node for node in model.graph.node if node.name}
    result = []
    for step in steps:
        node = nodes.get(step["name"])
        integers = node is not None and bool(node.input) and node.input[0] in quantized
        result.append({"operand": "uint8" if integers else "float32", **step})
    return result


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("tern-lightning", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime"):
        try:
            versions[name] = packages.version(name)
        except packages.PackageNotFoundError:
            continue
    return versions
