"""Makes an artifact ready for the C++ runner: ``python examples/cpp/pack.py ARTIFACT OUTPUT``.

Writes ``model.so``, ``constants.bin`` (the weights as the kernels read them), ``plan.txt`` (shapes and sizes), the same
three in a folder for each version of the code (target ``arm``), and of the first stored sample ``input0.bin``, ... and
``expected0.bin``, ... (onnxruntime's outputs).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from tvm_schedules.artifact import load_samples, store
from tvm_schedules.artifact.load import constants_of, plan_of
from tvm_schedules.backends.cpu.files import LIBRARY
from tvm_schedules.errors import ArtifactError


def pack(artifact: Path, output: Path) -> None:
    """Write the files.

    Raises:
        ArtifactError: Not an artifact, a damaged one, or one without a library for TVM's runtime.
    """
    metadata = _pack_code(artifact, output)
    for name in metadata.get("versions", {}):
        if store.read_metadata(artifact / name)["sha256"] != metadata["versions"][name]:
            raise ArtifactError(f"{artifact / name} is not the one that was exported with {artifact}")
        _pack_code(artifact / name, output / name)
    inputs, expected = load_samples(artifact)
    for name, arrays in (("input", inputs[0]), ("expected", expected[0])):
        for index, array in enumerate(arrays):
            (output / f"{name}{index}.bin").write_bytes(array.tobytes())


def _pack_code(artifact: Path, output: Path) -> dict[str, Any]:
    """Write what runs one version of a network; returns its metadata."""
    metadata = store.read_metadata(artifact)
    if LIBRARY not in metadata["files"]:
        raise ArtifactError(f"{artifact} has no {LIBRARY}: it was exported for target {metadata['target']['name']!r}")
    plan = plan_of(artifact, metadata)
    output.mkdir(parents=True, exist_ok=True)
    shutil.copy2(artifact / LIBRARY, output / LIBRARY)
    (output / "constants.bin").write_bytes(constants_of(artifact, plan).tobytes())
    lines = [f"architecture {metadata['target']['architecture']}", f"steps {len(plan.steps)}"]
    lines += [f"arena {plan.arena_bytes}", f"constants {plan.constant_bytes}"]
    lines += [f"feature {name}" for name in metadata["target"]["features"]]
    lines += [f"version {name}" for name in metadata.get("versions", {})]
    for side, entries in (("input", plan.inputs), ("output", plan.outputs)):
        for entry in entries:
            lines.append(" ".join([side, entry.dtype, *(str(size) for size in entry.shape)]))
    (output / "plan.txt").write_text("\n".join(lines) + "\n")
    return metadata


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} ARTIFACT OUTPUT")
    try:
        pack(Path(sys.argv[1]), Path(sys.argv[2]))
    except ArtifactError as error:
        sys.exit(f"error: {error}")
