"""What is written about a network into an artifact's ``metadata.json``."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tvm_schedules.common.version import versions
from tvm_schedules.frontend.onnx_model import quantized_tensors
from tvm_schedules.ir.plan import Plan
from tvm_schedules.targets.registry import TargetSpec

__all__ = ["describe"]

_PACKAGES = ("tern-lightning", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxruntime")


def describe(
    model: Any, spec: TargetSpec, plan: Plan, seconds: float, report: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that is worth knowing about a compiled network.

    Args:
        model: ``onnx.ModelProto``.
        spec: The target.
        plan: The network's.
        seconds: What compiling took.
        report: Of the verification, None where there was none.
    """
    ternary = [layer for layer in plan.layers if layer.terms]
    weights = sum(math.prod(layer.shape) for layer in ternary)
    quantized = quantized_tensors(model)
    written = plan.to_json()
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "packages": {"python": platform.python_version(), **versions(*_PACKAGES)},
        "target": spec.to_dict(),
        "quantization": {
            "activations": sorted({dtype for _, _, dtype in quantized.values()}) or ["float32"],
            "quantized_tensors": len(quantized),
            "ternary_layers": len(ternary),
            "ternary_weights": weights,
            "bits_per_weight_stored": 8 * sum(layer.bytes for layer in ternary) / weights if weights else None,
        },
        **written,
        "steps": _with_operands(model, written["steps"], set(quantized)),
        "compile_seconds": round(seconds, 3),
        "verification": report,
    }


def _with_operands(model: Any, steps: Sequence[Mapping[str, Any]], quantized: set[str]) -> list[dict[str, Any]]:
    """Steps with ``operand``: as the kernel says, or ``uint8`` where the node of that name reads a quantized tensor."""
    nodes = {node.name: node for node in model.graph.node if node.name}
    result = []
    for step in steps:
        node = nodes.get(step["name"])
        integers = node is not None and bool(node.input) and node.input[0] in quantized
        result.append({"operand": "uint8" if integers else "float32", **step})
    return result
