"""The artifact: a directory with the library, its weights, the ONNX file, samples and all that is known about it."""

from tvm_schedules.artifact.samples import load_samples

__all__ = ["load_samples"]
