"""What is killed: the work of a run, and what must hold whenever it ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np


class Task(Protocol):
    """Work in a folder.

    Attributes:
        name: Its name.
        results: Patterns of the files that are its results.
    """

    name: str
    results: tuple[str, ...]

    def load(self) -> None:
        """Import what the work needs, so that a kill hits the work."""

    def prepare(self, folder: Path) -> None:
        """Make what all runs start from."""

    def work(self, folder: Path, index: int) -> None:
        """One run, which may be killed."""

    def problems(self, folder: Path) -> list[str]:
        """What is wrong after a run that ended somehow."""

    def litter(self, folder: Path) -> list[str]:
        """Files that a complete run leaves none of."""


class Export:
    """``tern-export`` of two networks in turns to one place."""

    name = "export"
    results: tuple[str, ...] = ("out/metadata.json",)

    def load(self) -> None:
        """See :class:`Task`."""
        import onnxruntime  # noqa: F401
        import tvm  # noqa: F401

        import tern_lightning.cli.export
        import tern_lightning.exporter.pipeline  # noqa: F401

    def prepare(self, folder: Path) -> None:
        """See :class:`Task`."""
        samples = np.random.default_rng(0).normal(size=(4, 16, 8, 8)).astype(np.float32)
        np.savez(folder / "samples.npz", x=samples)
        for index in (0, 1):
            write_network(folder / f"{index}.onnx", index)
        self.work(folder, 0)

    def work(self, folder: Path, index: int) -> None:
        """See :class:`Task`."""
        from tern_lightning.cli.export import main

        source, samples = str(folder / f"{index % 2}.onnx"), str(folder / "samples.npz")
        status = main([source, "--output", str(folder / "out"), "--samples", samples])
        if status:
            raise SystemExit(status)

    def problems(self, folder: Path) -> list[str]:
        """See :class:`Task`: one of the two networks is there, whole, and computes what onnxruntime computes of it."""
        import tvm_schedules
        from tvm_schedules.frontend.onnx_file import read_model
        from tvm_schedules.verify.reference import reference_outputs

        out = folder / "out"
        content = (out / "model.onnx").read_bytes()
        sources = [_weights(path.read_bytes()) for path in (folder / "0.onnx", folder / "1.onnx")]
        found = [index for index, source in enumerate(sources) if source == _weights(content)]
        if not found:
            return ["model.onnx is neither network"]
        model = tvm_schedules.load(out)
        with np.load(folder / "samples.npz") as file:
            images = [{"x": image} for image in file["x"][:, None]]
        for image, (expected, *_) in zip(images, reference_outputs(read_model(content), images), strict=True):
            if not np.allclose(model(image["x"]), expected, rtol=0.05, atol=0.05 * np.abs(expected).max()):
                return [f"the library is not network {found[0]}"]
        return []

    def litter(self, folder: Path) -> list[str]:
        """See :class:`Task`."""
        kept = {"out", "0.onnx", "1.onnx", "samples.npz", "tmp", "log"}
        return sorted(path.name for path in folder.iterdir() if path.name not in kept)


def _weights(content: bytes) -> str:
    """What two files of one network have in common: their weights."""
    import onnx

    model = onnx.load_from_string(content)
    parts = sorted(tensor.SerializeToString() for tensor in model.graph.initializer)
    return hashlib.sha256(b"".join(parts)).hexdigest()


EPOCHS = 40


class Training:
    """A training that writes a checkpoint after every epoch."""

    name = "training"
    results: tuple[str, ...] = ("runs/*.ckpt",)

    def load(self) -> None:
        """See :class:`Task`."""
        import lightning.pytorch  # noqa: F401

        from tern_lightning import TernaryCallback  # noqa: F401

    def prepare(self, folder: Path) -> None:
        """See :class:`Task`."""
        self.work(folder, 0)

    def work(self, folder: Path, index: int) -> None:
        """See :class:`Task`: goes on from the last checkpoint as long as there are epochs, then from the start."""
        import lightning.pytorch as pl
        import torch
        from lightning.pytorch.callbacks import ModelCheckpoint
        from torch.utils.data import DataLoader, TensorDataset

        from benchmarks.kills.net import Net
        from tern_lightning import TernaryCallback
        from tern_lightning.checkpoint import read_checkpoint

        torch.set_num_threads(1)
        torch.manual_seed(index)
        x = torch.randn(512, 16)
        data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 32)
        saver = ModelCheckpoint(folder / "runs", "{epoch}", save_last=True, save_top_k=-1, enable_version_counter=False)
        trainer = pl.Trainer(
            max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[TernaryCallback(start=1, freeze=25, verbose=False), saver],
        )  # fmt: skip
        last = folder / "runs" / "last.ckpt"
        goes_on = index % 3 and last.is_file() and not self._refused(last)
        if goes_on and read_checkpoint(last)["epoch"] >= EPOCHS - 1:
            goes_on = False
        trainer.fit(Net(), data, ckpt_path=last if goes_on else None)

    @staticmethod
    def _refused(path: Path) -> str | None:
        """Why a checkpoint is refused, None for one that is read."""
        from benchmarks.kills.net import Net
        from tern_lightning.checkpoint import CheckpointError, load_module

        try:
            load_module(path, Net)
        except CheckpointError as error:
            return str(error)
        return None

    def problems(self, folder: Path) -> list[str]:
        """See :class:`Task`: every checkpoint is read or refused plainly, and a ternary one is ternary."""
        from tern_lightning import TernaryTensor
        from tern_lightning.checkpoint import read_checkpoint

        found = []
        for path in sorted((folder / "runs").glob("*.ckpt")):
            refused = self._refused(path)
            if refused is not None and not ("truncated" in refused or "not a PyTorch checkpoint" in refused):
                found.append(f"{path.name}: {refused}")
            elif refused is None:
                content = read_checkpoint(path)
                weight = content["state_dict"]["body.weight"]
                if content["epoch"] >= 2 and TernaryTensor.from_values(weight) is None:
                    found.append(f"{path.name} of epoch {content['epoch']} is not ternary")
        return found

    def litter(self, folder: Path) -> list[str]:
        """See :class:`Task`."""
        return sorted(path.name for path in (folder / "runs").iterdir() if path.suffix != ".ckpt")


class Tuning:
    """A build that measures the kernels of a network that no run has seen before."""

    name = "tuning"
    results: tuple[str, ...] = ("tuning.json", "out/metadata.json")

    def load(self) -> None:
        """See :class:`Task`."""
        import onnxruntime  # noqa: F401
        import tvm  # noqa: F401

        import tvm_schedules.artifact.build
        import tvm_schedules.tuner  # noqa: F401

    def prepare(self, folder: Path) -> None:
        """See :class:`Task`."""
        self.work(folder, 0)

    def work(self, folder: Path, index: int) -> None:
        """See :class:`Task`."""
        import tvm_schedules
        from tvm_schedules.tuner import Tuning as How

        write_network(folder / "net.onnx", index, 0.3 + Random(index).random() * 0.6, layers=1)
        tvm_schedules.build(folder / "net.onnx", folder / "out", tune=How(folder / "tuning.json", turns=1))

    def problems(self, folder: Path) -> list[str]:
        """See :class:`Task`: the database is read, and has all entries that it had before."""
        from tvm_schedules.tuner import Database
        from tvm_schedules.tuner.search import _tuned

        database, note = Database(folder / "tuning.json"), folder / "entries.json"
        entries: dict[str, Any] = json.loads((folder / "tuning.json").read_text())["entries"]
        for entry in entries.values():
            _tuned(entry["layer"], entry, True, database)
        before: Sequence[str] = json.loads(note.read_text()) if note.exists() else []
        lost = [key for key in before if key not in entries]
        note.write_text(json.dumps(list(entries)))
        return [f"{len(lost)} entries are lost"] if lost else []

    def litter(self, folder: Path) -> list[str]:
        """See :class:`Task`."""
        kept = {"out", "net.onnx", "tuning.json", "entries.json", "tmp", "log"}
        names = (path.name for path in folder.iterdir() if path.name not in kept)
        return sorted(name for name in names if not name.endswith(".lock"))


class Bench:
    """``tern-bench`` of an artifact, with results in a file."""

    name = "bench"
    results: tuple[str, ...] = ("bench.json",)

    def load(self) -> None:
        """See :class:`Task`."""
        import rich  # noqa: F401

        import tvm_schedules.bench.boards
        import tvm_schedules.bench.report
        import tvm_schedules.cli.bench  # noqa: F401

    def prepare(self, folder: Path) -> None:
        """See :class:`Task`."""
        import tvm_schedules

        write_network(folder / "net.onnx", 0)
        tvm_schedules.build(folder / "net.onnx", folder / "out")
        self.work(folder, 0)

    def work(self, folder: Path, index: int) -> None:
        """See :class:`Task`."""
        from tvm_schedules.cli.bench import main

        arguments = [str(folder / "out"), "--against=none", "--rounds=4", "--seconds=0.05"]
        status = main([*arguments, "--json", str(folder / "bench.json"), "--csv", str(folder / "bench.csv")])
        if status:
            raise SystemExit(status)

    def problems(self, folder: Path) -> list[str]:
        """See :class:`Task`: the file is whole, and the artifact as it was."""
        from tvm_schedules.artifact import store

        store.read_metadata(folder / "out")
        found = json.loads((folder / "bench.json").read_text())
        return [] if found["results"][0]["threads"] == 1 else ["bench.json has other results"]

    def litter(self, folder: Path) -> list[str]:
        """See :class:`Task`."""
        kept = {"out", "net.onnx", "bench.json", "bench.csv", "tmp", "log"}
        return sorted(path.name for path in folder.iterdir() if path.name not in kept)


def write_network(path: Path, seed: int, zeros: float = 0.7, layers: int = 2) -> None:
    """Write a small network, another one for every seed: ternary convolutions, a linear layer, 8-bit activations."""
    from onnx import TensorProto, helper, numpy_helper

    from tvm_schedules.ir.ternary_tensor import pack_int2

    random = np.random.default_rng(seed)
    nodes: list[Any] = []
    weights: list[Any] = []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def quantized(x: str, scale: float, zero: int) -> str:
        names = [constant(f"{x}.scale", np.float32(scale)), constant(f"{x}.zero", np.uint8(zero))]
        nodes.append(helper.make_node("QuantizeLinear", [x, *names], [f"{x}.q"], name=f"{x}.quantize"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{x}.q", *names], [f"{x}.d"], name=f"{x}.dequantize"))
        return f"{x}.d"

    def ternary(name: str, shape: list[int]) -> str:
        codes = random.choice([-1, 0, 1], shape, p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2]).astype(np.int8)
        packed = pack_int2(codes).tobytes()
        weights.append(helper.make_tensor(f"{name}.weight", TensorProto.INT2, shape, packed, raw=True))
        size = 1 / np.sqrt(np.prod(shape[1:]) * (1 - zeros))
        levels = constant(f"{name}.levels", (size * random.uniform(0.7, 1.3, shape[0])).astype(np.float32))
        inputs, output = [f"{name}.weight", levels], f"{name}.dense"
        nodes.append(helper.make_node("DequantizeLinear", inputs, [output], name=f"{name}.weights", axis=0))
        return output

    x = quantized("x", 6 / 255, 128)
    for name in ("conv1", "conv2")[:layers]:
        nodes.append(helper.make_node("Conv", [x, ternary(name, [16, 16, 3, 3])], [name], name=name, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], name=f"{name}.relu"))
        x = quantized(f"{name}.relu", 4 / 255, 0)
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pool"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], name="flat"))
    flat = quantized("flat", 4 / 255, 0)
    nodes.append(helper.make_node("Gemm", [flat, ternary("head", [10, 16])], ["y"], name="head", transB=1))
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", [1, 16, 8, 8]), ("y", [1, 10]))
    ]
    graph = helper.make_graph(nodes, "net", *ends, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    path.write_bytes(made.SerializeToString())


TASKS: dict[str, Task] = {task.name: task for task in (Export(), Training(), Tuning(), Bench())}
