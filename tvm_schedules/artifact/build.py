"""From an ONNX model to a verified artifact directory."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tvm_schedules.artifact import output_folder
from tvm_schedules.artifact.folders import BuildOptions, fill_folder
from tvm_schedules.artifact.load import load
from tvm_schedules.artifact.networks import read_networks
from tvm_schedules.artifact.process import prepare
from tvm_schedules.backends import registry
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.console import reporter
from tvm_schedules.errors import ModelError, TunerError, missing_explained
from tvm_schedules.runtime.model import Model
from tvm_schedules.targets.registry import TargetSpec, resolve
from tvm_schedules.verify import outputs as verification
from tvm_schedules.verify.samples import Samples

if TYPE_CHECKING:
    from tvm_schedules.tuner import Tuning

__all__ = ["Artifact", "BuildOptions", "build"]

log = logging.getLogger(__name__)


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
    resized: Sequence[Any] = (),
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
        resized: The same network for some of ``batch_sizes``, also of the ``shorter`` ones, as ``model``: where shapes
            inside of it are fixed, so that other first axes do not make it one for another number of samples.
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
    sizes = _sizes(batch_sizes)
    # Only LLVM knows this machine, and it is in the child; all other targets are known here.
    spec = None if target == "host" else resolve(target) if isinstance(target, str) else target
    backend = registry.for_target(spec)
    backend.check(spec, verify)
    prepare(os.path.realpath(place))
    networks = read_networks(model, samples, sizes, input_shapes, constants, outputs, shorter, resized, pad)
    how = BuildOptions(place, spec, verify, _tuning(tune, spec), progress or reporter(log))
    if (sizes or networks.shorter) and spec is not None and not backend.batch_sizes:
        raise ModelError(f"target {spec.name!r} has no libraries to choose from: it takes no batch sizes or lengths")
    with output_folder.replacing(place) as folder:
        done = fill_folder(folder, networks, how)
    _keep_tuning(how.tuning, done)
    report = None if done["report"] is None else verification.Report.from_dict(done["report"])
    return Artifact(place, done["metadata"], report)


def _sizes(batch_sizes: Sequence[int]) -> list[int]:
    """Numbers of samples in order.

    Raises:
        ValueError: One is less than 1.
    """
    sizes = sorted({operator.index(size) for size in batch_sizes})
    if sizes and sizes[0] < 1:
        raise ValueError(f"batch sizes must be at least 1, got {', '.join(map(str, batch_sizes))}")
    return sizes


def _keep_tuning(tuning: Tuning | None, done: Mapping[str, Any]) -> None:
    """Put what the child measured where the caller finds it."""
    if tuning is not None:
        from tvm_schedules.tuner.search import Tuned

        tuning.layers = [Tuned.from_json(layer) for layer in done["tuning"]]


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
