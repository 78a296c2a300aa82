"""tern-export: a Lightning checkpoint or an ONNX file in, a verified library out."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tern_lightning.cli.arguments import (
    UsageError,
    export_options,
    import_class,
    input_shapes,
    make_parser,
    one_line,
    parse_hparams,
    resolved,
    tuning,
)
from tern_lightning.cli.report import print_result, print_verification
from tvm_schedules.cli.common import ended_by_signals
from tvm_schedules.common.console import make_console, plain, printable
from tvm_schedules.errors import install_hint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tern_lightning.exporter.pipeline import ExportResult
    from tern_lightning.exporter.samples import Batch
    from tern_lightning.ternary_tensor import TernaryTensor
    from tvm_schedules import Artifact
    from tvm_schedules.tuner import Tuning

OWN_EXTRAS = ("tvm", "onnx", "onnxscript", "onnxruntime", "rich", "lightning")
"""Packages that extras of this package bring."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 when the export failed, 2 (from argparse) for a wrong command line."""
    options = make_parser().parse_args(arguments)
    try:
        with ended_by_signals():
            _run(options)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was overwritten", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        # A module of the user that imports something missing says so itself; the hint is for what we import.
        missing = isinstance(error, ModuleNotFoundError) and error.name in OWN_EXTRAS
        extra = "tvm" if options.source.suffix == ".onnx" else "export"
        text = install_hint(error, extra) if missing else one_line(error)  # type: ignore[arg-type]
        print(f"error: {printable(text)}", file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace) -> None:
    """Find what cannot work before anything is loaded.

    Raises:
        UsageError: A file is not there, or options do not go together.
    """
    if (options.zeros is not None or options.calibrate) and not options.ternarize:
        raise UsageError("--zeros and --calibrate are for --ternarize METHOD, which is not given")
    if options.outputs and options.source.suffix != ".onnx":
        raise UsageError("--network-outputs is for ONNX files; the outputs of a module are what its forward returns")
    for path in (options.source, options.samples, options.calibrate):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{str(path)!r} does not exist or is not a file")


def _run(options: argparse.Namespace) -> None:
    _check(options)
    console = make_console(soft_wrap=True)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(name)s: %(message)s")
    console.print("tern-export", style="bold")
    for name, value in resolved(options).items():
        console.print(f"  {name:<18} {value}")
    with console.status("starting") as status:

        def say(line: str) -> None:
            status.update(plain(line))
            console.print(f"- {line}", style="bold red" if line.startswith(("NOT VERIFIED", "warning:")) else None)

        with tuning(options, say) as tune:
            if options.source.suffix == ".onnx":
                print_verification(console, _export_onnx(options, say, tune))
            else:
                print_result(console, _export_checkpoint(options, say, tune))
        if tune is not None:
            from tvm_schedules.tuner.show import show

            show(console, tune.layers)
    console.print("done", style="green", end=" ")
    console.print(options.output)


def _export_onnx(options: argparse.Namespace, say: Any, tune: Tuning | None) -> Artifact:
    from tern_lightning.exporter.lengths import shorter_shapes
    from tern_lightning.exporter.pipeline import check_output, check_target, compile_onnx, start_compiler
    from tern_lightning.exporter.samples import collect_batches

    if options.model or options.hparams or options.onnx_only or options.allow_class or options.ternarize:
        raise UsageError(
            "--model, --hparams, --allow-class, --ternarize and --onnx-only are for checkpoints; the source is an ONNX "
            "file already"
        )
    check_target(options.tvm_target)
    place = check_output(options.output)
    start_compiler()
    inputs, ternary = _inspect_onnx(options.source, options.outputs)
    given = input_shapes(options.input_shape)
    if given is not None and len(given) != len(inputs):
        names = ", ".join(inputs) or "none"
        raise UsageError(f"--input-shape is given {len(given)} times; the file's inputs are {names}")
    named = dict(zip(inputs, given, strict=True)) if given else None
    fixed = all(shape and min(shape) > 0 for shape, _ in inputs.values())
    shapes = given or ([shape for shape, _ in inputs.values()] if fixed else None)
    say(f"{ternary} two-bit weights" if ternary else "no layer is ternary: the network is compiled dense")
    batches = None
    if options.samples is not None:
        batches, _ = collect_batches(None, options.samples, shapes, names=list(inputs))
        kinds = [kind for _, kind in inputs.values()]
        batches = [_as_types(batch, kinds) for batch in batches]
    say(f"compiling for {options.tvm_target}")
    sizes = options.batch_size or ()
    shorter = (
        shorter_shapes(named or {name: shape for name, (shape, _) in inputs.items()}, options.lengths)
        if options.lengths
        else []
    )
    how = export_options(options, tune, say)
    return compile_onnx(options.source, place, how, batches, sizes, named, shorter=shorter, outputs=options.outputs)


def _as_types(batch: Batch, kinds: Sequence[np.dtype[Any]]) -> Batch:
    """Numbers with a fraction in the precision that the file asks for."""
    return tuple(
        array.astype(kind) if array.dtype.kind == kind.kind == "f" else array
        for array, kind in zip(batch, kinds, strict=False)
    )


def _inspect_onnx(path: Path, outputs: Sequence[str]) -> tuple[dict[str, tuple[tuple[int, ...], np.dtype[Any]]], int]:
    """Check a file, cut off behind ``outputs`` if there are any.

    Returns:
        Shape (0 where it is open) and type of its inputs, and its number of two-bit weights.
    """
    from onnx import TensorProto

    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.frontend.onnx_model import keep_outputs, signature

    model = read_model(path)
    if outputs:
        keep_outputs(model, outputs)
    inputs = {
        entry["name"]: (
            tuple(size if isinstance(size, int) else 0 for size in entry["shape"]),
            np.dtype(entry["dtype"]),
        )
        for entry in signature(model, "input")
    }
    ternary = sum(tensor.data_type in (TensorProto.INT2, TensorProto.UINT2) for tensor in model.graph.initializer)
    return inputs, ternary


def _export_checkpoint(options: argparse.Namespace, say: Any, tune: Tuning | None) -> ExportResult:
    from tern_lightning.checkpoint import class_of_name, load_module, read_checkpoint
    from tern_lightning.exporter.checkpoint_inputs import attach_learned_inputs, checkpoint_ranges
    from tern_lightning.exporter.errors import ExportWarning
    from tern_lightning.exporter.pipeline import check_output, check_target, export_with, start_compiler

    check_output(options.output, whole=not options.onnx_only)
    if not options.onnx_only:
        check_target(options.tvm_target)
    if not options.model:
        raise UsageError("--model pkg.mod:Class is needed: the class that the checkpoint belongs to")
    if not options.onnx_only:
        start_compiler()
    network_class = import_class(options.model)
    allowed = [class_of_name(name) for name in options.allow_class]
    with warnings.catch_warnings():
        # The rounding is taken from the checkpoint below.
        warnings.filterwarnings("ignore", message=".*trained with layer inputs rounded by")
        module = load_module(options.source, network_class, allow_classes=allowed, **parse_hparams(options.hparams))
    checkpoint = read_checkpoint(options.source, allowed)
    ranges = checkpoint_ranges(checkpoint)
    if ranges:
        say(f"{len(ranges)} activation ranges from the checkpoint")
    levels = attach_learned_inputs(module, checkpoint)
    if levels:
        say(f"{levels} layer inputs with trained levels from the checkpoint")
    ternary = _ternarize(module, options, say) if options.ternarize else None
    warnings.simplefilter("ignore", ExportWarning)  # they are among the lines
    found = {"ranges": ranges or None, "ternary": ternary}
    result = export_with(module, options.output, export_options(options, tune, say, **found))
    if not result.calibrated_on_data and options.activations == "uint8" and len(ranges) < len(result.network.ranges):
        say("warning: 8-bit ranges were calibrated on random numbers; give real inputs with --samples")
    return result


def _ternarize(module: nn.Module, options: argparse.Namespace, say: Any) -> dict[str, TernaryTensor]:
    """Make a float module ternary in place, and return its weights."""
    import torch

    from tern_lightning.after_training import post_training
    from tern_lightning.exporter.samples import collect_batches

    file = options.calibrate or options.samples
    if file is None:
        raise UsageError("--ternarize needs data to fit the codes on: give --calibrate FILE.npz or --samples FILE.npz")
    (arrays,), _ = collect_batches(module, file, batch_size=None)
    parts = list(zip(*(torch.from_numpy(array).split(64) for array in arrays), strict=True))
    before = _answers(module, parts)
    found = post_training(
        module,
        parts,
        options.ternarize,
        zeros=options.zeros,
        forward=lambda net, batch: net(*batch),
        progress=say,
    )
    if not found:
        raise UsageError(f"--ternarize {options.ternarize}: no layer of {type(module).__name__} can be ternary")
    after = _answers(module, parts)
    if before is not None and after is not None:
        same = float((before.argmax(-1) == after.argmax(-1)).float().mean())
        cosine = float(torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), 0))
        say(f"ternary module against the float checkpoint: cosine {cosine:.4f}, top-1 agreement {same:.1%}")
    return {path: one.ternary for path, one in found.items()}


def _answers(module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> Tensor | None:
    """The outputs of a module in evaluation; None where they are no tensor."""
    import torch

    training = module.training
    with torch.no_grad():
        found = [module.eval()(*batch) for batch in batches]
    module.train(training)
    return torch.cat(found) if all(isinstance(one, torch.Tensor) for one in found) else None


if __name__ == "__main__":
    sys.exit(main())
