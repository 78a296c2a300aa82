"""What tern-export prints about an export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tern_lightning.exporter.pipeline import ExportResult
    from tvm_schedules import Artifact


def print_result(console: Any, result: ExportResult) -> None:
    """Print the layers and the comparisons."""
    from rich.table import Table

    network = result.network
    table = Table(title=None, box=None, pad_edge=False)
    for column in ("layer", "shape", "zeros", "bits/weight", "entropy"):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for path, weight in network.ternary.items():
        shape = "x".join(map(str, weight.shape))
        table.add_row(path, shape, f"{weight.sparsity():.1%}", str(weight.bits()), f"{weight.entropy():.2f}")
    total = sum(weight.codes[0].numel() for weight in network.ternary.values())
    if len(network.ternary) > 1:
        zeros = sum(weight.sparsity() * weight.codes[0].numel() for weight in network.ternary.values()) / total
        table.add_row("all of these", f"{total:,}", f"{zeros:.1%}", "", "", end_section=True)
    for path in network.dense:
        table.add_row(path, "", "", "8" if network.ranges else "32", "")
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
    else:
        print_verification(console, result.artifact)


def print_verification(console: Any, artifact: Artifact) -> None:
    """Print how far a library's outputs are from onnxruntime's, where that was looked at."""
    if artifact.report is not None:
        for line in artifact.report.text().splitlines():
            console.print(f"library against onnxruntime: {line}")
