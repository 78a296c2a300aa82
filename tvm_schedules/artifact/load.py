"""Running an artifact: numpy and TVM's small runtime, nothing else, so that it works on a board."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from tvm_schedules.artifact import store, weights
from tvm_schedules.backends import registry
from tvm_schedules.backends.base import Stored
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import ArtifactError, TernError, missing_explained
from tvm_schedules.ir.plan import Plan
from tvm_schedules.runtime.lengths import LengthAxes, Lengths
from tvm_schedules.runtime.model import Model
from tvm_schedules.runtime.samples import batch_size
from tvm_schedules.runtime.threads import checked
from tvm_schedules.targets import host_cpu

Array = npt.NDArray[Any]
TRIES = 5
"""How often an artifact may be replaced while it is being loaded."""


def plan_of(folder: Path, metadata: Mapping[str, Any]) -> Plan:
    """The plan of an artifact's network, without the list of constants, which lies with the weights.

    Raises:
        ArtifactError: The metadata do not hold a plan.
    """
    with reading(folder / store.METADATA, ArtifactError, "; export it again"):
        return Plan.from_json(metadata)


def constants_of(folder: Path, plan: Plan, content: bytes | None = None) -> Array:
    """The constant memory of an artifact's network, uint8 as the kernels read it.

    Args:
        folder: The artifact.
        plan: Of :func:`plan_of`.
        content: Bytes of the file of weights where they have been read.

    Raises:
        ArtifactError: The weights are damaged, or not those of the plan.
    """
    from tvm_schedules.packing.registry import expand

    with reading(folder / store.WEIGHTS, ArtifactError, "; export it again"):
        arrays, constants = weights.read(folder / store.WEIGHTS, content)
        return expand(constants, plan.constant_bytes, arrays)


@missing_explained("board")
@check_arguments
def load(path: str | Path, *, threads: int | None = None, check_hashes: bool = True) -> Model:
    """Load an artifact and make it ready to run; one for a graphics processor is put on this machine's.

    One of C source is compiled by this machine's C compiler.

    On a board set ``TVM_USE_RUNTIME_LIB=1`` before Python starts: TVM then loads its 3 MB runtime instead of its
    compiler.

    Args:
        path: The artifact's directory. The model stays as it is when another artifact takes this place.
        threads: Number of threads, from 1 to 128; None takes ``TVM_NUM_THREADS`` or all cores.
        check_hashes: Compare the SHA-256 of every file with the recorded one first.

    Raises:
        TypeError, ValueError: ``threads`` is no integer, or not one from 1 to 128.
        ArtifactError: Not an artifact, of another version, or damaged.
        CpuFeatureError: Built for instructions that this CPU does not have.
        DeviceError: Built for a graphics processor, and its driver or the device is missing.
        LinkError: C source, and there is no C compiler.
    """
    folder = user_path(path)
    threads = None if threads is None else checked(threads)
    for _ in range(TRIES):
        before = store.stamp(folder)
        try:
            with reading(folder, ArtifactError, "; export it again", "cannot be loaded"):
                model, others, lengths = _load(_version(folder), threads, check_hashes)
        except TernError:
            if store.stamp(folder) == before:
                raise
        else:
            if store.stamp(folder) == before:
                model.loaded_from(Path(os.path.abspath(folder)), _reload, others, lengths)
                return model
    raise ArtifactError(f"{folder} was replaced {TRIES} times while it was being loaded")


def _version(folder: Path) -> Path:
    """The directory of the version for the best CPU of those that this one is as good as: of several, or the only one.

    Raises:
        ArtifactError: Not an artifact, or a version in it is another artifact's.
    """
    metadata = store.read_metadata(folder, check_hashes=False)
    listed = metadata.get("versions", {})
    present = host_cpu.features() if listed and host_cpu.architecture() == metadata["target"]["architecture"] else None
    for place in _others(folder, metadata, "versions", store.CORE):
        own = store.read_metadata(place, check_hashes=False)
        if own["sha256"] != listed[place.name]:
            raise ArtifactError(f"{place} is damaged: it is not the one that was exported with {folder}")
        if present is not None and present.issuperset(own["target"]["features"]):
            return place
    return folder


def _reload(source: str, threads: int | None, digest: str) -> Model:
    """A pickled model.

    Raises:
        ArtifactError: Another artifact has taken the place of the one that was pickled; or as :func:`load`.
    """
    model = load(source, threads=threads)
    if model.metadata["sha256"] != digest:
        raise ArtifactError(f"{source} holds another artifact by now than the one of the model that was pickled")
    return model


def _load(
    folder: Path, threads: int | None, check_hashes: bool, whole: bool = True
) -> tuple[Model, dict[int, Model], Lengths | None]:
    """Load what is in a directory that nobody replaces meanwhile; arguments and errors as those of :func:`load`.

    ``whole`` is False for the network of a shorter length, which has none below it.
    """
    model = _load_one(folder, threads, check_hashes)
    others: dict[int, Model] = {}
    for place in _others(folder, model.metadata, "batches", store.BATCH):
        other = _load_one(place, threads, check_hashes)
        _check_digest(folder, place, model.metadata["batches"], other)
        others[other.outputs[0]["shape"][0]] = other
    said = model.metadata.get("length") if whole else None
    if said is None:
        return model, others, None
    axes = _axes(folder, model, said)
    shorter: dict[int, Model] = {}
    for place in _others(folder, model.metadata, "lengths", store.LENGTH):
        other, own, _ = _load(place, threads, check_hashes, False)
        _check_digest(folder, place, model.metadata["lengths"], other)
        other.loaded_from(None, None, own)
        shorter[int(place.name.rpartition("-")[2])] = other
    return model, others, Lengths(axes, shorter)


def _axes(folder: Path, model: Model, said: Mapping[str, Any]) -> LengthAxes:
    """Which axes count the steps of sequences, if the network has them."""
    for key, entries in (("inputs", model.inputs), ("outputs", model.outputs)):
        sizes = {entry["name"]: entry["shape"] for entry in entries}
        for name, axis in said[key].items():
            if sizes.get(name, [])[axis : axis + 1] != [said["own"]]:
                raise ArtifactError(
                    f"{folder / store.METADATA} says that axis {axis} of {name!r} counts {said['own']} steps"
                )
    if not said["inputs"]:
        raise ArtifactError(f"{folder / store.METADATA} names lengths, and no input that has one")
    return LengthAxes(said["own"], said["inputs"], said["outputs"], said["pad"])


def _others(folder: Path, metadata: Mapping[str, Any], key: str, names: re.Pattern[str]) -> list[Path]:
    """The directories that metadata name, but for those that were left out on a device."""
    listed = metadata.get(key, {})
    for name in listed:
        if not names.fullmatch(name):
            raise ArtifactError(f"{folder / store.METADATA} names {name!r}, which is no directory of an artifact")
    return [folder / name for name in listed if (folder / name).exists()]


def _check_digest(folder: Path, place: Path, digests: Mapping[str, str], other: Model) -> None:
    if other.metadata["sha256"] != digests[place.name]:
        raise ArtifactError(f"{place} is damaged: it is not the one that was exported with {folder}")


def _loaded(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that loading an artifact reads, whose hashes are compared as they are read."""
    return (*registry.for_artifact(metadata).loaded_files(metadata), store.WEIGHTS)


def _load_one(folder: Path, threads: int | None, check_hashes: bool) -> Model:
    """Load the network of one directory."""
    metadata = store.read_metadata(folder, check_hashes, _loaded)
    plan = plan_of(folder, metadata)
    batch_size(metadata["inputs"], metadata["outputs"])  # which is an error where the two do not agree

    def content(name: str) -> bytes:
        return store.content(folder, metadata, name, check_hashes)

    stored = Stored(folder, metadata, plan, content, lambda: constants_of(folder, plan, content(store.WEIGHTS)))
    return registry.for_artifact(metadata).load(stored, threads)
