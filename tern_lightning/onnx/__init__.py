"""Writer of the exchange format: standard ONNX with two-bit ternary weights."""

from tern_lightning.onnx.errors import ExportError, VerificationError
from tern_lightning.onnx.runtime import Comparison, run_onnx
from tern_lightning.onnx.writer import OnnxExport, to_onnx, write_onnx

__all__ = ["Comparison", "ExportError", "OnnxExport", "VerificationError", "run_onnx", "to_onnx", "write_onnx"]
