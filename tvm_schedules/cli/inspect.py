"""``tern-inspect``: what is in an ONNX file, an artifact or a checkpoint, layer by layer."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from tvm_schedules.artifact.inspect import Inspection, inspect
from tvm_schedules.backends import registry
from tvm_schedules.cli.common import add_version, run, said
from tvm_schedules.common.console import make_console
from tvm_schedules.common.files import check_writable, user_path
from tvm_schedules.errors import TernError
from tvm_schedules.ir.plan import Plan
from tvm_schedules.report.page import write_page
from tvm_schedules.report.run import Run


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-inspect",
        description="Show every weight of an ONNX file, an artifact directory or a Lightning checkpoint: shape, zeros, "
        "entropy, stored bits, levels, kernel and reason, sizes.",
    )
    add_version(made)
    made.add_argument("source", metavar="FILE_OR_DIR", help=".onnx file, artifact directory or checkpoint")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made.add_argument("--html", metavar="FILE", help="write it as a page that stands alone; see tern-report")
    return made


CAPTION = (
    "zeros: share of the weights; entropy: bits a weight that its codes -1, 0 and 1 need at least, by how often each "
    "occurs; bits: what a weight takes in the file; levels: what +1 and -1 stand for, the smallest and the largest"
)


def _levels(levels: tuple[float, float] | None) -> str:
    if levels is None:
        return ""
    low, high = levels
    return f"{low:.4g}" if low == high else f"{low:.4g} - {high:.4g}"


def table(found: Inspection) -> Any:
    """The layers as a ``rich`` table with a line of totals."""
    from rich.table import Table

    artifact = found.kind == "artifact"
    totals, ternary = (found.totals()[group] for group in ("all", "ternary"))
    mixed = 0 < ternary["layers"] < totals["layers"]
    more = f"; the last line counts all weights: of those in ternary layers {ternary['sparsity']:.1%} are zeros"
    made = Table(title=f"{found.kind} {found.path}", show_footer=True, caption=f"{CAPTION}{more if mixed else ''}")
    compression = f"{totals['compression']:.1f} x smaller" if totals["compression"] else ""
    footers = {
        "layer": f"{totals['layers']} layers",
        "shape": f"{totals['weights']:,} weights",
        "zeros": f"{totals['sparsity']:.1%}",
        "bytes": f"{totals['bytes']:,}",
        "kind": compression,
    }
    columns = ["layer", "shape", "kind", "terms", "zeros", "entropy", "bits", "levels", "bytes"]
    columns += ["kernel", "reason"] if artifact else []
    for column in columns:
        left = column in ("layer", "shape", "kind", "levels", "kernel", "reason")
        made.add_column(column, footers.get(column, ""), justify="left" if left else "right", overflow="fold")
    for layer in found.layers:
        row = [
            layer.name,
            "x".join(str(size) for size in layer.shape),
            layer.kind,
            str(layer.terms or ""),
            f"{layer.sparsity:.1%}",
            "" if layer.entropy is None else f"{layer.entropy:.3f}",
            f"{layer.bits:.2f}",
            _levels(layer.levels),
            f"{layer.bytes:,}",
        ]
        made.add_row(*row, *([layer.kernel or "", layer.reason or ""] if artifact else []))
    return made


def _main(options: argparse.Namespace) -> int:
    if options.html:
        check_writable(options.html)
    found = inspect(options.source)
    if options.html:
        said("page", write_page([Run(user_path(options.source).resolve().name, found.to_dict())], options.html))
    if options.json:
        print(json.dumps(found.to_dict(), indent=1))
        return 0
    try:
        console = make_console(width=160)
    except ImportError:
        raise TernError("rich is not installed; install it with: pip install rich, or use --json") from None
    console.print(table(found))
    if found.details:
        target, report = found.details["target"], found.details["verification"]
        why = f": {found.details['unverified']}" if found.details["unverified"] else ""
        state = f"not verified{why}" if report is None else f"verified: {report['where']}, {report['runs']} runs"
        backend = registry.for_artifact(found.details)
        console.print(f"target {target['name']} ({backend.made_for(target, found.details['code'])}), {state}")
        for line in backend.notes(Plan.from_json({**found.details, "steps": [], "layers": []})):
            console.print(line)
    files = ", ".join(f"{name} {size:,} bytes" for name, size in found.files.items())
    console.print(f"files: {files}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tern-inspect``; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: _main(options))


if __name__ == "__main__":
    raise SystemExit(main())
