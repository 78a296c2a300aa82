"""Reads ONNX files, for everything that takes one: checked by ONNX itself, and with weights that are finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import reading_model
from tvm_schedules.errors import ModelError

__all__ = ["read_model"]


@reading_model()
def read_model(source: str | Path | bytes | Any) -> Any:
    """Read and check an ONNX model.

    Args:
        source: Path, serialized bytes or an ``onnx.ModelProto`` (which is copied, never changed).

    Returns:
        ``onnx.ModelProto`` with external data loaded.

    Raises:
        ModelError: The file cannot be read, is no ONNX model, fails ONNX' checker, computes nothing, or has a weight
            that is not finite.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    name = "the model"
    try:
        if isinstance(source, onnx.ModelProto):
            model = onnx.ModelProto()
            model.CopyFrom(source)
        elif isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        else:
            path = user_path(source, "model")
            name = str(path)
            model = onnx.load(name)
        onnx.checker.check_model(model)
    except OSError as error:
        raise ModelError(f"cannot read {name}: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise ModelError(f"{name} is not a valid ONNX model: {str(error).strip().splitlines()[0]}") from error
    if not model.graph.node or not model.graph.output:
        raise ModelError(f"{name} has no nodes or no outputs; is the file complete?")
    read = {name for node in model.graph.node if node.op_type in _WEIGHTED for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.data_type not in _float_types():
            continue
        array = np.asarray(numpy_helper.to_array(tensor)).astype(np.float64)
        # Masks are made of infinite constants; a layer's weight is never infinite.
        if np.isnan(array).any() or (tensor.name in read and not np.isfinite(array).all()):
            raise ModelError(f"weight {tensor.name!r} of {name} has values that are NaN or infinite")
    return model


_WEIGHTED = {
    "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "InstanceNormalization",
    "GroupNormalization", "RMSNormalization", "PRelu", "Gather", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip
"""Operators of layers, whose constants are trained."""


def _float_types() -> set[int]:
    import onnx

    kinds = onnx.TensorProto
    return {kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16}
