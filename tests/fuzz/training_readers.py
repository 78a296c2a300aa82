"""What reads files from others on the side of training: checkpoints, samples, hyper-parameters."""

from __future__ import annotations

import io
import zipfile
from functools import partial
from pathlib import Path
from random import Random

from tests.fuzz import mutate
from tests.fuzz.registry import Reader, reader, written


@reader("checkpoint", 700)
def checkpoint(folder: Path) -> Reader:
    import torch

    from tern_lightning.checkpoint import CheckpointError, load_module, read_checkpoint
    from tern_lightning.exporter.checkpoint_inputs import attach_learned_inputs, checkpoint_ranges
    from tests.fuzz.training import Net, trained
    from tvm_schedules.artifact import inspect as inspection
    from tvm_schedules.errors import TernError

    original = trained()
    path = folder / "original.ckpt"
    torch.save(original, path)
    data = path.read_bytes()

    def entry(name: str, content: bytes, random: Random) -> bytes:
        return mutate.damaged(content, [content], random)

    def make(random: Random, _: Path) -> bytes:
        kind = random.random()
        if kind < 0.2:
            return mutate.damaged(data, [data], random)
        if kind < 0.5:
            return mutate.damaged_zip(data, entry, random)
        file = io.BytesIO()
        torch.save(mutate.damaged_value(original, random), file)
        return file.getvalue()

    def use(path: Path) -> None:
        errors: list[Exception] = []
        for action in (
            partial(load_module, path, Net),
            lambda: checkpoint_ranges(read_checkpoint(path)),
            lambda: attach_learned_inputs(Net(), read_checkpoint(path)),
        ):
            try:
                action()
            except CheckpointError as error:
                errors.append(error)
        try:
            inspection.inspect(path)
        except TernError as error:
            errors.append(error)
        if errors:
            raise errors[0]

    return Reader(make, written("a.ckpt", use), (CheckpointError, TernError))


@reader("samples", 1500)
def samples(folder: Path) -> Reader:
    import numpy as np

    from tern_lightning.exporter.errors import ExportError
    from tern_lightning.exporter.samples import collect_batches

    random = np.random.default_rng(0)
    file = io.BytesIO()
    np.savez_compressed(file, x=random.normal(size=(9, 2, 3)).astype(np.float32), y=random.integers(0, 9, (9, 1)))
    data = file.getvalue()
    with zipfile.ZipFile(file) as opened:
        single = opened.read("x.npy")

    def make(random: Random, _: Path) -> bytes:
        if random.random() < 0.3:
            return mutate.damaged_npy("x.npy", single, random)
        return mutate.damaged_zip(data, mutate.damaged_npy, random)

    return Reader(make, written("a.npz", lambda path: collect_batches(None, path, batch_size=2)), (ExportError,))


@reader("hyper-parameters", 4000)
def hyper_parameters(folder: Path) -> Reader:
    from tern_lightning.cli.arguments import UsageError, parse_hparams

    texts = [
        "width=32",
        "sizes=[1, (2, 3), {'a': {4}}]",
        "act=relu",
        "x=-1.5e3+2j",
        "y=b'z'",
        "z='\\x41\\N{DIGIT ONE}'",
    ]

    def make(random: Random, _: Path) -> str:
        kind = random.randrange(5)
        if kind == 0:
            opening = random.choice(["[", "(", "{", "-", "{1:", "1+", "not ", "x[", "lambda:"])
            return "width=" + opening * random.choice([3, 90, 300, 5000, 200_000]) + random.choice(["", "1"])
        if kind == 1:
            value = random.choice(
                ["1" * 5000, "{[]: 1}", "{{}}", "1e999", "\0", "\ud800", "'\\ud800'", "f''", "0x" + "f" * 9000]
            )
            return f"width={value}"
        text = random.choice(texts).encode()
        return mutate.damaged(text, [t.encode() for t in texts], random).decode(errors="surrogateescape")

    return Reader(make, lambda text, _: parse_hparams([text]), (UsageError,))


@reader("images", 1500)
def images(folder: Path) -> Reader:
    import gzip

    from examples.datasets import DatasetError, read_idx

    data = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]) + bytes(range(24))
    packed = gzip.compress(data)

    def make(random: Random, _: Path) -> bytes:
        if random.random() < 0.5:
            return mutate.damaged(packed, [packed, data], random)
        return gzip.compress(mutate.damaged(data, [data], random))

    return Reader(make, written("a.gz", lambda path: read_idx(path, 3)), (DatasetError,))
