"""Makes the files of a case: our libraries, and every peer's form of the same network. What is there is kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_schedules.artifact import store
from tvm_schedules.artifact.build import build
from tvm_schedules.bench import networks, peers
from tvm_schedules.bench.suite.cases import DENSE_ZEROS, FLOAT_ZEROS, NBITS, ZEROS, Case
from tvm_schedules.engines import peer_engines
from tvm_schedules.engines.process import PEERS, Engine
from tvm_schedules.errors import TernError
from tvm_schedules.frontend.onnx_file import read_model

Say = Callable[[str], None]
LABELS = {"openvino": "OpenVINO int8", "executorch": "ExecuTorch XNNPACK int8", "deepsparse": "DeepSparse int8"}
BENCH_ONLY = ("bench", "engines", "cli", "board")


@dataclass(frozen=True)
class Contender:
    """An engine of a case.

    Attributes:
        engine: The engine to start.
        artifact: The artifact whose samples it is checked with.
        zeros: Share of zeros of its weights in percent; None where its time does not depend on it.
        ours: Whether it is this package's library.
        floats: Whether activations are 32-bit floats in ours.
    """

    engine: Engine
    artifact: Path
    zeros: int | None = None
    ours: bool = False
    floats: bool = False


def source_hash() -> str:
    """Changes with every file that our libraries and models depend on."""
    root = Path(__file__).parents[2]
    files = sorted(p for p in root.rglob("*.py") if p.relative_to(root).parts[0] not in BENCH_ONLY)
    return _hash([*files, Path(networks.__file__)])


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _kept(path: Path, stamp: str, make: Callable[[Path], Any]) -> Path:
    """``path``, made anew unless it was made under the same ``stamp``; a half-made file never counts."""
    note = path.with_name(f"{path.name}.stamp")
    if path.exists() and note.is_file() and note.read_text() == stamp:
        return path
    note.unlink(missing_ok=True)
    make(path)
    note.write_text(stamp)
    return path


def ask_peer(python: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Let a worker of another environment prepare something.

    Raises:
        TernError: It failed; the message says how.
    """
    command = Engine("", config["prepare"], "", 0, python=python).command
    try:
        done = subprocess.run([*command, json.dumps({**config, "parent": os.getpid()})], capture_output=True, text=True)
    except OSError as error:
        raise TernError(f"{python} cannot be started: {error.strerror}") from error
    line = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "{}")
    answer = dict(json.loads(line))
    if "versions" not in answer:
        raise TernError(answer.get("failed") or f"{python}: {' '.join(done.stderr.split()[-30:])}")
    return answer


def contenders(
    case: Case, folder: Path, pythons: Mapping[str, str], say: Say, tune: Any = None
) -> tuple[list[Contender], list[dict[str, str]]]:
    """Prepares a case.

    Args:
        case: The case whose engines are prepared.
        folder: Where the files are kept.
        pythons: Interpreters of the peers' environments by engine.
        say: Called with a line at every stage.
        tune: Passed on to :func:`tvm_schedules.build` for our libraries.

    Returns:
        Engines, ours first, and ``name`` and ``reason`` of those that cannot be measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours = {f"tern {zeros}%": (zeros, "uint8") for zeros in ZEROS}
    if case.floats:
        ours[f"tern {FLOAT_ZEROS}% float32"] = (FLOAT_ZEROS, "float32")
    found = []
    for name, (zeros, activations) in ours.items():
        path = _library(case, folder, zeros, activations, say, tune)
        engine = peers.ours(path, store.read_metadata(path))
        made = Engine(name, engine.kind, engine.path, engine.bytes)
        found.append(Contender(made, path, zeros, ours=True, floats=activations == "float32"))
    if case.group == "layer":
        return found, []
    artifacts = {c.zeros: c.artifact for c in found if not c.floats}
    skipped: list[dict[str, str]] = []

    def add(name: str, make: Callable[[], Contender]) -> None:
        say(f"{case.name}: {name}")
        try:
            found.append(make())
        except Exception as error:  # a peer's tool that refuses a network is a line without numbers, not the end
            lines = str(error).strip().splitlines() or [type(error).__name__]
            skipped.append({"name": name, "reason": lines[0][:300]})

    add("onnxruntime int8", lambda: _onnxruntime(folder, artifacts))
    if case.group == "linear":
        add(NBITS, lambda: _nbits(folder, artifacts))
    for kind in PEERS:
        if kind not in pythons:
            skipped.append({"name": LABELS[kind], "reason": f"no environment given: --peer-python {kind}=PYTHON"})
            continue
        add(LABELS[kind], lambda kind=kind: _peer(kind, pythons[kind], folder, artifacts))  # type: ignore[misc]
    if "deepsparse" in pythons:
        for zeros in ZEROS:
            name = f"DeepSparse fp32 {zeros}%"
            add(name, lambda zeros=zeros: _sparse(pythons["deepsparse"], folder, artifacts, zeros))  # type: ignore[misc]
    return found, skipped


def _library(case: Case, folder: Path, zeros: int, activations: str, say: Say, tune: Any) -> Path:
    """Our library, made anew when the package has changed."""
    suffix = ("-float32" if activations == "float32" else "") + ("-tuned" if tune else "")

    def make(path: Path) -> None:
        say(f"{case.name}: build for {zeros}% zeros, {activations} activations")
        extra = {"tune": tune} if tune else {}
        model = networks.build(case.network, zeros / 100, activations, shared=case.shared)
        build(model, path, "host", samples=networks.samples(case.network), **extra)

    return _kept(folder / f"tern-{zeros}{suffix}", source_hash(), make)


def _float(folder: Path, artifacts: Mapping[int | None, Path], zeros: int) -> Path:
    """The float network that peers start from."""
    source = artifacts[zeros] / store.MODEL

    def make(path: Path) -> None:
        path.write_bytes(networks.plain_float(read_model(source)).SerializeToString())

    return _kept(folder / f"float-{zeros}.onnx", _hash([source]), make)


def _engine(name: str, kind: str, path: Path, python: str = "") -> Engine:
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*") if file.suffix != ".stamp")
    return Engine(name, kind, str(path), size, python=python)


def _quantized(folder: Path, artifacts: Mapping[int | None, Path]) -> Path:
    """The int8 form of onnxruntime."""
    source, artifact = _float(folder, artifacts, DENSE_ZEROS), artifacts[DENSE_ZEROS]

    def make(path: Path) -> None:
        peers.quantize(source, path, artifact)

    return _kept(folder / "onnxruntime-int8.onnx", _hash([source]), make)


def _onnxruntime(folder: Path, artifacts: Mapping[int | None, Path]) -> Contender:
    path = _quantized(folder, artifacts)
    return Contender(_engine("onnxruntime int8", "onnxruntime", path), artifacts[DENSE_ZEROS])


def _nbits(folder: Path, artifacts: Mapping[int | None, Path]) -> Contender:
    source = artifacts[DENSE_ZEROS] / store.MODEL

    def make(path: Path) -> None:
        path.write_bytes(networks.matmul_nbits(read_model(source)).SerializeToString())

    path = _kept(folder / "nbits.onnx", _hash([source, Path(networks.__file__)]), make)
    return Contender(_engine(NBITS, "onnxruntime", path), artifacts[DENSE_ZEROS])


def _made(kind: str, python: str, source: Path, output: Path, artifact: Path) -> Path:
    """A peer's own file of an ONNX file."""
    engines = Path(peer_engines.__file__)
    versions = ask_peer(python, {"prepare": kind})["versions"]
    stamp = _hash([source, engines]) + json.dumps(versions, sort_keys=True)
    config = {"prepare": kind, "source": str(source), "samples": str(artifact / store.SAMPLES)}
    return _kept(output, stamp, lambda path: ask_peer(python, {**config, "output": str(path)}))


def _peer(kind: str, python: str, folder: Path, artifacts: Mapping[int | None, Path]) -> Contender:
    """An int8 engine of another environment."""
    artifact = artifacts[DENSE_ZEROS]
    suffix = {"openvino": ".xml", "executorch": ".pte", "deepsparse": ".onnx"}[kind]
    # DeepSparse has no quantizer; it reads onnxruntime's files.
    source = _quantized(folder, artifacts) if kind == "deepsparse" else _float(folder, artifacts, DENSE_ZEROS)
    path = _made(kind, python, source, folder / f"{kind}-int8{suffix}", artifact)
    return Contender(_engine(LABELS[kind], kind, path, python), artifact)


def _sparse(python: str, folder: Path, artifacts: Mapping[int | None, Path], zeros: int) -> Contender:
    """DeepSparse in float32, which skips zeros."""
    source = _float(folder, artifacts, zeros)
    path = _made("deepsparse", python, source, folder / f"deepsparse-{zeros}.onnx", artifacts[zeros])
    return Contender(_engine(f"DeepSparse fp32 {zeros}%", "deepsparse", path, python), artifacts[zeros], zeros)
