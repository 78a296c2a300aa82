"""The artifact directory on disk: what is in it, and how it is checked; :mod:`.output_folder` puts it in its place."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tvm_schedules.artifact import metadata_schema as form
from tvm_schedules.backends import registry
from tvm_schedules.common import schema
from tvm_schedules.common.reading import read_json, reading
from tvm_schedules.errors import ArtifactError

FORMAT = "tern-artifact"
VERSION = 4
WEIGHTS = "weights.npz"
METADATA = "metadata.json"
MODEL = "model.onnx"
SAMPLES = "samples.npz"
WORK = ".work"
"""Directory of temporary files while an artifact is made: beside the result, where there is room for it or nowhere."""
BATCH = re.compile(r"batch-[1-9][0-9]*")
"""Names of directories with the network for another number of samples: code, weights and metadata of their own."""
LENGTH = re.compile(r"length-[1-9][0-9]*")
"""The same for shorter sequences; they may hold directories for other numbers of samples."""
CORE = re.compile(r"core-[a-z0-9][a-z0-9-]*")
"""The same for CPUs that have more than the artifact's target asks for; they may hold both other kinds."""


def parts(folder: Path) -> list[Path]:
    """An artifact's directory, and those in it that are networks of their own."""
    found = [folder]
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            nested = LENGTH.fullmatch(path.name) or CORE.fullmatch(path.name)
            found += parts(path) if nested else [path] if BATCH.fullmatch(path.name) else []
    return found


def is_part(name: str) -> bool:
    """Whether a name is that of a directory with a network of its own, for :func:`parts`."""
    return any(kind.fullmatch(name) for kind in (BATCH, LENGTH, CORE))


def has_file(name: str) -> bool:
    """Whether an artifact may have a file of that name, whatever its target."""
    return name in (WEIGHTS, MODEL, SAMPLES, METADATA) or registry.has_file(name)


def not_run() -> tuple[str, ...]:
    """Those that a device needs not have to run a network: they serve to check, to measure and to look at it."""
    return (MODEL, SAMPLES, *registry.not_run())


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _own_hash(metadata: dict[str, Any]) -> str:
    """SHA-256 of the metadata without its own hash."""
    content = {key: value for key, value in metadata.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numpy's scalars and arrays for JSON.

    Raises:
        TypeError: Anything else.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"metadata must be plain JSON values, got {type(value).__name__}")


def write_metadata(folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """Add format, sizes and hashes of the files in ``folder`` to ``metadata`` and write it; returns it."""
    written = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if has_file(path.name) and path.name != METADATA
    }
    complete = {"format": FORMAT, "version": VERSION, **metadata, "files": written}
    complete = json.loads(json.dumps(complete, default=_plain))
    complete["sha256"] = _own_hash(complete)
    lines = (f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in complete.items())
    (folder / METADATA).write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return complete


RENAMED = {"quantisation": "quantization"}  # codespell:ignore quantisation
"""Keys of artifacts that earlier versions wrote."""


def read_metadata(
    folder: Path, check_hashes: bool = True, apart: Callable[[Mapping[str, Any]], Collection[str]] | None = None
) -> dict[str, Any]:
    """Read and check an artifact's metadata.

    Args:
        folder: The artifact's directory.
        check_hashes: Also compare the hash of every file.
        apart: Gives the files of such metadata whose hashes are not compared here, because :func:`content` does it.

    Files of :func:`not_run` may be missing.

    Raises:
        ArtifactError: Not an artifact, one of a newer version, a missing file, or content that does not match its hash.
    """
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a directory; an artifact is a directory that holds {METADATA}")
    try:
        metadata = read_json(folder / METADATA, ArtifactError, "description", "; export it again")
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not an artifact: it has no {METADATA}") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ArtifactError(f"{folder} is not an artifact: {METADATA} does not say format {FORMAT!r}")
    if metadata.get("version") != VERSION:
        raise ArtifactError(
            f"{folder} has artifact version {metadata.get('version')}, this package reads version {VERSION}; "
            "export it again"
        )
    if metadata.get("sha256") != _own_hash(metadata):
        raise ArtifactError(f"{folder / METADATA} was changed after it was written: its hash does not match")
    with reading(folder / METADATA, ArtifactError, "; export it again"):
        for old, new in RENAMED.items():
            if old in metadata:
                metadata[new] = metadata.pop(old)
        schema.check(metadata, form.METADATA)
    for name in metadata["files"]:
        if not has_file(name):
            raise ArtifactError(f"{folder / METADATA} names {name!r}, which is no file of an artifact")
    later = () if apart is None else apart(metadata)
    for name, entry in metadata["files"].items():
        path = folder / name
        optional = name in (MODEL, SAMPLES) or (registry.has_file(name) and not registry.needs_file(name))
        if optional and not path.exists():
            continue
        if not path.is_file():
            raise ArtifactError(f"{path} is missing")
        hashed = check_hashes and name not in later
        _compare(path, entry, path.stat().st_size, sha256(path) if hashed else None)
    return metadata


def content(folder: Path, metadata: dict[str, Any], name: str, check_hash: bool = True) -> bytes:
    """A file's bytes, which are those that the metadata is about: what is checked is what is returned.

    Raises:
        ArtifactError: The artifact has no such file, or it has other content.
        OSError: It cannot be read.
    """
    path, entry = folder / name, metadata["files"].get(name)
    if entry is None:
        raise ArtifactError(f"{folder / METADATA} names no {name}")
    data = path.read_bytes()
    _compare(path, entry, len(data), hashlib.sha256(data).hexdigest() if check_hash else None)
    return data


def _compare(path: Path, entry: dict[str, Any], size: int, digest: str | None) -> None:
    """Raise ArtifactError where a file is not the one that was written."""
    if size != entry["bytes"]:
        raise ArtifactError(f"{path} is damaged: {size} bytes, written were {entry['bytes']}")
    if digest not in (None, entry["sha256"]):
        raise ArtifactError(f"{path} is damaged: its SHA-256 does not match the one in {METADATA}")


def stamp(folder: Path) -> tuple[int, ...] | None:
    """What changes when another artifact takes the place of the one in ``folder``; None where there is none."""
    try:
        found = (folder / METADATA).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
