"""onnxruntime as the reference: without graph optimization it computes what an ONNX file says, in float32.

With its optimizations on it would replace 2-bit matrix products by a kernel that rounds activations to 8 bits (about
0.6 % error), and 8-bit convolutions by integer kernels of its own. On x86 CPUs without VNNI, some of these add pairs of
products in 16 bits, where sums stop at 32767 and outputs are off by many steps, unless they are told to be precise.
Those of ``QLinearConv`` and products of integers do so whatever they are told: such operators are written with ordinary
ones, as which they are defined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.frontend.plain_operators import with_plain_operators

__all__ = ["reference_outputs", "reference_session"]

Array = npt.NDArray[Any]


def reference_session(model: Any, optimized: bool = False, severity: int = 3) -> Any:
    """An onnxruntime session that computes what the file says, in float32 (see the module's text).

    Args:
        model: ``onnx.ModelProto``.
        optimized: With onnxruntime's graph optimization, and its 8-bit kernels that do not saturate.
        severity: Of what onnxruntime prints: errors from 3 on, from 4 on only what ends the process.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")  # no sums in 16 bits
    options.log_severity_level = severity
    model = with_plain_operators(model)
    content = _with_zero_points(model) if optimized else model
    return onnxruntime.InferenceSession(content.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _with_zero_points(model: Any) -> Any:
    """The same network with the zero points of 8-bit weights written out, where each channel has a step of its own.

    To be precise, onnxruntime 1.32 makes unsigned bytes of signed ones, and a single zero point for all channels, which
    it refuses to run.
    """
    from onnx import TensorProto

    made = type(model)()
    made.CopyFrom(model)
    sizes = {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) > 2:
            continue
        kind, (_, steps) = sizes.get(node.input[0], (None, ()))[0], sizes.get(node.input[1], (None, ()))
        if kind == TensorProto.INT8 and len(steps) == 1:
            name = f"{node.output[0]}/zero_points"
            made.graph.initializer.append(
                TensorProto(name=name, data_type=TensorProto.INT8, dims=steps, raw_data=bytes(steps[0]))
            )
            node.input.append(name)
    return made


def reference_outputs(
    model: Any, runs: Sequence[Mapping[str, Array]], optimized: bool = False, severity: int = 3
) -> list[list[Array]]:
    """The outputs of onnxruntime for every run, in the order of the graph's outputs.

    Args:
        model: ``onnx.ModelProto``.
        runs: Inputs by name.
        optimized: With onnxruntime's graph optimization.
        severity: Of what onnxruntime prints, see :func:`reference_session`.
    """
    session = reference_session(model, optimized, severity)
    names = [value.name for value in model.graph.output]
    return [[np.asarray(array) for array in session.run(names, dict(run))] for run in runs]
