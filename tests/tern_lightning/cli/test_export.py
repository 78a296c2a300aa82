"""tern-export: what it prints, what it refuses, and its exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import tvm_schedules
from tern_lightning import ActivationQuantization
from tern_lightning.cli.export import main
from tern_lightning.cli.report import print_result
from tern_lightning.exporter import to_onnx, write_onnx
from tern_lightning.exporter.pipeline import ExportResult
from tests.tern_lightning.exporter.export_nets import make_ternary, relative_error, run
from tvm_schedules.common.console import make_console

SOURCE = """
import lightning.pytorch as pl
import torch
from torch import nn


class Net(pl.LightningModule):
    def __init__(self, width: int = 8):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Deep(Net):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


not_a_class = 3
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a user's module, a checkpoint and samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("user_nets", None)
    (tmp_path / "user_nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    save_checkpoint(tmp_path / "best.ckpt")
    np.savez(tmp_path / "samples.npz", x=np.random.default_rng(0).standard_normal((16, 12)).astype(np.float32))
    return tmp_path


def save_checkpoint(path: Path, change: Any = None, callbacks: list[pl.Callback] | None = None) -> nn.Module:
    import user_nets

    torch.manual_seed(0)
    net = make_ternary(user_nets.Net(width=16))
    x = torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, enable_checkpointing=False, callbacks=callbacks or [], **quiet)
    trainer.fit(net, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 4))
    if change is not None:
        change(net)
    trainer.save_checkpoint(path)
    return net


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert "Traceback" not in captured.err
    return lines[-1]


MODEL = ["--model", "user_nets:Net"]

CHOICES = (
    SOURCE
    + """

import enum
import pathlib


class Kind(enum.Enum):
    WIDE = 16


class Size:
    def __init__(self, width):
        self.width = width


class Chosen(Net):
    def __init__(self, kind, size, act, folder=pathlib.Path("data")):
        super().__init__(size.width)
        self.save_hyperparameters()
        assert isinstance(folder, pathlib.Path) and kind is Kind.WIDE
        self.net[1] = act()
"""
)


def test_classes_among_the_hyper_parameters(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "choices.py").write_text(CHOICES)
    sys.modules.pop("choices", None)
    import choices

    net = make_ternary(choices.Chosen(choices.Kind.WIDE, choices.Size(16), nn.Tanh))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(net)
    trainer.save_checkpoint("chosen.ckpt")
    command = ["chosen.ckpt", "--model", "choices:Chosen", "--onnx-only", "--samples", "samples.npz", "-o", "out"]
    words = fails(capsys, *command)
    names = ["choices.Kind", "choices.Size", "pathlib.PosixPath", "torch.nn.modules.activation.Tanh"]
    flags = [f"--allow-class {name}" for name in names]
    assert " ".join(flags) in words
    # Without one of them it is refused, and with all of them as the message has them it works.
    assert "holds objects of choices.Size," in fails(capsys, *command, *" ".join(flags[:1] + flags[2:]).split())
    assert main([*command, *" ".join(flags).split()]) == 0
    model = onnx.load("out/model.onnx")
    assert "Tanh" in {node.op_type for node in model.graph.node}
    assert "there is no such class" in fails(capsys, *command, "--allow-class", "choices.Nothing")
    assert "there is no such class" in fails(capsys, *command, "--allow-class", "nowhere.Class")
    Path("broken.py").write_text("1 / 0")
    assert "its import fails: " in fails(capsys, *command, "--allow-class", "broken.Class")
    assert "pkg.mod.Name, got 'Path'" in fails(capsys, *command, "--allow-class", "Path")


def test_checkpoint_to_onnx(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best.ckpt", *MODEL, "--onnx-only", "--samples", "samples.npz", "-o", "out"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("activations") < printed.index("tracing Net")
    assert "net.0" in printed
    assert "tolerance" in printed
    assert "no-verify" not in printed  # what is not asked for is not said
    assert re.search(r"^all of these +256 +3\d\.\d% *$", printed, re.MULTILINE)
    model = onnx.load(place / "out" / "model.onnx")
    import user_nets

    net = user_nets.Net.load_from_checkpoint(place / "best.ckpt", weights_only=True)
    x = torch.from_numpy(np.load("samples.npz")["x"][:1])
    assert relative_error(run(model, x)[0], net(x)) < 0.05


def test_options_reach_the_export(place: Path) -> None:
    options = ["--activations", "float32", "--input-shape", "3,12", "--hparams", "width=16", "--no-verify"]
    assert main(["best.ckpt", *MODEL, "--onnx-only", "-o", "out", *options]) == 0
    model = onnx.load(place / "out" / "model.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [3, 12]
    assert not any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def test_ranges_come_from_the_checkpoint(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tern_lightning.nn.activation_quantizer import activation_ranges

    net = save_checkpoint(place / "trained.ckpt", callbacks=[ActivationQuantization(bits=5)])
    assert main(["trained.ckpt", *MODEL, "--onnx-only", "--input-shape", "1,12", "-o", "out"]) == 0
    printed = capsys.readouterr().out
    assert "2 activation ranges from the checkpoint" in printed
    assert "random numbers" not in printed
    stored = {t.name: t for t in onnx.load(place / "out" / "model.onnx").graph.initializer}
    assert onnx.numpy_helper.to_array(stored["x.scale"]) == np.float32(activation_ranges(net)["net.0"].scale)


def test_random_calibration_is_admitted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best.ckpt", *MODEL, "--onnx-only", "--input-shape", "1,12", "-o", "out"]) == 0
    assert "calibrated on random numbers" in capsys.readouterr().out


@pytest.mark.parametrize(("activations", "bits"), [("uint8", 8), ("float32", 32)])
def test_the_table_says_what_is_stored(activations: str, bits: int, tmp_path: Path, capsys: Any) -> None:
    net = make_ternary(nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 4)))
    torch.nn.init.normal_(net[2].weight)
    network = write_onnx(net, torch.randn(1, 12), activations=activations)  # type: ignore[arg-type]
    (tmp_path / "model.onnx").write_bytes(b"1234")
    print_result(make_console(), ExportResult(tmp_path, tmp_path / "model.onnx", network, None, True))
    printed = capsys.readouterr().out
    assert re.search(r"^0 +4x12 +\d+\.\d% +2 ", printed, re.MULTILINE)
    assert re.search(rf"^2 +{bits} *$", printed, re.MULTILINE)
    assert "all of these" not in printed  # there is one
    assert "tolerance inf" not in printed


def test_onnx_goes_straight_to_the_compiler(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict] = []

    def build(model: Path, **options: Any) -> Any:
        calls.append({"model": model, **options})
        report = types.SimpleNamespace(text=lambda: "ok first\nok second") if len(calls) == 1 else None
        return types.SimpleNamespace(report=report)

    monkeypatch.setattr("tvm_schedules.build", build, raising=False)
    net = make_ternary(nn.Sequential(nn.Linear(12, 4)))
    Path("model.onnx").write_bytes(to_onnx(net, torch.randn(1, 12)).SerializeToString())
    assert main(["model.onnx", "-o", "out", "--tvm-target", "arm", "--samples", "samples.npz"]) == 0
    (call,) = calls
    assert (call["model"], call["target"], call["verify"]) == (Path("model.onnx"), "arm", True)
    assert call["samples"][0].shape == (8, 12)
    printed = capsys.readouterr().out
    assert "1 two-bit weights" in printed
    assert "library against onnxruntime: ok first\nlibrary against onnxruntime: ok second" in printed
    assert main(["model.onnx", "-o", "out", "--tvm-target", "arm", "--batch-size", "1,8"]) == 0
    assert "against onnxruntime" not in capsys.readouterr().out
    assert calls[1]["batch_sizes"] == [1, 8]
    for wrong in ("0", "1,", "two"):
        with pytest.raises(SystemExit):
            main(["model.onnx", "-o", "out", "--batch-size", wrong])
        assert "--batch-size: must be" in capsys.readouterr().err


def open_file(path: str, kind: int = onnx.TensorProto.FLOAT) -> None:
    """A network with open sizes in its two inputs."""
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Concat", ["a", "b"], ["y"], axis=1)],
        "g",
        [info("a", kind, ("n", "k")), info("b", kind, ("n", 3))],
        [info("y", kind, ("n", "m"))],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    Path(path).write_bytes(model.SerializeToString())


def test_pad_says_what_is_behind_a_sequence(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """A file with an open length, whose mask is one where nothing is."""
    from onnx import TensorProto, helper, numpy_helper

    monkeypatch.chdir(tmp_path)
    names = ["x", "padding"]
    one = numpy_helper.from_array(np.float32(1), "one")
    axes = numpy_helper.from_array(np.int64([1]), "axes")
    nodes = [
        helper.make_node("Sub", ["one", "padding"], ["kept"]),
        helper.make_node("Mul", ["x", "kept"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axes"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["kept", "axes"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "length"]) for name in names]
    graph = helper.make_graph(nodes, "mean", ends, [helper.make_tensor_value_info("y", 1, ["n"])], [one, axes])
    opsets = [helper.make_opsetid("", 19)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), "mean.onnx")
    shapes = ["--input-shape", "1,8", "--input-shape", "1,8"]
    assert main(["mean.onnx", "-o", "out", *shapes, "--lengths", "4", "--pad", "padding=1"]) == 0
    model = tvm_schedules.load("out")
    x = np.arange(3, dtype=np.float32)[None]
    np.testing.assert_allclose(model(x, np.zeros((1, 3), np.float32)), [1.0])
    capsys.readouterr()
    for wrong in ("padding", "=1", "padding=much", "padding=nan"):
        with pytest.raises(SystemExit):
            main(["mean.onnx", "-o", "out", "--lengths", "4", "--pad", wrong])
        assert "--pad: must be an input's name" in capsys.readouterr().err
    assert main(["mean.onnx", "-o", "out", *shapes, "--pad", "padding=1"]) == 1
    assert "it needs --lengths" in capsys.readouterr().err
    assert main(["mean.onnx", "-o", "out", *shapes, "--lengths", "4", "--pad", "x=1", "--pad", "x=2"]) == 1
    assert "names an input twice" in capsys.readouterr().err


def test_open_sizes_of_a_file_are_given(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_file("open.onnx")
    assert main(["open.onnx", "-o", "open", "--tvm-target", "host"]) != 0
    assert "'a' has no fixed size in dimension 0 (n)" in capsys.readouterr().err
    shapes = ["--input-shape", "2,5", "--input-shape", "2,3"]
    assert main(["open.onnx", "-o", "open", "--tvm-target", "host", *shapes]) == 0
    loaded = tvm_schedules.load("open")
    assert [entry["shape"] for entry in (*loaded.inputs, *loaded.outputs)] == [[2, 5], [2, 3], [2, 8]]
    assert main(["open.onnx", "-o", "open", "--tvm-target", "host", "--input-shape", "2,5"]) == 1
    assert "--input-shape is given 1 times; the file's inputs are a, b" in capsys.readouterr().err


def test_samples_of_a_half_precision_file(place: Path) -> None:
    open_file("half.onnx", onnx.TensorProto.FLOAT16)
    a, b = (np.random.default_rng(0).normal(size=(4, n)) for n in (5, 3))
    np.savez("half.npz", a=a, b=b)
    assert main(["half.onnx", "-o", "half", "--tvm-target", "host", "--samples", "half.npz"]) == 0
    loaded = tvm_schedules.load("half")
    a, b = a[:1].astype(np.float16), b[:1].astype(np.float16)
    np.testing.assert_array_equal(loaded(a, b), np.concatenate([a, b], 1))


def spoil(what: str) -> Any:
    def change(net: nn.Module) -> None:
        weight = net.net[2].weight.data
        weight.zero_() if what == "zero" else weight.view(-1)[0].fill_(float("nan"))

    return change


class TestRefusals:
    @pytest.fixture(autouse=True)
    def _nothing_written(self, place: Path) -> Any:
        good = place / "out" / "model.onnx"
        good.parent.mkdir()
        good.write_bytes(b"an earlier export")
        yield
        assert good.read_bytes() == b"an earlier export"
        assert os.listdir(good.parent) == ["model.onnx"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere.ckpt", *MODEL], "'nowhere.ckpt' does not exist"),
            (["best.ckpt"], "--model pkg.mod:Class is needed"),
            (["best.ckpt", "--model", "user_nets"], "must be pkg.mod:Class"),
            (["best.ckpt", "--model", "user_nets:Nett"], "no network class 'Nett'; it has ['Deep', 'Net']"),
            (["best.ckpt", "--model", "user_nets:not_a_class"], "no network class"),
            (["best.ckpt", "--model", "no_such:Net"], "importing 'no_such' fails"),
            (["best.ckpt", *MODEL, "--onnx-only"], "give samples= (--samples FILE.npz) or input_shape= (--input-shape"),
            (["best.ckpt", *MODEL, "--onnx-only", "--input-shape", "1,13"], "forward fails on inputs of shape [1, 13]"),
            (["best.ckpt", *MODEL, "--input-shape", "1,a"], "--input-shape must be sizes"),
            (["best.ckpt", *MODEL, "--input-shape", "1,0"], "--input-shape must hold positive sizes"),
            (
                ["best.ckpt", *MODEL, "--input-shape", "1,12", "--onnx-only", "--batch-size", "1,8"],
                "one size, got [1, 8]",
            ),
            (["best.ckpt", *MODEL, "--hparams", "width"], "--hparams takes key=value"),
            (["best.ckpt", *MODEL, "--hparams", "depth=3", "--input-shape", "1,12"], "depth"),
            (["best.ckpt", *MODEL, "--hparams", "width=4", "--input-shape", "1,12"], "net.0.weight"),
            (["best.ckpt", *MODEL, "--tvm-target", "pi99", "--input-shape", "1,12"], "pi4"),
            (["best.ckpt", *MODEL, "--onnx-only", "--samples", "user_nets.py"], "not a readable .npz"),
            (["user_nets.py", *MODEL], "user_nets.py"),
            (["cut.ckpt", *MODEL, "--input-shape", "1,12"], "cut.ckpt"),
            (["cut.onnx"], "not a valid ONNX model"),
            (["best.ckpt", *MODEL, "--onnx-only", "--input-shape", "1,12", "--bits", "12"], "bits must be"),
            (["zero.ckpt", *MODEL, "--onnx-only", "--input-shape", "1,12"], "all weights of net.2 are zero"),
            (["nan.ckpt", *MODEL, "--onnx-only", "--input-shape", "1,12"], "NaN or infinity in net.2.weight"),
            (["good.onnx", *MODEL], "are for checkpoints"),
        ],
    )
    def test_refused(self, place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
        name = arguments[0]
        if name == "cut.ckpt":
            Path(name).write_bytes(Path("best.ckpt").read_bytes()[:1000])
        elif name in ("zero.ckpt", "nan.ckpt"):
            save_checkpoint(place / name, spoil(name.split(".")[0]))
        elif name.endswith(".onnx"):
            whole = to_onnx(make_ternary(nn.Sequential(nn.Linear(12, 4))), torch.randn(1, 12)).SerializeToString()
            Path(name).write_bytes(whole[:100] if name == "cut.onnx" else whole)
        assert message in fails(capsys, *arguments, "--output", "out")

    def test_output_is_a_file(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = fails(capsys, "best.ckpt", *MODEL, "--input-shape", "1,12", "--onnx-only", "-o", "samples.npz")
        assert "'samples.npz' is a file" in message

    def test_mismatch(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        from tern_lightning.exporter import weights

        right = weights.components
        monkeypatch.setattr(weights, "components", lambda w: [(-c, s) for c, s in right(w)])
        arguments = ["best.ckpt", *MODEL, "--input-shape", "1,12", "--onnx-only", "--activations", "float32"]
        assert "differs from the module: cosine" in fails(capsys, *arguments, "-o", "out")

    def test_debug_shows_the_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["nowhere.ckpt", "-o", "out", "--debug"]) == 1
        assert "Traceback" in capsys.readouterr().err


def test_zero_layers_can_be_allowed(place: Path) -> None:
    save_checkpoint(place / "zero.ckpt", spoil("zero"))
    arguments = ["zero.ckpt", *MODEL, "--onnx-only", "--input-shape", "1,12", "-o", "out", "--allow-zero-layers"]
    assert main(arguments) == 0


@pytest.mark.parametrize("option", ["--samples", "--calibrate"])
def test_missing_files_are_found_before_anything_is_loaded(
    place: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    arguments = ["best.ckpt", *MODEL, "--ternarize", "twn", option, "nowhere.npz", "-o", "out"]
    (place / "best.ckpt").write_bytes(b"no checkpoint")
    assert main(arguments) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "error: 'nowhere.npz' does not exist or is not a file\n"


def test_as_a_process(place: Path) -> None:
    command = [sys.executable, "-m", "tern_lightning.cli.export", "best.ckpt", "-o", "out", *MODEL]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.strip().splitlines()[-1].startswith("error: ")
    assert subprocess.run(command[:4], capture_output=True, check=False).returncode == 2


@pytest.fixture
def float_checkpoint(place: Path) -> nn.Module:
    """``float.ckpt`` of a network whose middle layer can become ternary."""
    import user_nets

    torch.manual_seed(0)
    net = user_nets.Deep()
    torch.save({"state_dict": net.state_dict()}, place / "float.ckpt")
    return net


def test_a_float_checkpoint_becomes_ternary_on_data(
    place: Path, float_checkpoint: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["float.ckpt", "--model", "user_nets:Deep", "--onnx-only", "--samples", "samples.npz", "-o", "out"]
    assert main([*command, "--ternarize", "twn", "--zeros", "0.75", "--activations", "float32"]) == 0
    printed = capsys.readouterr().out
    assert "net.2: error of the outputs" in printed
    (zeros,) = re.findall(r"net\.2 +32x32 +([\d.]+)%", printed)
    assert 75 <= float(zeros) < 85
    assert re.search(r"against the float checkpoint: cosine [01]\.\d{4}, top-1 agreement \d", printed)
    model = onnx.load(place / "out" / "model.onnx")
    assert [tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT2]
    assert len(float_checkpoint.net[2].weight.unique()) > 3  # type: ignore[union-attr,index,operator]


def test_ternarizing_needs_data_and_a_layer(
    place: Path, float_checkpoint: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["float.ckpt", "--onnx-only", "-o", "out", "--input-shape", "1,12"]
    assert "give --calibrate" in fails(capsys, *common, "--model", "user_nets:Deep", "--ternarize", "twn")
    assert "for --ternarize" in fails(capsys, *common, "--model", "user_nets:Deep", "--zeros", "0.5")
    (place / "a.onnx").write_bytes(b"")
    assert "for checkpoints" in fails(capsys, "a.onnx", "-o", "out", "--ternarize", "twn")
    sizes = ["--ternarize", "twn", "--samples", "samples.npz"]
    assert "zeros must be in" in fails(capsys, *common, "--model", "user_nets:Deep", *sizes, "--zeros", "2")
    save_checkpoint(place / "float.ckpt")
    assert "no layer of Net" in fails(capsys, *common, "--model", "user_nets:Net", *sizes)


def test_samples_of_an_artifact_are_told_apart(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(
        place / "of_artifact.npz", input0=np.zeros((2, 1, 12), np.float32), output0=np.zeros((2, 1, 4), np.float32)
    )
    command = ["best.ckpt", "--model", "user_nets:Net", "--onnx-only", "--samples", "of_artifact.npz", "-o", "out"]
    assert "is that of an artifact" in fails(capsys, *command)
