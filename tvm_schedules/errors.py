"""Every error that building, checking, loading or running an artifact raises on purpose.

All derive from :class:`TernError`, so that a command line catches one class and prints one line.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class TernError(Exception):
    """Base class: something about the input, the machine or the artifact is not as it has to be."""


class TargetError(TernError, ValueError):
    """A target name or a TVM target JSON that is not understood."""


class ModelError(TernError, ValueError):
    """An ONNX model that cannot be read: corrupt, unreadable, or of a form that is not supported."""


class UnsupportedOperatorError(ModelError):
    """A node whose operator has no lowering; the message names the node, the operator and a way out."""


class ShapeError(ModelError):
    """A model whose input shape is open where a fixed one is needed."""


class LinkError(TernError, RuntimeError):
    """No linker for the target, or the linker failed."""


class CompilerError(TernError, RuntimeError):
    """The compiler's process ended before it was done, or met a fault of this package."""


class ArtifactError(TernError, RuntimeError):
    """A directory that is not an artifact, is damaged, or does not fit this machine or this version."""


class OutputError(ArtifactError):
    """The output path may not be replaced, or could not be written."""


class CpuFeatureError(ArtifactError):
    """The artifact needs CPU instructions that this machine does not have."""


class DeviceError(ArtifactError):
    """A graphics processor, its driver or its compiler that is missing or does not do as asked."""


class InputError(TernError, ValueError):
    """A network input of the wrong name, number, shape or dtype."""


class VerificationError(TernError, AssertionError):
    """The library's outputs differ from the reference by more than the tolerance."""


class BenchError(TernError, RuntimeError):
    """A benchmark that cannot be run as asked."""


class BoardError(BenchError):
    """A board that cannot be reached or does not do as asked, or a connection that broke."""


class TunerError(TernError, RuntimeError):
    """A tuning database that cannot be used, or no device to measure on."""


class EstimateError(TernError, ValueError):
    """A profile table that cannot be used, or a target that nothing is known about."""


EXTRAS = {
    **dict.fromkeys(("torch", "lightning", "torchmetrics"), "train"),
    **dict.fromkeys(("tvm", "tvm_ffi", "onnx", "onnxruntime"), "tvm"),
    "onnxscript": "onnx",
    "rich": "bench",
}
"""The extra of this package that brings each package."""


def install_hint(error: ModuleNotFoundError, extra: str | None = None) -> str:
    """Says which package is missing and which extra brings it.

    Args:
        error: Of the import.
        extra: What to install where the package alone is not enough; None is the extra that brings it.

    >>> install_hint(ModuleNotFoundError("No module named 'tvm'", name="tvm"))
    "the package 'tvm' is missing; install it with: pip install 'tern-lightning[tvm]'"
    """
    package = (error.name or "?").partition(".")[0]
    if package == "onnxruntime" and sys.version_info < (3, 11):
        return "exports need onnxruntime 1.24, which Python 3.10 does not have: export with Python 3.11 or newer"
    extra = extra or EXTRAS.get(package, "export")
    return f"the package {package!r} is missing; install it with: pip install 'tern-lightning[{extra}]'"


@contextlib.contextmanager
def missing_explained(extra: str | None = None) -> Iterator[None]:
    """Adds to the error about a package that is not installed what to install; also a decorator.

    Args:
        extra: See :func:`install_hint`.

    Raises:
        ModuleNotFoundError: The block raised it; a module of the user's own stays as it was.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        raise ModuleNotFoundError(install_hint(error, extra), name=error.name) from error
