"""Fill an artifact's folder: the network, and beside it, in folders of their own, its other lengths and batches.

Networks for shorter sequences, other numbers of samples and better CPUs are compiled as the network itself is, each by
the compiler's process.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_schedules.artifact import lengths, store
from tvm_schedules.artifact.job import SAMPLES, Job
from tvm_schedules.artifact.networks import Networks, Runs
from tvm_schedules.artifact.process import compiler
from tvm_schedules.artifact.samples import write_runs
from tvm_schedules.backends import registry
from tvm_schedules.backends.base import Say
from tvm_schedules.errors import ModelError
from tvm_schedules.targets.registry import TargetSpec
from tvm_schedules.verify import batch_axis

if TYPE_CHECKING:
    from tvm_schedules.tuner import Tuning

__all__ = ["BuildOptions", "fill_folder"]


@dataclass(frozen=True)
class BuildOptions:
    """How an artifact is made, whatever the number of samples.

    Attributes:
        output: The artifact's directory.
        spec: What for; None is this machine.
        verify: Whether to compare with onnxruntime.
        tuning: How to tune, None for the cost model's choices.
        say: For lines of progress.
    """

    output: Path
    spec: TargetSpec | None
    verify: bool
    tuning: Tuning | None
    say: Say


def fill_folder(folder: Path, networks: Networks, how: BuildOptions) -> Any:
    """Compile networks into a folder, for all lengths, numbers of samples and versions of the target.

    Returns:
        What :func:`tvm_schedules.artifact.fill.run` says of the network itself, with the metadata of the whole folder.

    Raises:
        ModelError: A network cannot be compiled, or not for other numbers of samples; or padding changes its results.
        VerificationError: A library's outputs differ.
    """
    done = _all_lengths(folder, networks, how)
    if how.spec is not None and how.spec.versions and how.tuning is None:
        done["metadata"] = _versions(folder, networks, done["metadata"], how.spec, how)
    return done


def _all_lengths(folder: Path, networks: Networks, how: BuildOptions) -> Any:
    """The network for all numbers of samples and lengths; returns what :func:`_apart` does."""
    done = _all_sizes(folder, networks, how)
    if networks.shorter:
        done["metadata"] = _lengths(folder, networks, done["metadata"], how)
    return done


def _all_sizes(folder: Path, networks: Networks, how: BuildOptions) -> Any:
    """The network for all numbers of samples; returns what :func:`_apart` does."""
    done = _apart(folder, networks.model, networks.runs, how)
    if networks.sizes:
        made = _batches(folder, networks, done["metadata"], how)
        done["metadata"] = store.write_metadata(folder, {**done["metadata"], "batches": made})
    return done


def _versions(
    folder: Path, networks: Networks, metadata: dict[str, Any], spec: TargetSpec, how: BuildOptions
) -> dict[str, Any]:
    """Compile for better CPUs too, each in a folder of its own; returns the metadata of all.

    They are not verified again: what stands in for the target's own code stands in for theirs.
    """
    made = {}
    for version in spec.versions:
        how.say(f"version for {version.name}")
        place = folder / f"core-{version.name}"
        place.mkdir()
        done = _all_lengths(place, networks, replace(how, spec=version, verify=False))
        made[place.name] = _beside(place, done)
    return store.write_metadata(folder, {**metadata, "versions": made})


def _lengths(folder: Path, networks: Networks, metadata: dict[str, Any], how: BuildOptions) -> dict[str, Any]:
    """Compile the networks for shorter sequences, each in a folder of its own; returns the metadata of all."""
    made = {}
    for length, (other, axes) in sorted(networks.shorter.items()):
        how.say(f"length {length}")
        own = lengths.cut_runs(networks.runs, axes, length)
        lengths.check_padding(networks.model, other, own, axes, length)
        place = folder / f"length-{length}"
        place.mkdir()
        done = _all_sizes(place, replace(networks, model=other, runs=own), how)
        made[place.name] = _beside(place, done)
    said = lengths.axes_to_json(next(axes for _, axes in networks.shorter.values()))
    return store.write_metadata(folder, {**metadata, "lengths": made, "length": said})


def _batches(folder: Path, networks: Networks, metadata: Mapping[str, Any], how: BuildOptions) -> dict[str, str]:
    """Compile the network for other numbers of samples, each in a folder of its own.

    Returns:
        Names of the folders, and the hashes of their metadata.

    Raises:
        ModelError: The network's first axes do not count samples, or it cannot be compiled for so many.
    """
    names = [entry["name"] for entry in metadata["inputs"] if entry.get("batch")]
    if not names:
        raise ModelError(
            "the network cannot be compiled for several batch sizes: the first axes of its inputs and outputs are not "
            "known to count samples that do not depend on each other"
        )
    own = next(entry["shape"][0] for entry in metadata["inputs"] if entry.get("batch"))
    made = {}
    for size in networks.sizes:
        if size == own:
            continue
        how.say(f"batch size {size}")
        place = folder / f"batch-{size}"
        place.mkdir()
        runs = None if networks.runs is None else batch_axis.regrouped(networks.runs, names, size)
        try:
            done = _apart(place, networks.of_size(names, size), runs, how)
        except ModelError as error:
            raise ModelError(
                f"the network cannot be compiled for batch size {size} (its own is {own}, and shapes inside of it may "
                f"be fixed for that): {error}"
            ) from None
        made[place.name] = _beside(place, done)
    return made


def _beside(place: Path, done: Mapping[str, Any]) -> str:
    """Leave away what the folder around this one has, and write the metadata; returns their hash."""
    for name in store.not_run():
        (place / name).unlink(missing_ok=True)
    return store.write_metadata(place, done["metadata"])["sha256"]


def _apart(folder: Path, model: Any, runs: Runs | None, how: BuildOptions) -> Any:
    """Let :func:`tvm_schedules.artifact.fill.run` do the work in the compiler's process; returns what it says."""
    work = folder / store.WORK
    work.mkdir()
    (folder / store.MODEL).write_bytes(model.SerializeToString())
    if runs is not None:
        write_runs(work / SAMPLES, runs)
    answers: dict[str, Callable[[Any], Any]] = {}
    parts = None
    if how.tuning is not None:
        from tvm_schedules.tuner import apart

        parts, tuning = apart.parts(how.tuning), how.tuning
        answers["measure"] = lambda value: apart.measure(tuning, value)
    job = Job(
        folder=os.path.realpath(folder),
        work=os.path.realpath(work),
        output=os.path.realpath(how.output),
        parent=os.getpid(),
        directory=os.getcwd(),
        environ=dict(os.environ),
        spec=how.spec,
        samples=runs is not None,
        check=how.verify,
        tuning=parts,
    )
    with compiler(job.to_json(), keep=registry.for_target(how.spec).process_kept) as child:
        done = child.result(how.say, answers)
    shutil.rmtree(work, ignore_errors=True)
    return done
