"""From a trained module to a verified library on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tern_lightning.exporter.options import ExportOptions, keywords_of
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.console import reporter
from tvm_schedules.errors import missing_explained

if TYPE_CHECKING:
    from torch import nn

    from tern_lightning.exporter.samples import Batch
    from tern_lightning.exporter.writer import OnnxExport
    from tvm_schedules import Artifact

log = logging.getLogger(__name__)

#: Share of samples with the same largest output as the module below which an export warns.
LEAST_AGREEMENT = 0.95
#: Cosine from which on outputs are alike, whichever is the largest.
ALIKE = 0.9999
#: Batches of samples that verify the library and are stored with it.
STORED_RUNS = 8


@dataclass(frozen=True)
class ExportResult:
    """What an export gave.

    Attributes:
        output: The directory that was written.
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

    def __repr__(self) -> str:
        said = [repr(str(self.output)), f"{len(self.network.ternary)} ternary layers"]
        if (drift := self.network.drift) is not None:
            top1 = "" if drift.top1 is None else f", {drift.top1:.1%} same classes"
            said.append(f"8 bits against the module: cosine {drift.cosine:.6f}{top1}")
        if self.artifact is not None:
            said.append("not verified" if self.artifact.report is None else "verified")
        return f"ExportResult({', '.join(said)})"


@keywords_of(ExportOptions)
@check_arguments
def export(module: nn.Module, output: str | os.PathLike[str], options: ExportOptions) -> ExportResult:
    """Export a module as ONNX and compile it for a target.

    Everything is made beside its place and moved there at the end: whatever fails, an earlier export stays as it was.

    Args:
        module: Trained with :class:`~tern_lightning.TernaryCallback`, or one whose weights are exactly ternary by
            value. It is not changed, and exported as in evaluation mode.
        output: Directory; it is made if it does not exist.
        options: Keyword arguments ``target``, ``samples``, ``activations`` and so on: the fields of
            :class:`tern_lightning.exporter.options.ExportOptions`, where each is explained.

    Raises:
        ExportError: The module cannot be exported, or the output cannot be written.
        VerificationError: What was exported computes something else.
        ValueError: An option is outside its range.

    Warns:
        ExportWarning: No layer is ternary, or not all that should be, or 8-bit activations change many results.

    Example::

        result = tern_lightning.export(net, "out/", target="pi4", samples=images)
        print(result.network.drift)
    """
    with missing_explained("export"):
        return export_with(module, output, options)


def export_with(module: nn.Module, output: str | os.PathLike[str], options: ExportOptions) -> ExportResult:
    """:func:`export` with its options as one object."""
    import torch

    from tern_lightning.exporter.batch_sizes import traced_for_sizes
    from tern_lightning.exporter.errors import ExportWarning
    from tern_lightning.exporter.lengths import shorter_networks
    from tern_lightning.exporter.samples import collect_batches
    from tern_lightning.exporter.writer import write_with

    say = options.progress or reporter(log)
    options = dataclasses.replace(options, progress=say)
    place = check_output(output, whole=not options.onnx_only)
    if not options.onnx_only:
        check_target(options.whole_target)
        start_compiler()
    sizes = options.batch_sizes
    batches, real = collect_batches(module, options.samples, options.input_shape, sizes[0], options.seed)
    say(f"tracing {type(module).__name__} on inputs of shape {', '.join(str(list(a.shape)) for a in batches[0])}")
    inputs = [torch.from_numpy(array) for array in batches[0]]
    network = write_with(module, inputs, dataclasses.replace(options, samples=batches))
    for line in _doubts(module, network, real):
        warnings.warn(line, ExportWarning, stacklevel=5)  # at the call of export
        say(f"warning: {line}")
    data = network.model.SerializeToString()
    if options.onnx_only:
        return ExportResult(place, _written(place / "model.onnx", data), network, None, real)
    say(f"compiling for {options.target}")
    more = [size for size in sizes if size is not None] if len(sizes) > 1 else []
    shorter = shorter_networks(module, batches, network, options) if options.lengths else []
    resized = [
        model
        for given, one in [(batches, network), *shorter]
        if more
        for model in traced_for_sizes(module, given, one, options)
    ]
    with _modules_named(module):
        artifact = compile_onnx(
            data,
            place,
            options,
            batches,
            more,
            shorter=[one.model.SerializeToString() for _, one in shorter],
            resized=resized,
        )
    return ExportResult(place, place / "model.onnx", network, artifact, real)


@contextlib.contextmanager
def _modules_named(module: nn.Module) -> Iterator[None]:
    """Say of which module a node is that cannot be compiled; nodes are named after the paths of their modules."""
    from tvm_schedules.errors import UnsupportedOperatorError

    try:
        yield
    except UnsupportedOperatorError as error:
        node = re.search(r"node '([^']+)'", str(error))
        part = dict(module.named_modules()).get(node[1].rpartition("/")[0]) if node is not None else None
        if node is None or part is None:
            raise
        path = node[1].rpartition("/")[0]
        whose = f"{type(part).__name__} {path!r}" if path else f"{type(part).__name__} itself"
        raise type(error)(f"{error}. The node is of the forward of {whose}") from None


def _doubts(module: nn.Module, network: OnnxExport, real: bool) -> list[str]:
    """What a user should know about an export that has succeeded, on real samples or random ones."""
    from tern_lightning.exporter.writer import CHECKED_BATCHES
    from tern_lightning.nn.activation_quantizer import activation_ranges
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
    elif not network.ternary and not network.computed:
        lines.append("no layer is ternary: the network is exported dense")
    if network.computed:
        lines.append(
            f"ternary layers {', '.join(network.computed)} are exported dense, because their forward multiplies by "
            "what it makes of the weight (standardization, for example): let it do that to their outputs, or leave "
            "them float by a rule"
        )
    drift = network.drift
    # Where outputs are as good as equal, the largest of them is none that says anything.
    differs = drift is not None and drift.cosine < ALIKE
    if drift is not None and differs and drift.top1 is not None and drift.top1 < LEAST_AGREEMENT:
        trained = bool(activation_ranges(module))
        lines.append(
            f"the exported network has 8-bit activations, and for {1 - drift.top1:.1%} of the samples in the first "
            f"{CHECKED_BATCHES} batches another one of its outputs is the largest than of the module's (cosine of all "
            f"outputs {drift.cosine:.4f}): "
            + ("" if real else "these were drawn at random and say little about real inputs; give real ones, ")
            + ("train for longer" if trained else "try percentile=99.9, train with ActivationQuantization")
            + ", or export with activations='float32'"
        )
    return lines


def compile_onnx(
    model: str | Path | bytes,
    output: Path,
    options: ExportOptions,
    samples: list[Batch] | None,
    batch_sizes: Sequence[int] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    shorter: Sequence[Any] = (),
    resized: Sequence[Any] = (),
    outputs: Sequence[str] = (),
) -> Artifact:
    """Compile an ONNX network into an artifact directory; see :func:`tvm_schedules.build`.

    Args:
        model: A file, or its bytes.
        output: Directory to write.
        options: Of which the target, tuning, verification and progress count.
        samples: Batches of inputs, of which the first verify the library and are stored with it.
        batch_sizes: Batches to compile, where there are several.
        input_shapes: Shapes of the file's inputs by name, where it leaves them open.
        shorter: The network for shorter sequences, or shapes of the file's inputs for them.
        resized: The network for batches of other sizes where its own file cannot be changed to them.
        outputs: Tensors that the network ends with, in place of the file's outputs.
    """
    from tvm_schedules import build

    runs = None if not samples else tuple(np.concatenate(arrays) for arrays in zip(*samples[:STORED_RUNS], strict=True))
    more: dict[str, Any] = {} if input_shapes is None else {"input_shapes": input_shapes}
    return build(
        model,
        output=output,
        target=options.whole_target,
        samples=runs,
        verify=options.verify,
        tune=options.tune,
        progress=options.progress,
        batch_sizes=batch_sizes,
        shorter=shorter,
        resized=resized,
        pad=options.pad,
        outputs=outputs,
        **more,
    )


def check_output(output: str | os.PathLike[str], whole: bool = True) -> Path:
    """Return the directory to write to, with ``~`` expanded.

    Args:
        output: Directory that :func:`export` is to write.
        whole: Whether the directory is replaced as a whole; otherwise only ``model.onnx`` in it is.

    Raises:
        ExportError: It is not a directory, holds something else, or nothing can be written there.
    """
    from tern_lightning.exporter.errors import ExportError
    from tvm_schedules.artifact import output_folder
    from tvm_schedules.errors import OutputError

    try:
        return output_folder.check(output, whole)
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
