"""The command line of tern-export: its arguments, and what they mean."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tern_lightning.exporter.options import ExportOptions
from tvm_schedules.cli.common import add_version, add_waiting
from tvm_schedules.common.files import user_path
from tvm_schedules.common.near import meant
from tvm_schedules.common.reading import reason

if TYPE_CHECKING:
    from torch import nn

    from tvm_schedules.tuner import Tuning

EXAMPLES = """examples:
  tern-export runs/best.ckpt --model examples.digits:DigitsNet --tvm-target arm --output out/ --samples digits.npz
  tern-export runs/best.ckpt --model pkg.models:Net --hparams width=32 --input-shape 1,3,32,32 --onnx-only --output out/
  tern-export float.ckpt --model pkg.models:Net --ternarize twn --zeros 0.7 --samples data.npz --output out/
  tern-export model.onnx --tvm-target pi4 --output out/
"""


class UsageError(Exception):
    """An argument that cannot be used; the message names it."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of tern-export."""
    parser = argparse.ArgumentParser(
        prog="tern-export",
        description="Export a trained network to ONNX with two-bit weights and compile it to a verified library.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_version(parser)
    add = parser.add_argument
    add("source", type=user_path, help="Lightning checkpoint (.ckpt), state_dict (.pt) or ONNX file (.onnx)")
    what = "directory to write; replaced only on success"
    add("--output", "-o", type=user_path, required=True, metavar="DIR", help=what)
    add_network(parser)
    _add_ternarizing(parser)
    _add_conversion(parser)
    add_inputs(parser)
    add(
        "--network-outputs",
        dest="outputs",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="NAME[,NAME...]",
        help="tensors that an ONNX file's network ends with, in place of its own outputs",
    )
    add("--no-verify", action="store_true", help="do not compare what was written with the module")
    add("--allow-zero-layers", action="store_true", help="accept ternary layers with only zeros")
    _add_tuning(parser)
    add("--debug", action="store_true", help="show the traceback of an error, and debug messages")
    return parser


def add_network(parser: argparse._ActionsContainer) -> None:
    """Adds the options that say of which class a checkpoint is."""
    add = parser.add_argument
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


def _add_ternarizing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a float checkpoint", "make it ternary without training, on data").add_argument
    add("--ternarize", metavar="METHOD", help="method whose codes are the start, for example twn")
    add("--zeros", type=float, metavar="SHARE", help="share of zeros in every layer, in [0, 1) (default: the method's)")
    add(
        "--calibrate",
        type=user_path,
        metavar="FILE.npz",
        help="real inputs to fit the codes on, a few hundred (default: those of --samples)",
    )


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tvm-target",
        "--target",
        default="host",
        metavar="NAME|JSON",
        help="preset such as host, arm, pi4, c, opencl, cuda, jetson-orin, or a TVM target as JSON",
    )
    add(
        "--c-prefix",
        metavar="NAME",
        help="with --tvm-target c: what files, functions and macros begin with (default: model)",
    )
    add("--onnx-only", action="store_true", help="write DIR/model.onnx and compile nothing")
    add("--activations", choices=("uint8", "float32"), default="uint8", help="(default: %(default)s)")
    add("--dense-weights", choices=("int8", "float32"), help="weights that are not ternary (default: as activations)")
    add("--bits", type=int, default=8, help="width of calibrated activations, 2 to 8 (default: %(default)s)")
    add("--percentile", type=float, help="calibrate with this percentile instead of the largest value")


def add_inputs(parser: argparse._ActionsContainer) -> None:
    """Adds the options that say what a network's inputs are."""
    add = parser.add_argument
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
    add(
        "--lengths",
        type=_batch_sizes,
        default=[],
        metavar="N[,N...]",
        help="shorter sequences (second axis of the inputs) to compile for, beside that of the input; calls are padded "
        "to the next length",
    )
    add(
        "--pad",
        action="append",
        default=[],
        type=_padding,
        metavar="INPUT=VALUE",
        help="with --lengths: what an input has behind the end of a sequence (default: 0); repeat it for several",
    )
    add("--seed", type=int, default=0, help="of random inputs (default: %(default)s)")


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
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
    add_waiting(add, "tune-")
    add(
        "--tune-threads",
        type=int,
        metavar="N",
        help="with --tune: threads of the network (default: the device's cores)",
    )


def _padding(text: str) -> tuple[str, float]:
    """An input and the number that fills it."""
    name, equals, value = text.rpartition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not equals or not name or number != number:
        raise argparse.ArgumentTypeError(f"must be an input's name, =, and a number, such as mask=1, got {text!r}")
    return name, number


def padding(given: argparse.Namespace) -> dict[str, float] | None:
    """What fills inputs behind the end of a sequence, by their names; None where nothing is said.

    Raises:
        UsageError: No lengths are given, or an input is named twice.
    """
    if given.pad and not given.lengths:
        raise UsageError("--pad says what is behind the end of a shorter sequence; it needs --lengths")
    names = [name for name, _ in given.pad]
    if len(set(names)) < len(names):
        raise UsageError(f"--pad names an input twice: {', '.join(names)}")
    return dict(given.pad) or None


def resolved(options: argparse.Namespace) -> dict[str, Any]:
    """What will be done, defaults included, without what does not apply."""
    shown = {
        key: value
        for key, value in vars(options).items()
        if key != "debug" and value not in (None, []) and value is not False
    }
    if options.pad:
        shown["pad"] = [f"{name}={value:g}" for name, value in options.pad]
    if not (options.tune_board or options.tune_tracker):
        del shown["tune_timeout"], shown["tune_wait"]
    if options.source.suffix == ".onnx":
        kept = {
            "source",
            "output",
            "tvm_target",
            "c_prefix",
            "samples",
            "input_shape",
            "batch_size",
            "lengths",
            "outputs",
            "pad",
            "no_verify",
        }
        kept |= {key for key in shown if key.startswith("tune")}
        shown = {key: value for key, value in shown.items() if key in kept}
    return {key.replace("_", "-"): value for key, value in shown.items()}


def export_options(
    given: argparse.Namespace, tune: Tuning | None, progress: Callable[[str], None], **found: Any
) -> ExportOptions:
    """The options of the export that a command line asks for.

    Args:
        given: The command line.
        tune: How to tune, see :func:`tuning`.
        progress: Called with a line at every stage.
        found: Options that are not of the command line, such as ``ranges``.
    """
    return ExportOptions(
        target=given.tvm_target,
        c_prefix=given.c_prefix,
        samples=given.samples,
        input_shape=input_shapes(given.input_shape),
        batch_size=given.batch_size or 1,
        lengths=given.lengths,
        pad=padding(given),
        activations=given.activations,
        dense_weights=given.dense_weights,
        bits=given.bits,
        percentile=given.percentile,
        onnx_only=given.onnx_only,
        verify=not given.no_verify,
        allow_zero_layers=given.allow_zero_layers,
        seed=given.seed,
        tune=tune,
        progress=progress,
        **found,
    )


@contextlib.contextmanager
def tuning(options: argparse.Namespace, say: Any) -> Iterator[Tuning | None]:
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
            from tvm_schedules.remote.connection import Address

            host, key = options.tune_board or options.tune_tracker, options.tune_key or "board"
            times = options.tune_timeout, options.tune_wait
            board = stack.enter_context(Address(host, key, bool(options.tune_tracker), *times).connect(say))
        yield Tuning(options.tune or None, board, options.tune_threads)


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
        raise UsageError(f"--model {spec!r}: importing {module_name!r} fails: {one_line(error)}") from error
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        known = [
            n for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, nn.Module) and v is not nn.Module
        ]
        hint = f"it has {sorted(known)}{meant(class_name, known)}"
        raise UsageError(f"--model {spec!r}: {module_name} has no network class {class_name!r}; {hint}")
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


def input_shapes(texts: Sequence[str] | None) -> list[tuple[int, ...]] | None:
    """The shapes of ``--input-shape``, None where there is none.

    Raises:
        UsageError: A text is no shape.
    """
    if not texts:
        return None
    try:
        shapes = [tuple(int(size) for size in text.replace("x", ",").split(",")) for text in texts]
    except ValueError as error:
        raise UsageError(f"--input-shape must be sizes such as 1,3,32,32, got {' '.join(texts)!r}") from error
    if any(min(shape) < 1 for shape in shapes):
        raise UsageError(f"--input-shape must hold positive sizes, got {' '.join(texts)!r}")
    return shapes


def one_line(error: BaseException) -> str:
    """The text of an error in one line that is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else f"{text[:600]} ... (--debug shows all)"
