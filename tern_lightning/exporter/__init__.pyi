"""The public names of this package; ``export`` itself is one of tern_lightning."""

from tern_lightning.exporter.errors import ExportError as ExportError
from tern_lightning.exporter.errors import VerificationError as VerificationError
from tern_lightning.exporter.options import ExportOptions as ExportOptions
from tern_lightning.exporter.options import OnnxOptions as OnnxOptions
from tern_lightning.exporter.runtime import Comparison as Comparison
from tern_lightning.exporter.runtime import run_onnx as run_onnx
from tern_lightning.exporter.writer import OnnxExport as OnnxExport
from tern_lightning.exporter.writer import to_onnx as to_onnx
from tern_lightning.exporter.writer import write_onnx as write_onnx
