"""tern-estimate: what a network takes on several targets, of an ONNX file, an artifact or a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tern_lightning.cli.arguments import UsageError, add_inputs, add_network, import_class, input_shapes, parse_hparams
from tvm_schedules.cli.common import run
from tvm_schedules.cli.estimate import parser, print_estimates, show
from tvm_schedules.common.files import user_path
from tvm_schedules.errors import TernError


def make_parser() -> argparse.ArgumentParser:
    """The options, with those for checkpoints."""
    made = parser()
    group = made.add_argument_group("checkpoints", "as tern-export takes them")
    add_network(group)
    add_inputs(group)
    group.add_argument("--activations", choices=("uint8", "float32"), default="uint8", help="(default: %(default)s)")
    return made


def _main(options: argparse.Namespace) -> int:
    source = user_path(options.source, "source")
    if source.is_dir() or source.suffix == ".onnx":
        if options.model or options.hparams:
            raise TernError("--model and --hparams are for checkpoints, and the source is none")
        return print_estimates(source, options)
    if not source.is_file():
        raise TernError(f"{source} does not exist; give an .onnx file, an artifact directory or a checkpoint")
    if not options.model:
        raise TernError("--model pkg.mod:Class is needed: the class that the checkpoint belongs to")
    from tern_lightning.checkpoint import load_module
    from tern_lightning.exporter.estimating import estimate

    try:
        module = load_module(source, import_class(options.model), **parse_hparams(options.hparams))
        shapes = input_shapes(options.input_shape)
    except UsageError as error:
        raise TernError(str(error)) from error
    given = {"samples": options.samples, "input_shape": shapes, "activations": options.activations}
    found = estimate(module, options.targets, options.measured, seed=options.seed, **given)
    show(found, options.steps, options.json)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tern-estimate``; returns the exit status."""
    options = make_parser().parse_args(arguments)
    return run(lambda: _main(options))


if __name__ == "__main__":
    sys.exit(main())
