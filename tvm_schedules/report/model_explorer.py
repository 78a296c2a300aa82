"""Times and zeros as node data of Model Explorer, the viewer of Google's AI Edge, beside the artifact's ONNX file.

Its format is ``{"results": {output tensor: {"value": number}}, "gradient": [...]}``, one file for each quantity.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tvm_schedules.artifact import store
from tvm_schedules.common.files import user_path, write_file
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import TernError
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.report.run import Run

GRADIENTS = {"microseconds": ("#ffffff", "#d55e00"), "zeros": ("#ffffff", "#0072b2")}
"""What is written, and its colors from the smallest to the largest value."""


def node_data(run: Run) -> dict[str, dict[str, Any]]:
    """Node data of an artifact's ONNX file, by quantity; a quantity of which nothing is known is left out.

    Args:
        run: Of an artifact with its ONNX file; its first measurement has the times.

    Raises:
        TernError: The run has no artifact, the artifact no ONNX file, or something is damaged.
    """
    found = run.inspection
    if found is None or found["kind"] != "artifact":
        raise TernError(f"{run.name} has no artifact, whose ONNX file Model Explorer could show")
    model = Path(found["path"]) / store.MODEL
    if not model.is_file():
        raise TernError(f"{found['path']} has no {store.MODEL}, which Model Explorer would show")
    graph = read_model(model).graph
    with reading(f"what is known of {run.name}", TernError):
        steps = run.benches[0]["results"][0]["steps"] if run.benches else []
        values = {
            "microseconds": {step["name"]: step["us"] for step in steps},
            "zeros": {layer["step"]: layer["sparsity"] for layer in found["layers"] if layer["step"]},
        }
    made = {}
    for quantity, known in values.items():
        results = {node.output[0]: {"value": known[node.name]} for node in graph.node if node.name in known}
        low, high = GRADIENTS[quantity]
        if results:
            gradient = [{"stop": 0, "bgColor": low}, {"stop": 1, "bgColor": high}]
            made[quantity] = {"name": f"tern {quantity}", "results": results, "gradient": gradient}
    return made


def write_node_data(run: Run, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``microseconds.json`` and ``zeros.json``, as far as they are known; see :func:`node_data`.

    Returns:
        The files.

    Raises:
        OutputError: A file cannot be written.
        TernError: As :func:`node_data`.
    """
    place = user_path(folder, "folder")
    made = {name: json.dumps(data, indent=1) + "\n" for name, data in node_data(run).items()}
    return [write_file(place / f"{name}.json", text) for name, text in made.items()]
