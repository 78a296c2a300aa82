"""A job for the compiler's process, as its parent writes it down and hands it over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tvm_schedules.targets.registry import TargetSpec

__all__ = ["SAMPLES", "Job"]

SAMPLES = "runs.npz"
"""Samples of the user, in the directory of temporary files; see :func:`tvm_schedules.artifact.samples.write_runs`."""


@dataclass(frozen=True)
class Job:
    """What to make of the network whose ONNX file lies in a directory.

    Attributes:
        folder: The directory, an absolute path.
        work: A directory in it for temporary files, which the job removes.
        output: What the directory becomes: whoever cleans up behind the parent looks there for what is half done.
        parent: The parent's process.
        directory: The parent's current directory, for relative paths.
        environ: Its environment.
        spec: What for; None is this machine, which only the compiler's process can describe.
        samples: Whether there are samples of the user in ``work``.
        check: Whether to verify.
        tuning: How to tune, see :func:`tvm_schedules.tuner.apart.parts`; None for the cost model's choices.
    """

    folder: str
    work: str
    output: str
    parent: int
    directory: str
    environ: Mapping[str, str]
    spec: TargetSpec | None
    samples: bool
    check: bool
    tuning: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return {**asdict(self), "spec": None if self.spec is None else self.spec.to_fields()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """The inverse of :meth:`to_json`."""
        return cls(**{**data, "spec": None if data["spec"] is None else TargetSpec.from_fields(data["spec"])})
