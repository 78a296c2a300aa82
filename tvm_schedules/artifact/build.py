"""From an ONNX model to a verified artifact directory."""

from __future__ import annotations

import logging
import operator
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tvm_schedules.artifact import lengths, output_folder, store
from tvm_schedules.artifact.job import SAMPLES, Job
from tvm_schedules.artifact.load import load
from tvm_schedules.artifact.process import compiler, prepare
from tvm_schedules.artifact.samples import write_runs
from tvm_schedules.backends import registry
from tvm_schedules.backends.base import Say
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.console import reporter
from tvm_schedules.errors import ModelError, TunerError, missing_explained
from tvm_schedules.frontend import onnx_model
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.runtime.model import Model
from tvm_schedules.targets.registry import TargetSpec, resolve
from tvm_schedules.verify import batch_axis
from tvm_schedules.verify import outputs as verification
from tvm_schedules.verify.samples import Samples, named_samples, split_samples

if TYPE_CHECKING:
    from tvm_schedules.tuner import Tuning

__all__ = ["Artifact", "BuildOptions", "build"]

log = logging.getLogger(__name__)

Runs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class BuildOptions:
    """How an artifact is made, whatever the number of samples.

    Attributes:
        output: The artifact's directory.
        spec: What for; None is this machine.
        verify: Whether to compare with onnxruntime.
        tuning: How to tune, None for the cost model's choices.
        say: For lines of progress.
    """

    output: Path
    spec: TargetSpec | None
    verify: bool
    tuning: Tuning | None
    say: Say


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


@missing_explained()
@check_arguments
def build(
    model: str | os.PathLike[str] | bytes | Any,
    output: str | os.PathLike[str],
    target: str | TargetSpec = "host",
    *,
    samples: Samples | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, npt.ArrayLike] | None = None,
    outputs: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    shorter: Sequence[Any] = (),
    pad: Mapping[str, float] | None = None,
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
        constants: Values of inputs that are always the same, such as a sampling rate that the network branches on. They
            become a part of the network, which has the other inputs only.
        outputs: Tensors of the file that the network ends with, in place of its own outputs: for detectors, the boxes
            and scores that ``NonMaxSuppression`` reads, whose number of results depends on values.
        batch_sizes: Numbers of samples to compile the network for beside its own one. A call with many samples runs as
            many as fit by the largest of them, the rest by smaller ones. Each is a library with weights of its own.
        shorter: The same network for shorter sequences, each a library with weights of its own: as ``model``, or shapes
            of the inputs by name where ``model`` leaves the length open. A call runs the shortest that is long enough.
        pad: What fills an input behind the end of its sequence, by the input's name; 0 where it is not said. It must
            not change results, which is tried: the network ignores it by a mask, or reads nothing that comes later.
        verify: Compare the library's outputs with onnxruntime's. For a target that this machine cannot run, a host
            build of the same graph stands in.
        tune: Measure on the device which kernel and which of its numbers is best for every layer, and remember it in a
            file: True, the file's path, or a :class:`~tvm_schedules.tuner.Tuning`. Otherwise a cost model decides.
        progress: Called with a line of text before each stage. Default: the lines go to the logger ``tvm_schedules`` at
            level INFO, or to standard error where that is a terminal.

    Raises:
        ModelError: The model cannot be read, has open shapes, weights that are not finite, or an unsupported operator;
            or it cannot be compiled for other numbers of samples; or padding changes what it computes.
        ValueError: A batch size is less than 1.
        TargetError: Unknown target.
        LinkError: No linker for the target.
        CompilerError: The compiler's process ended; nothing was changed.
        InputError: A constant is for no input, or of another type or shape.
        OutputError: ``output`` may not be replaced or cannot be written.
        VerificationError: The outputs differ; nothing is written.
        TunerError: Tuning is not possible, or its file is damaged.
    """
    place = output_folder.check(output)
    sizes = sorted({operator.index(size) for size in batch_sizes})
    if sizes and sizes[0] < 1:
        raise ValueError(f"batch sizes must be at least 1, got {', '.join(map(str, batch_sizes))}")
    # Only LLVM knows this machine, and it is in the child; all other targets are known here.
    spec = None if target == "host" else resolve(target) if isinstance(target, str) else target
    backend = registry.for_target(spec)
    backend.check(spec, verify)
    prepare(os.path.realpath(place))
    proto = read_model(model)
    if outputs:
        onnx_model.keep_outputs(proto, outputs)
    runs, others = _fixed(proto, samples, input_shapes or {}, constants or {}, shorter, pad or {})
    how = BuildOptions(place, spec, verify, _tuning(tune, spec), progress or reporter(log))
    if (sizes or others) and spec is not None and not backend.batch_sizes:
        raise ModelError(f"target {spec.name!r} has no libraries to choose from: it takes no batch sizes or lengths")
    with output_folder.replacing(place) as folder:
        done = _whole(folder, proto, others, runs, sizes, how)
        if spec is not None and spec.versions and how.tuning is None:
            done["metadata"] = _versions(folder, proto, done["metadata"], others, runs, sizes, how)
    if how.tuning is not None:
        from tvm_schedules.tuner.search import Tuned

        how.tuning.layers = [Tuned.from_json(layer) for layer in done["tuning"]]
    report = None if done["report"] is None else verification.Report.from_dict(done["report"])
    return Artifact(place, done["metadata"], report)


def _fixed(
    proto: Any,
    samples: Samples | None,
    input_shapes: Mapping[str, Sequence[int]],
    constants: Mapping[str, npt.ArrayLike],
    shorter: Sequence[Any],
    pad: Mapping[str, float],
) -> tuple[Runs | None, Any]:
    """The samples run by run, and the networks for shorter sequences; shapes of the network are fixed in place."""
    onnx_model.fix_inputs(proto, constants)
    shapes = dict(input_shapes)
    if samples is not None:
        for name, shape in _sample_shapes(proto, samples).items():
            shapes.setdefault(name, shape)
    given = type(proto)()
    given.CopyFrom(proto)
    onnx_model.fix_shapes(proto, shapes)
    others = _shorter(given, proto, [(source, shapes) for source in shorter], pad)
    return None if samples is None else split_samples(onnx_model.signature(proto, "input"), samples), others


def _whole(
    folder: Path,
    model: Any,
    others: Mapping[int, tuple[Any, lengths.LengthAxes]],
    runs: Runs | None,
    sizes: Sequence[int],
    how: BuildOptions,
) -> Any:
    """Fill a directory with a network, for all numbers of samples and lengths; returns what :func:`_apart` does."""
    done = _filled(folder, model, runs, sizes, how)
    if others:
        done["metadata"] = _lengths(folder, model, done["metadata"], others, runs, sizes, how)
    return done


def _versions(
    folder: Path,
    model: Any,
    metadata: dict[str, Any],
    others: Mapping[int, tuple[Any, lengths.LengthAxes]],
    runs: Runs | None,
    sizes: Sequence[int],
    how: BuildOptions,
) -> dict[str, Any]:
    """Compile a network for better CPUs too, each in a directory of its own; returns the metadata of all.

    They are not verified again: what stands in for the target's own code stands in for theirs.
    """
    made = {}
    assert how.spec is not None
    for spec in how.spec.versions:
        how.say(f"version for {spec.name}")
        place = folder / f"core-{spec.name}"
        place.mkdir()
        done = _whole(place, model, others, runs, sizes, replace(how, spec=spec, verify=False))
        for name in store.not_run():  # the network's own are there, beside
            (place / name).unlink(missing_ok=True)
        made[place.name] = store.write_metadata(place, done["metadata"])["sha256"]
    return store.write_metadata(folder, {**metadata, "versions": made})


def _filled(folder: Path, model: Any, runs: Runs | None, sizes: Sequence[int], how: BuildOptions) -> Any:
    """Fill a directory with a network, and with that for other numbers of samples; returns what :func:`_apart` does."""
    done = _apart(folder, model, runs, how)
    if sizes:
        made = _batches(folder, model, done["metadata"], sizes, runs, how)
        done["metadata"] = store.write_metadata(folder, {**done["metadata"], "batches": made})
    return done


def _shorter(
    given: Any, model: Any, sources: Sequence[tuple[Any, Mapping[str, Sequence[int]]]], pad: Mapping[str, float]
) -> dict[int, tuple[Any, lengths.LengthAxes]]:
    """Networks for shorter sequences by length, and which axes count.

    Raises:
        ModelError: They are not one network for several lengths.
    """
    found: dict[int, tuple[Any, lengths.LengthAxes]] = {}
    for source, shapes in sources:
        other = lengths.read_shorter(source, given, shapes)
        axes, length = lengths.find_axes(model, other, pad)
        if any(axes != known for _, known in found.values()):
            raise ModelError(f"the network of length {length} differs from the longest in other axes than the rest")
        found[length] = other, axes
    return found


def _lengths(
    folder: Path,
    model: Any,
    metadata: dict[str, Any],
    others: Mapping[int, tuple[Any, lengths.LengthAxes]],
    runs: Runs | None,
    sizes: Sequence[int],
    how: BuildOptions,
) -> dict[str, Any]:
    """Compile a network for shorter sequences, each in a directory of its own; returns the metadata of all."""
    made = {}
    for length, (other, axes) in sorted(others.items()):
        how.say(f"length {length}")
        own = lengths.cut_runs(runs, axes, length)
        lengths.check_padding(model, other, own, axes, length)
        place = folder / f"length-{length}"
        place.mkdir()
        done = _filled(place, other, own, sizes, how)
        for name in store.not_run():  # the network's own are there, beside
            (place / name).unlink(missing_ok=True)
        made[place.name] = store.write_metadata(place, done["metadata"])["sha256"]
    said = lengths.axes_to_json(next(axes for _, axes in others.values()))
    return store.write_metadata(folder, {**metadata, "lengths": made, "length": said})


def _batches(
    folder: Path, model: Any, metadata: Mapping[str, Any], sizes: Sequence[int], runs: Runs | None, how: BuildOptions
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
        how.say(f"batch size {size}")
        place = folder / f"batch-{size}"
        place.mkdir()
        more = None if runs is None else batch_axis.regrouped(runs, names, size)
        try:
            done = _apart(place, batch_axis.resized(model, names, size), more, how)
        except ModelError as error:
            raise ModelError(
                f"the network cannot be compiled for batch size {size} (its own is {own}, and shapes inside of it may "
                f"be fixed for that): {error}"
            ) from error
        for name in store.not_run():  # the network's own are there, beside
            (place / name).unlink(missing_ok=True)
        made[place.name] = store.write_metadata(place, done["metadata"])["sha256"]
    return made


def _apart(folder: Path, model: Any, runs: Runs | None, how: BuildOptions) -> Any:
    """Let :func:`tvm_schedules.artifact.fill.run` do the work in the compiler's process; returns what it says."""
    work = folder / store.WORK
    work.mkdir()
    (folder / store.MODEL).write_bytes(model.SerializeToString())
    if runs is not None:
        write_runs(work / SAMPLES, runs)
    answers: dict[str, Callable[[Any], Any]] = {}
    parts = None
    if how.tuning is not None:
        from tvm_schedules.tuner import apart

        parts, tuning = apart.parts(how.tuning), how.tuning
        answers["measure"] = lambda value: apart.measure(tuning, value)
    job = Job(
        folder=os.path.realpath(folder),
        work=os.path.realpath(work),
        output=os.path.realpath(how.output),
        parent=os.getpid(),
        directory=os.getcwd(),
        environ=dict(os.environ),
        spec=how.spec,
        samples=runs is not None,
        check=how.verify,
        tuning=parts,
    )
    with compiler(job.to_json(), keep=registry.for_target(how.spec).process_kept) as child:
        done = child.result(how.say, answers)
    shutil.rmtree(work, ignore_errors=True)
    return done


def _tuning(tune: Tuning | str | Path | bool | None, spec: TargetSpec | None) -> Tuning | None:
    """The argument ``tune`` as what it stands for.

    Raises:
        TunerError: The target is no CPU that TVM makes code for.
    """
    if not tune:
        return None
    from tvm_schedules.tuner import Tuning

    if spec is not None and not registry.for_target(spec).tunable:
        raise TunerError(f"tuning is for CPUs that TVM makes code for; target {spec.name!r} is {spec.tvm['kind']}")
    return tune if isinstance(tune, Tuning) else Tuning(None if isinstance(tune, bool) else tune)


def _sample_shapes(model: Any, samples: Samples) -> dict[str, list[int]]:
    """Shapes that samples give to inputs with open sizes; an open first dimension counts samples and becomes 1."""
    entries = onnx_model.signature(model, "input")
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
