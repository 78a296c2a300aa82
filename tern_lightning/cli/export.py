"""tern-export: a Lightning checkpoint or an ONNX file in, a verified library out."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.cli import ended_by_signals
from tvm_schedules.common.console import make_console, plain, printable
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import reason
from tvm_schedules.errors import install_hint

if TYPE_CHECKING:
    from torch import nn

    from tern_lightning.exporter import OnnxExport
    from tern_lightning.exporter.pipeline import ExportResult
    from tern_lightning.exporter.samples import Batch
    from tvm_schedules.tuner import Tuning

EXAMPLES = """examples:
  tern-export runs/best.ckpt --model examples.digits:DigitsNet --tvm-target arm --output out/ --samples digits.npz
  tern-export runs/best.ckpt --model pkg.models:Net --hparams width=32 --input-shape 1,3,32,32 --onnx-only --output out/
  tern-export model.onnx --tvm-target pi4 --output out/
"""


OWN = ("tvm", "onnx", "onnxscript", "onnxruntime", "rich", "lightning")
"""Packages that extras of this package bring."""


class UsageError(Exception):
    """An argument that cannot be used; the message names it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 on success, 1 when the export failed, 2 (from argparse) for a wrong command line."""
    options = _parser().parse_args(arguments)
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
        missing = isinstance(error, ModuleNotFoundError) and error.name in OWN
        text = install_hint(error) if missing else _one_line(error)  # type: ignore[arg-type]
        print(f"error: {printable(text)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tern-export",
        description="Export a trained network to ONNX with two-bit weights and compile it to a verified library.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", type=user_path, help="Lightning checkpoint (.ckpt), state_dict (.pt) or ONNX file (.onnx)")
    what = "directory to write; replaced only on success"
    add("--output", "-o", type=user_path, required=True, metavar="DIR", help=what)
    add(
        "--model",
        metavar="PKG.MOD:CLASS",
        help="class of the checkpoint, imported with the current directory on the path",
    )
    add("--hparams", nargs="+", default=[], metavar="KEY=VALUE", help="constructor arguments, before the checkpoint's")
    add(
        "--allow-class",
        action="append",
        default=[],
        metavar="PKG.MOD.NAME",
        help="class of which the checkpoint may hold objects, such as pathlib.PosixPath; repeat it for several",
    )
    add(
        "--tvm-target",
        default="host",
        metavar="NAME|JSON",
        help="preset such as host, arm, pi4, c, opencl, cuda, jetson-orin, or a TVM target as JSON",
    )
    add("--onnx-only", action="store_true", help="write DIR/model.onnx and compile nothing")
    add("--activations", choices=("uint8", "float32"), default="uint8", help="(default: %(default)s)")
    add("--dense-weights", choices=("int8", "float32"), help="weights that are not ternary (default: as activations)")
    add("--bits", type=int, default=8, help="width of calibrated activations, 2 to 8 (default: %(default)s)")
    add("--percentile", type=float, help="calibrate with this percentile instead of the largest value")
    add(
        "--samples",
        type=user_path,
        metavar="FILE.npz",
        help="real inputs, one array for each input, samples on the first axis",
    )
    add("--input-shape", action="append", metavar="N,C,H,W", help="shape of the input; repeat it for several inputs")
    add(
        "--batch-size",
        type=_batch_sizes,
        metavar="N[,N...]",
        help="batch when only --samples is given (default: 1); several, such as 1,8, are compiled beside each other, "
        "and a call uses the largest that fits",
    )
    add("--seed", type=int, default=0, help="of random inputs (default: %(default)s)")
    add("--no-verify", action="store_true", help="do not compare what was written with the module")
    add("--allow-zero-layers", action="store_true", help="accept ternary layers with only zeros")
    add(
        "--tune",
        nargs="?",
        const="",
        metavar="FILE",
        help="measure on the device which kernels are best, and remember it in this database (default: in the user's "
        "cache directory)",
    )
    add("--tune-board", metavar="HOST:PORT", help="with --tune: measure on a board that runs tern-board serve")
    add("--tune-tracker", metavar="HOST:PORT", help="with --tune: measure on a board that a tracker hands out")
    add("--tune-key", metavar="KEY", help="key of the board to measure on (default: board)")
    add(
        "--tune-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="give up a board that says nothing for so long (default: %(default).0f)",
    )
    add(
        "--tune-wait",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="wait so long for a board that is busy (default: %(default).0f)",
    )
    add(
        "--tune-threads",
        type=int,
        metavar="N",
        help="with --tune: threads of the network (default: the device's cores)",
    )
    add("--debug", action="store_true", help="show the traceback of an error, and debug messages")
    return parser


def _run(options: argparse.Namespace) -> None:
    console = make_console(soft_wrap=True)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(name)s: %(message)s")
    console.print("tern-export", style="bold")
    for name, value in _resolved(options).items():
        console.print(f"  {name:<18} {value}")
    if not options.source.is_file():
        raise UsageError(f"{str(options.source)!r} does not exist or is not a file")
    with console.status("starting") as status:

        def say(line: str) -> None:
            status.update(plain(line))
            console.print(f"- {line}", style="bold red" if line.startswith(("NOT VERIFIED", "warning:")) else None)

        with _tuning(options, say) as tune:
            if options.source.suffix == ".onnx":
                _export_onnx(options, say, tune)
            else:
                _report(console, _export_checkpoint(options, say, tune))
        if tune is not None:
            from tvm_schedules.tuner.show import show

            show(console, tune.layers)
    console.print("done", style="green", end=" ")
    console.print(options.output)


def _resolved(options: argparse.Namespace) -> dict[str, Any]:
    """What will be done, defaults included, without what does not apply."""
    shown = {key: value for key, value in vars(options).items() if key != "debug" and value not in (None, [])}
    if not (options.tune_board or options.tune_tracker):
        del shown["tune_timeout"], shown["tune_wait"]
    if options.source.suffix == ".onnx":
        kept = {"source", "output", "tvm_target", "samples", "input_shape", "batch_size", "no_verify"}
        kept |= {key for key in shown if key.startswith("tune")}
        shown = {key: value for key, value in shown.items() if key in kept}
    return {key.replace("_", "-"): value for key, value in shown.items()}


@contextlib.contextmanager
def _tuning(options: argparse.Namespace, say: Any) -> Iterator[Tuning | None]:
    """How to tune, with an open session where a board measures."""
    if options.tune is None:
        if options.tune_board or options.tune_tracker or options.tune_key or options.tune_threads:
            raise UsageError("--tune-board, --tune-tracker, --tune-key and --tune-threads need --tune")
        yield None
        return
    from tvm_schedules.tuner import Tuning

    if options.onnx_only:
        raise UsageError("--tune is for compiling; --onnx-only compiles nothing")
    if options.tune_board and options.tune_tracker:
        raise UsageError("give either --tune-board or --tune-tracker")
    if options.tune_key and not (options.tune_board or options.tune_tracker):
        raise UsageError("--tune-key needs --tune-board or --tune-tracker")
    with contextlib.ExitStack() as stack:
        board = None
        if options.tune_board or options.tune_tracker:
            from tvm_schedules.bench.boards import Address

            host, key = options.tune_board or options.tune_tracker, options.tune_key or "board"
            times = options.tune_timeout, options.tune_wait
            board = stack.enter_context(Address(host, key, bool(options.tune_tracker), *times).connect(say))
        yield Tuning(options.tune or None, board, options.tune_threads)


def _export_onnx(options: argparse.Namespace, say: Any, tune: Tuning | None) -> None:
    from tern_lightning.exporter.pipeline import check_output, check_target, compile_onnx, start_compiler
    from tern_lightning.exporter.samples import collect_batches

    if options.model or options.hparams or options.onnx_only or options.allow_class:
        raise UsageError(
            "--model, --hparams, --allow-class and --onnx-only are for checkpoints; the source is an ONNX file already"
        )
    check_target(options.tvm_target)
    place = check_output(options.output)
    start_compiler()
    inputs, ternary = _inspect_onnx(options.source)
    given = _input_shapes(options.input_shape)
    if given is not None and len(given) != len(inputs):
        names = ", ".join(inputs) or "none"
        raise UsageError(f"--input-shape is given {len(given)} times; the file's inputs are {names}")
    named = dict(zip(inputs, given, strict=True)) if given else None
    fixed = all(shape and min(shape) > 0 for shape, _ in inputs.values())
    shapes = given or ([shape for shape, _ in inputs.values()] if fixed else None)
    say(f"{ternary} two-bit weights" if ternary else "no layer is ternary: the network is compiled dense")
    batches = None
    if options.samples is not None:
        batches, _ = collect_batches(None, options.samples, shapes)
        kinds = [kind for _, kind in inputs.values()]
        batches = [_as_types(batch, kinds) for batch in batches]
    say(f"compiling for {options.tvm_target}")
    sizes = options.batch_size or ()
    compile_onnx(options.source, place, options.tvm_target, batches, not options.no_verify, say, tune, sizes, named)


def _as_types(batch: Batch, kinds: Sequence[np.dtype[Any]]) -> Batch:
    """Numbers with a fraction in the precision that the file asks for."""
    return tuple(
        array.astype(kind) if array.dtype.kind == kind.kind == "f" else array
        for array, kind in zip(batch, kinds, strict=False)
    )


def _inspect_onnx(path: Path) -> tuple[dict[str, tuple[tuple[int, ...], np.dtype[Any]]], int]:
    """Check a file; return shape (0 where it is open) and type of its inputs, and its number of two-bit weights."""
    import onnx

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:
        raise UsageError(f"{str(path)!r} is not a valid ONNX file: {_one_line(error)}") from error
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {
        value.name: (
            tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim),
            np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
        )
        for value in model.graph.input
        if value.name not in stored
    }
    ternary = sum(t.data_type in (onnx.TensorProto.INT2, onnx.TensorProto.UINT2) for t in model.graph.initializer)
    return inputs, ternary


def _export_checkpoint(options: argparse.Namespace, say: Any, tune: Tuning | None) -> ExportResult:
    from tern_lightning.checkpoint import class_of_name, load_module, read_checkpoint
    from tern_lightning.exporter.checkpoint_inputs import attach_learned_inputs, checkpoint_ranges
    from tern_lightning.exporter.errors import ExportWarning
    from tern_lightning.exporter.pipeline import check_output, check_target, export, start_compiler

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
    warnings.simplefilter("ignore", ExportWarning)  # they are among the lines
    result = export(
        module,
        options.output,
        target=options.tvm_target,
        samples=options.samples,
        input_shape=_input_shapes(options.input_shape),
        batch_size=options.batch_size or 1,
        activations=options.activations,
        dense_weights=options.dense_weights,
        ranges=ranges or None,
        bits=options.bits,
        percentile=options.percentile,
        onnx_only=options.onnx_only,
        verify=not options.no_verify,
        allow_zero_layers=options.allow_zero_layers,
        seed=options.seed,
        tune=tune,
        progress=say,
    )
    if not result.calibrated_on_data and options.activations == "uint8" and len(ranges) < len(result.network.ranges):
        say("warning: 8-bit ranges were calibrated on random numbers; give real inputs with --samples")
    return result


def import_class(spec: str) -> type[nn.Module]:
    """Import ``pkg.mod:Class`` with the current directory on the path.

    Raises:
        UsageError: The text has another form, the import fails, or the name is not a module class.
    """
    from torch import nn

    module_name, separator, class_name = spec.partition(":")
    if not (separator and module_name and class_name):
        raise UsageError(f"--model must be pkg.mod:Class, got {spec!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"--model {spec!r}: importing {module_name!r} fails: {_one_line(error)}") from error
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        known = [
            n for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, nn.Module) and v is not nn.Module
        ]
        raise UsageError(f"--model {spec!r}: {module_name} has no network class {class_name!r}; it has {sorted(known)}")
    return found


def parse_hparams(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs; values are Python literals, anything else is text.

    Example:
        >>> parse_hparams(["width=32", "act=relu", "sizes=[1, 2]"])
        {'width': 32, 'act': 'relu', 'sizes': [1, 2]}
    """
    parsed = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not (separator and key.isidentifier()):
            raise UsageError(f"--hparams takes key=value, got {pair!r}")
        try:
            parsed[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            parsed[key] = text
        except (TypeError, RecursionError, MemoryError) as error:  # a list as a key, brackets without an end
            raise UsageError(f"--hparams {key} is no value: {reason(error)}") from error
    return parsed


def _batch_sizes(text: str) -> list[int]:
    """One size or several, separated by commas."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be sizes such as 1 or 1,8, got {text!r}") from None
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text!r}")
    return sizes


def _input_shapes(texts: Sequence[str] | None) -> list[tuple[int, ...]] | None:
    if not texts:
        return None
    try:
        shapes = [tuple(int(size) for size in text.replace("x", ",").split(",")) for text in texts]
    except ValueError as error:
        raise UsageError(f"--input-shape must be sizes such as 1,3,32,32, got {' '.join(texts)!r}") from error
    if any(min(shape) < 1 for shape in shapes):
        raise UsageError(f"--input-shape must hold positive sizes, got {' '.join(texts)!r}")
    return shapes


def _report(console: Any, result: ExportResult) -> None:
    """Print the layers and the comparisons."""
    from rich.table import Table

    network: OnnxExport = result.network
    table = Table(title=None, box=None, pad_edge=False)
    for column in ("layer", "shape", "zeros", "bits/weight", "entropy"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for path, weight in network.ternary.items():
        shape = "x".join(map(str, weight.shape))
        table.add_row(path, shape, f"{weight.sparsity():.1%}", str(weight.bits()), f"{weight.entropy():.2f}")
    for path in network.dense:
        table.add_row(path, "", "", "dense", "")
    console.print(table)
    checks = {
        "float32 network against module": network.float_check,
        "8-bit network against the same rounding in torch": network.quantized_check,
    }
    for name, check in checks.items():
        if check is not None:
            console.print(f"{name}: {check}")
    if network.drift is not None:
        top1 = "" if network.drift.top1 is None else f", top-1 agreement {network.drift.top1:.1%}"
        console.print(f"8-bit network against module: cosine {network.drift.cosine:.6f}{top1}")
    if result.artifact is None:
        console.print(f"{result.onnx}: {result.onnx.stat().st_size} bytes")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else f"{text[:600]} ... (--debug shows all)"


if __name__ == "__main__":
    sys.exit(main())
