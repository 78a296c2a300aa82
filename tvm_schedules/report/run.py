"""A run: what is known of one network from its training, its file and its benchmark, read from what those left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvm_schedules.artifact import store
from tvm_schedules.artifact.inspect import inspect
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import read_json, reading
from tvm_schedules.errors import TernError

TRAINING_FORMAT = "tern-training"
"""``format`` of the JSON that :class:`tern_lightning.CompressionReport` writes."""

TRAINING_FILE = "compression.json"
"""Its name in the folder of a run."""

ADVICE = "; give an artifact, an .onnx file, a checkpoint, JSON of tern-bench or CompressionReport, or a folder"


@dataclass
class Run:
    """What is known of one network.

    Attributes:
        name: How the page calls it.
        inspection: What is in its file, see :meth:`tvm_schedules.artifact.inspect.Inspection.to_dict`.
        benches: Measurements by ``tern-bench``, one for each machine.
        training: What ``CompressionReport`` wrote.
        notes: What a reader should know, for example which files were passed over.
    """

    name: str
    inspection: dict[str, Any] | None = None
    benches: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The fields, in JSON types."""
        return dict(vars(self))


class NothingToShowError(TernError):
    """A folder has nothing that a report shows."""


def read_runs(sources: Sequence[str | os.PathLike[str]], leave_out: Callable[[str], None] | None = None) -> list[Run]:
    """One run for every source, under names that differ.

    Args:
        sources: Each an artifact, an ``.onnx`` file, a checkpoint, JSON of ``tern-bench``, ``tern-inspect`` or
            ``CompressionReport``, or a folder in which one of each kind lies, at most two levels down.
        leave_out: Called with what is said of each folder in which nothing of that lies, as long as another source has
            something. None: such a folder is an error.

    Raises:
        TernError: A source does not exist, is damaged, or is nothing of that.
    """
    runs, paths, empty = [], [], []
    for source in sources:
        try:
            runs.append(read_run(source))
            paths.append(user_path(source).resolve())
        except NothingToShowError as error:
            empty.append(error)
    if empty and (leave_out is None or not runs):
        raise empty[0]
    for one in empty:
        assert leave_out is not None
        leave_out(str(one))
    for run, path in zip(runs, paths, strict=True):
        same = [other for other in paths if other.name == path.name]
        if len(same) > 1:
            run.name = os.path.join(path.parent.name, path.name)
    return runs


def read_run(source: str | os.PathLike[str]) -> Run:
    """What is known from one source; see :func:`read_runs`."""
    path = user_path(source, "source")
    if not path.exists():
        raise TernError(f"{path} does not exist{ADVICE}")
    run = Run(path.resolve().name)
    if _is_artifact(path) or path.is_file():
        _add(run, path)
        return run
    found = _candidates(path)
    if not found:
        raise NothingToShowError(f"{path} has no artifact, no {TRAINING_FILE} and no JSON of tern-bench{ADVICE}")
    for kind in {kind: None for kind, _ in found}:
        newest, *others = sorted((one for k, one in found if k == kind), key=lambda one: -one.stat().st_mtime)
        _add(run, newest)
        if others:
            names = ", ".join(str(one.relative_to(path)) for one in others)
            run.notes.append(f"of several of its kind the newest is shown, {newest.relative_to(path)}, not {names}")
    return run


def _is_artifact(path: Path) -> bool:
    return (path / store.METADATA).is_file()


def _candidates(folder: Path) -> list[tuple[str, Path]]:
    """What could be shown of a folder, with its kind."""
    found: list[tuple[str, Path]] = []
    for path in _entries([folder], 3):
        if _is_artifact(path):
            found.append(("inspection", path))
        elif path.suffix == ".json" and path.is_file() and not _is_artifact(path.parent):
            kind = _kind(read_json(path, TernError, "JSON file"))
            if kind is not None:
                found.append((kind, path))
    return found


def _entries(folders: Iterable[Path], depth: int) -> list[Path]:
    """What lies in folders, and in theirs, ``depth`` levels down; artifacts are not looked into."""
    entries = [entry for folder in folders for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    inner = [entry for entry in entries if entry.is_dir() and not entry.is_symlink() and not _is_artifact(entry)]
    return entries + (_entries(inner, depth - 1) if depth > 1 and inner else [])


def _kind(value: Any) -> str | None:
    """Which field of a run a JSON value is."""
    if not isinstance(value, dict):
        return None
    if value.get("format") == TRAINING_FORMAT:
        return "training"
    if {"kind", "layers", "files", "totals"} <= value.keys():
        return "inspection"
    if "boards" in value or {"machine", "results", "artifact"} <= value.keys():
        return "benches"
    return None


def _add(run: Run, path: Path) -> None:
    """Put what a file or an artifact says into the run."""
    if path.suffix != ".json":
        run.inspection = inspect(path).to_dict()
        return
    value = read_json(path, TernError, "JSON file")
    kind = _kind(value)
    if kind is None:
        raise TernError(f"{path} is not JSON of tern-bench, tern-inspect or CompressionReport{ADVICE}")
    with reading(f"the JSON file {path}", TernError):
        if kind == "training":
            if value["version"] != 1:
                raise TernError(f"{path} has version {value['version']!r}; this package reads version 1")
            run.training = value
        elif kind == "inspection":
            run.inspection = value
        else:
            results = value.get("boards", [value])
            run.benches += [one for one in results if isinstance(one, dict) and one.get("results")]
