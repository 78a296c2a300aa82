"""What reads files and messages from others, with well-formed inputs and the errors that each promises."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import shutil
import socket
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz import mutate
from tests.fuzz.registry import Reader, reader, written


@cache
def _artifact(folder: Path) -> Path:
    """An artifact for this machine, built once for all readers of a run, which are processes side by side."""
    import tvm_schedules
    from tests.tvm_schedules.artifact_nets import conv_net

    path = folder.parent / "artifact"
    with open(folder.parent / "artifact.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            tvm_schedules.build(conv_net(), path)
    return path


def _models() -> list[Any]:
    from tests.tvm_schedules import artifact_nets

    return [artifact_nets.conv_net(), artifact_nets.conv_net(False, 8, 4), artifact_nets.exact_net(8, 4)]


@reader("metadata", 400)
def metadata(folder: Path) -> Reader:
    from tvm_schedules import load
    from tvm_schedules.artifact import inspect as inspection
    from tvm_schedules.artifact import load_samples, store
    from tvm_schedules.errors import ArtifactError, CpuFeatureError, TernError

    place = folder / "copy"
    shutil.copytree(_artifact(folder), place)
    original = json.loads((place / store.METADATA).read_text())

    def make(random: Random, _: Path) -> bytes:
        if random.random() < 0.2:
            return mutate.damaged_json(original, random)
        value = mutate.damaged_value(original, random)
        text = mutate.json_text(value)
        try:  # somebody who changes the content can make a hash that fits as well
            value = json.loads(text)
            return json.dumps({**value, "sha256": store._own_hash(value)}).encode()
        except (RecursionError, TypeError, ValueError):
            return text.encode()

    def read(data: bytes, _: Path) -> None:
        (place / store.METADATA).write_bytes(data)
        try:
            store.read_metadata(place)
        except ArtifactError:
            with_error = (ArtifactError,)
        else:
            with_error = (ArtifactError, CpuFeatureError)
        for use in (load, inspection.inspect, load_samples):
            try:
                use(place)
            except with_error:
                continue
            except TernError as error:
                raise RuntimeError(f"{use.__name__} raises {type(error).__name__}") from error

    return Reader(make, read, (ArtifactError,), sizes=True)


@reader("weights", 1500)
def weights(folder: Path) -> Reader:
    from tvm_schedules.artifact import store
    from tvm_schedules.artifact.load import constants_of, plan_of
    from tvm_schedules.errors import ArtifactError

    artifact = _artifact(folder)
    plan = plan_of(artifact, store.read_metadata(artifact))
    data = (artifact / store.WEIGHTS).read_bytes()

    def entry(name: str, content: bytes, random: Random) -> bytes:
        if name == "index.npy" and random.random() < 0.8:
            text = mutate.damaged_json(json.loads(content[128:]), random)
            made = io.BytesIO()
            import numpy as np

            np.save(made, np.frombuffer(text, np.uint8))
            return made.getvalue()
        return mutate.damaged_npy(name, content, random)

    def make(random: Random, _: Path) -> bytes:
        return mutate.damaged_zip(data, entry, random)

    return Reader(make, written(store.WEIGHTS, lambda path: constants_of(path.parent, plan)), (ArtifactError,))


@reader("codes", 4000)
def codes(folder: Path) -> Reader:
    import numpy as np

    from tvm_schedules.ir import ternary_codec as huffman

    originals = []
    for terms, count, zeros in ((1, 300, 0.4), (1, 5000, 0.95), (2, 300, 0.5), (7, 100, 0.9), (1, 0, 0.5)):
        values = np.random.default_rng(count).choice(
            [-1, 0, 1], (terms, count), p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2]
        )
        originals.append((huffman.encode(values.astype(np.int8)).tobytes(), terms, count))

    def make(random: Random, _: Path) -> tuple[bytes, int, int]:
        data, terms, count = random.choice(originals)
        if random.random() < 0.3:
            terms, count = random.choice([terms, 0, -1, 3, 10**6]), random.choice([count, 0, -1, 10**6, 10**13, 2**63])
        return (mutate.damaged(data, [other for other, _, _ in originals], random), terms, count)

    def read(case: tuple[bytes, int, int], _: Path) -> None:
        data, terms, count = case
        found = huffman.decode(np.frombuffer(data, np.uint8), terms, count)
        if found.shape != (terms, count) or not np.isin(found, (-1, 0, 1)).all():
            raise AssertionError(f"other codes than asked for: {found.shape}")

    return Reader(make, read, (ValueError,))


@reader("stored samples", 1000)
def stored_samples(folder: Path) -> Reader:
    from tvm_schedules.artifact import load_samples, store
    from tvm_schedules.errors import ArtifactError

    data = (_artifact(folder) / store.SAMPLES).read_bytes()

    def make(random: Random, _: Path) -> bytes:
        return mutate.damaged_zip(data, mutate.damaged_npy, random)

    return Reader(make, written(store.SAMPLES, lambda path: load_samples(path.parent)), (ArtifactError,))


def _damaged_model(models: list[Any], random: Random) -> bytes:
    model = random.choice(models)
    if random.random() < 0.3:
        return mutate.damaged(model.SerializeToString(), [m.SerializeToString() for m in models], random)
    return mutate.damaged_message(model, random)


@reader("onnx", 900)
def onnx(folder: Path) -> Reader:
    from tvm_schedules.artifact import inspect as inspection
    from tvm_schedules.errors import ModelError, TernError
    from tvm_schedules.frontend import onnx_model as onnxtools
    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.frontend.onnx_reader import read
    from tvm_schedules.passes import prepare

    models = _models()

    def use(path: Path) -> None:
        found: list[TernError] = []
        for action in (
            inspection.inspect,
            lambda path: prepare(read(read_model(path))),
            lambda path: onnxtools.float_model(read_model(path)),
        ):
            try:
                action(path)
            except ModelError as error:
                found.append(error)
        if found:
            raise found[0]

    return Reader(lambda random, _: _damaged_model(models, random), written("a.onnx", use), (ModelError,))


@reader("lowering", 250)
def lowering(folder: Path) -> Reader:
    from tvm_schedules.backends.cpu.lower import CpuLowering
    from tvm_schedules.errors import ModelError
    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.frontend.onnx_reader import read
    from tvm_schedules.passes import prepare
    from tvm_schedules.targets import registry as targets

    models, host = _models(), targets.resolve("host")

    def use(data: bytes, _: Path) -> None:
        CpuLowering(prepare(read(read_model(data))), host).run()

    return Reader(lambda random, _: _damaged_model(models, random), use, (ModelError,))


@reader("tuner database", 800)
def tuner_database(folder: Path) -> Reader:
    from tvm_schedules.errors import TunerError
    from tvm_schedules.tuner.database import Database
    from tvm_schedules.tuner.search import _tuned

    entry = {
        "layer": "conv1",
        "op": "Conv",
        "target": "host",
        "device": "cpu",
        "threads": 1,
        "chosen": {"kernel": "sparse", "block": 4},
        "model": {"kernel": "panel", "block": 2, "chunks": 16},
        "us": {"sparse block=4": 1.5, "panel block=2 chunks=16": 2.0},
    }
    original = {"format": 1, "entries": {"a" * 32: entry, "b" * 32: entry}}

    def use(path: Path) -> None:
        database = Database(path)
        for key in ("a" * 32, "b" * 32):
            found = database.get(key)
            if found is not None:
                _tuned("conv1", found, True, database).to_json()
        database.put("c" * 32, entry)
        if Database(path).get("c" * 32) != entry:
            raise AssertionError("what was put is not there")

    return Reader(lambda random, _: mutate.damaged_json(original, random), written("tuning.json", use), (TunerError,))


@reader("profile table", 600)
def profile_table(folder: Path) -> Reader:
    from tests.tvm_schedules.estimate.test_fit import made_table
    from tvm_schedules.errors import EstimateError
    from tvm_schedules.estimate import table as tables

    place = folder / "made.json"
    tables.write(place, made_table())
    original = json.loads(place.read_text())
    original["rows"] = original["rows"][:20]

    def use(path: Path) -> None:
        table = tables.read(path)
        numbers = [1.0] * len(table.rows[0].numbers)
        if not table.fit.value(table.rows[0].group, numbers) >= 0:
            raise AssertionError("a negative time")
        table.library_bytes({"sparse uint8": 3}, 7)

    return Reader(lambda random, _: mutate.damaged_json(original, random), written("table.json", use), (EstimateError,))


@reader("suite", 1500)
def suite(folder: Path) -> Reader:
    from tvm_schedules.bench.suite import baseline, show
    from tvm_schedules.bench.suite.run import Results
    from tvm_schedules.errors import BenchError

    numbers = {"ratio": 1.5, "of_min": 1.4, "noise": 0.02}
    engine = {
        "name": "tern 70%", "ours": True, "floats": False, "zeros": 70, "median_ms": 1.0, "min_ms": 0.9,
        "rounds_ms": [1.0, 1.1], "others": 0.01, "runs": 100, "file_bytes": 1000, "relative_error": 1e-6,
    }  # fmt: skip
    step = {"name": "conv1", "kernel": "sparse", "us": 12.0, "macs": 1000, "nonzero_macs": 400, "bytes_weights": 99}
    ratios = {
        "tern 70%": {"zeros": 70, "floats": False, "best": "onnxruntime int8", "peers": {"onnxruntime int8": numbers}}
    }
    entry = {
        "stamp": "x", "when": "2026-01-01T00:00:00Z", "threads": 1, "cpus": [0], "rounds": 9, "seconds": 0.25,
        "load": [0.1, 0.2], "engines": [engine, {**engine, "name": "onnxruntime int8", "ours": False}],
        "ratios": ratios, "steps": {"tern 70%": [step]}, "skipped": [{"name": "OpenVINO", "reason": "absent"}],
    }  # fmt: skip
    rates = dict.fromkeys(("read_l1", "read_l2", "read_l3", "read_dram", "add_f32", "dot_i8", "fma_f32"), 10.0)
    original = {
        "format": 1,
        "machine": {"cpu": "x", "cores": 2},
        "entries": {"resnet20/1": entry, "ceilings/1": {"stamp": "x", "threads": 1, "rates": rates}},
    }
    made = baseline.make(original)

    def use(path: Path) -> None:
        try:
            data = baseline.read(path)
        except BenchError:
            data = None
        if data is not None:
            show.comparison(baseline.compare(data, made), baseline.same_machine(data, made))
        results = Results(path, "x")
        results.finished("resnet20/1")
        show.tables(results.data)
        baseline.make(results.data)

    def make(random: Random, _: Path) -> bytes:
        return mutate.damaged_json(random.choice([original, made]), random)

    return Reader(make, written("results.json", use), (BenchError,))


@reader("target", 700)
def target(folder: Path) -> Reader:
    from tvm_schedules.errors import TargetError
    from tvm_schedules.targets import registry as targets

    original = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a73", "mattr": ["+neon", "-crypto"]}

    def make(random: Random, _: Path) -> str:
        if random.random() < 0.1:
            return random.choice(mutate.TEXTS)
        return mutate.damaged_json(original, random).decode(errors="surrogateescape")

    return Reader(make, lambda text, _: targets.resolve(text), (TargetError,))


@reader("board messages", 4000)
def board_messages(folder: Path) -> Reader:
    """Both ends of what a board says before TVM's own protocol begins, and the answers of its functions."""
    import struct

    from tvm_schedules.errors import BoardError
    from tvm_schedules.remote import protocol
    from tvm_schedules.remote.client import Board

    words = b"client:board -timeout=10"
    greeting = struct.pack("<ii", protocol.MAGIC, len(words)) + words
    waiting = struct.pack("<i", 9) + b'["board"]'
    limits = ["nan", "-1", "1e300", "inf", "-inf", "1e-300", "\u00b2", "", "x", "0", "1_0", "10"]

    def make(random: Random, _: Path) -> tuple[str, bytes]:
        kind = random.choice(["greeting", "limit", "tracker", "answer"])
        if kind == "answer":
            return kind, mutate.damaged_json({"cpu": "x", "cores": 4, "cpus": [0, 1], "threads": 4}, random)
        if kind == "limit":
            return kind, random.choice(limits).encode()
        if random.random() < 0.5 and kind == "tracker":
            text = mutate.damaged_json(["board"], random)
            return kind, struct.pack("<i", len(text)) + text
        source = {"greeting": greeting, "tracker": waiting}[kind]
        return kind, mutate.damaged(source, [source], random)

    def read(case: tuple[str, bytes], _: Path) -> None:
        kind, data = case
        if kind == "answer":
            board = Board.__new__(Board)
            board.name, board._rpc = "board", _Answers(data.decode(errors="surrogateescape"))
            board.ask("tern.board.describe")
        elif kind == "limit":
            limit = protocol.session_limit({"timeout": data.decode()}, 60.0)
            if not 0 < limit <= 60.0:
                raise AssertionError(f"a limit of {limit}")
        elif kind == "greeting":
            client = protocol.Greeting()
            while data and client.words is None:
                size = client.missing
                client.feed(data[:size])
                data = data[size:]
            client.options()
        else:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                sender = threading.Thread(target=_say, args=(theirs, data), daemon=True)  # more than a socket holds
                sender.start()
                tracker = protocol.Tracker.__new__(protocol.Tracker)
                tracker.match, tracker._socket = "board", ours
                try:
                    tracker.offered()
                finally:
                    ours.close()
                    sender.join()

    return Reader(make, read, (OSError, ValueError, BoardError))


def _say(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


class _Answers:
    """A board that always says the same."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_function(self, name: str) -> Callable[..., str]:
        return lambda *_: self.text
