"""The artifact: a directory with the library, its weights, the ONNX file, samples and all that is known about it."""

from tvm_schedules.artifact.build import Artifact, build, load_samples
from tvm_schedules.artifact.load import Model, load

__all__ = ["Artifact", "Model", "build", "load", "load_samples"]
