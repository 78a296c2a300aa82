"""From a trained module to a verified library on disk."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tern_lightning.nn.activation_quantizer import ActivationRange

if TYPE_CHECKING:
    from torch import nn

    from tern_lightning.exporter import OnnxExport
    from tern_lightning.exporter.samples import Batch, Shapes
    from tern_lightning.ternary_tensor import TernaryTensor

log = logging.getLogger(__name__)

#: Share of samples with the same largest output as the module below which an export warns.
LEAST_AGREEMENT = 0.95
#: Batches of samples that verify the library and are stored with it.
STORED_RUNS = 8


@dataclass(frozen=True)
class ExportResult:
    """What an export gave.

    Attributes:
        output: The directory.
        onnx: The ONNX file in it.
        network: The written network, its layers and comparisons with the module.
        artifact: The compiled library; None with ``onnx_only``.
        calibrated_on_data: Whether samples were data; False when they were random numbers.
    """

    output: Path
    onnx: Path
    network: OnnxExport
    artifact: Any
    calibrated_on_data: bool


def export(
    module: nn.Module,
    output: str | os.PathLike[str],
    *,
    target: str = "host",
    samples: Any = None,
    input_shape: Shapes | None = None,
    batch_size: int | Sequence[int] | None = 1,
    activations: Literal["uint8", "float32"] = "uint8",
    dense_weights: Literal["int8", "float32"] | None = None,
    ternary: Mapping[str, TernaryTensor] | None = None,
    ranges: Mapping[str, ActivationRange] | None = None,
    bits: int = 8,
    percentile: float | None = None,
    onnx_only: bool = False,
    verify: bool = True,
    allow_zero_layers: bool = False,
    seed: int = 0,
    tune: Any = None,
    progress: Callable[[str], None] | None = None,
) -> ExportResult:
    """Export a module as ONNX and compile it for a target.

    Everything is made beside its place and moved there at the end: whatever fails, an earlier export stays as it was.

    Args:
        module: Trained with :class:`~tern_lightning.TernaryCallback`, or one whose weights are exactly ternary by
            value. It is not changed.
        output: Directory; it is made if it does not exist.
        target: Name of a preset such as ``host``, ``arm`` or ``pi4``, or a TVM target as JSON.
        samples: Real inputs for calibration, verification and the artifact: an array or tensor whose first axis runs
            over samples, a tuple of them for several inputs, or an .npz file. None takes random numbers of
            ``input_shape``, or the module's ``example_input_array``.
        input_shape: Shape of the input with the batch, or a sequence of shapes.
        batch_size: Batch of the exported network when ``input_shape`` does not say it; None is that of ``samples``. The
            library takes any number of samples all the same, as long as they do not depend on each other. Several
            sizes are compiled beside each other, and calls run as many samples as fit by the largest; the first one is
            that of the ONNX file.
        activations: ``"uint8"`` or ``"float32"``.
        dense_weights: Weights that are not ternary; None is int8 with 8-bit activations, float32 otherwise.
        ternary: Ternary weights by layer path, in place of the module's.
        ranges: Activation ranges by layer path, in place of those the module was trained with.
        bits: Width of calibrated activations, 2 to 8.
        percentile: Percentile that calibration takes as the largest value, in (50, 100]; None takes the largest.
        onnx_only: Write ``output/model.onnx`` and compile nothing.
        verify: Hold the ONNX file against the module, and the library against the ONNX file.
        allow_zero_layers: Accept ternary layers with only zeros.
        seed: Of random inputs.
        tune: Measure which kernels are best on the device, see :func:`tvm_schedules.build`.
        progress: Called with a line at every stage.

    Raises:
        ExportError: The module cannot be exported, or the output cannot be written.
        VerificationError: What was exported computes something else.

    Warns:
        ExportWarning: No layer is ternary, or not all that should be, or 8-bit activations change many results.

    Example::

        result = tern_lightning.export(net, "out/", target="pi4", samples=images)
        print(result.network.drift)
    """
    import torch

    from tern_lightning.exporter import write_onnx
    from tern_lightning.exporter.errors import ExportWarning
    from tern_lightning.exporter.samples import collect_batches

    say = progress or log.info
    place = check_output(output, whole=not onnx_only)
    if not onnx_only:
        check_target(target)
        start_compiler()
    sizes: list[int | None] = [*batch_size] if isinstance(batch_size, Sequence) else [batch_size]
    if not sizes or (onnx_only and len(sizes) > 1):
        raise ValueError(f"batch_size must be one size{'' if onnx_only else ' or several'}, got {batch_size!r}")
    batches, real = collect_batches(module, samples, input_shape, sizes[0], seed)
    say(f"tracing {type(module).__name__} on inputs of shape {', '.join(str(list(a.shape)) for a in batches[0])}")
    network = write_onnx(
        module,
        [torch.from_numpy(array) for array in batches[0]],
        ternary=ternary,
        activations=activations,
        ranges=ranges,
        dense_weights=dense_weights,
        samples=batches,
        bits=bits,
        percentile=percentile,
        allow_zero_layers=allow_zero_layers,
        check=verify,
    )
    for line in _doubts(module, network):
        warnings.warn(line, ExportWarning, stacklevel=2)
        say(f"warning: {line}")
    data = network.model.SerializeToString()
    if onnx_only:
        return ExportResult(place, _written(place / "model.onnx", data), network, None, real)
    say(f"compiling for {target}")
    more = [size for size in sizes if size is not None] if len(sizes) > 1 else []
    artifact = compile_onnx(data, place, target, batches, verify, progress, tune, more)
    return ExportResult(place, place / "model.onnx", network, artifact, real)


def _doubts(module: nn.Module, network: OnnxExport) -> list[str]:
    """What a user should know about an export that has succeeded."""
    from tern_lightning.nn.ternary_layers import swapped_layers, ternary_layers

    lines = []
    done = {*ternary_layers(module), *network.ternary}
    still = [path for path, _ in swapped_layers(module) if path not in done]
    if still:
        first = f"{', '.join(still[:3])}{f' and {len(still) - 3} more' if len(still) > 3 else ''}"
        lines.append(
            "layers of TernaryCallback are exported dense, because it has not begun or float weights were loaded: "
            + first
        )
    elif not network.ternary:
        lines.append("no layer is ternary: the network is exported dense")
    drift = network.drift
    if drift is not None and drift.top1 is not None and drift.top1 < LEAST_AGREEMENT:
        lines.append(
            f"with 8-bit activations {1 - drift.top1:.1%} of the samples have another largest output than the module's "
            f"(cosine {drift.cosine:.4f}): give real samples, try percentile=99.9, train with ActivationQuantization, "
            "or export with activations='float32'"
        )
    return lines


def compile_onnx(
    model: str | Path | bytes,
    output: Path,
    target: str,
    samples: list[Batch] | None,
    verify: bool,
    progress: Callable[[str], None] | None = None,
    tune: Any = None,
    batch_sizes: Sequence[int] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Any:
    """Compile an ONNX file or its bytes into an artifact directory; see :func:`tvm_schedules.build`."""
    from tvm_schedules import build

    runs = None if not samples else tuple(np.concatenate(arrays) for arrays in zip(*samples[:STORED_RUNS], strict=True))
    options = {"verify": verify, "tune": tune, "progress": progress, "batch_sizes": batch_sizes}
    if input_shapes is not None:
        options["input_shapes"] = input_shapes
    return build(model, output=output, target=target, samples=runs, **options)


def check_output(output: str | os.PathLike[str], whole: bool = True) -> Path:
    """Return the directory to write to, with ``~`` expanded.

    Args:
        output: Of :func:`export`.
        whole: Whether the directory is replaced as a whole; otherwise only ``model.onnx`` in it is.

    Raises:
        ExportError: It is not a directory, holds something else, or nothing can be written there.
    """
    from tern_lightning.exporter.errors import ExportError
    from tvm_schedules.artifact import store
    from tvm_schedules.errors import OutputError

    try:
        return store.check(output, whole)
    except OutputError as error:
        raise ExportError(str(error)) from error


def check_target(target: str) -> None:
    """Raise TargetError, which lists the known ones, when a target is not known: before the work, not after."""
    from tvm_schedules.targets.registry import resolve

    if target != "host":  # which is always known, and needs LLVM to be described
        resolve(target)


def start_compiler() -> None:
    """Let the compiler's process start, which takes seconds, while the network is read and traced."""
    from tvm_schedules.artifact.process import prepare

    prepare()


def _written(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all.

    Raises:
        ExportError: The file system refuses, for example because the disk is full.
    """
    from tern_lightning.exporter.errors import ExportError
    from tvm_schedules.common.files import write_file
    from tvm_schedules.errors import OutputError

    try:
        return write_file(path, data)
    except OutputError as error:
        raise ExportError(str(error)) from error
