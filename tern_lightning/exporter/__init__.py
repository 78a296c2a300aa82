"""Writer of the exchange format: standard ONNX with two-bit ternary weights."""

from tern_lightning.exporter.errors import ExportError, VerificationError
from tern_lightning.exporter.runtime import Comparison, run_onnx
from tern_lightning.exporter.writer import OnnxExport, to_onnx, write_onnx

__all__ = ["Comparison", "ExportError", "OnnxExport", "VerificationError", "run_onnx", "to_onnx", "write_onnx"]
