"""The example on Fashion-MNIST, in miniature and on noise in the same format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples import datasets, fashion_mnist, fashion_report
from tern_lightning.nn.activation_quantizer import input_quantizers
from tests.examples.test_datasets import write_mnist
from tvm_schedules.artifact.inspect import inspect

TINY = ["--epochs", "1", "--ternary-epochs", "2", "--width", "4", "--quick-bench", "--networks", "groups-80"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    write_mnist(place, train=700, test=40, ending=".gz")
    return place


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("fashion")
    return output, fashion_mnist.main([*TINY, "--data-dir", str(folder), "--output", str(output)])


def test_results(run: tuple[Path, dict[str, Any]]) -> None:
    output, results = run
    written = json.loads((output / "results.json").read_text())
    assert written["networks"].keys() == results["networks"].keys() == {"groups-80"}
    assert results["images"] == 40
    found = results["networks"]["groups-80"]
    assert 0.8 < found["zeros"] < 0.95  # the method's own among them
    assert found["agreement"] >= 0.95
    assert found["verified"]
    assert found["ms"] > 0
    assert found["bytes"] < found["engines"]["onnxruntime fp32"]["file_bytes"]
    layers = [layer for layer in inspect(output / "exported" / "groups-80").layers if layer.kind == "ternary"]
    assert len(layers) == 18  # 20 without the first and the last one
    for name in ("float.ckpt", "groups-80.ckpt", "fashion.png"):
        assert (output / name).stat().st_size > 0


def test_a_second_call_trains_nothing(
    run: tuple[Path, dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyError("as far as this")

    monkeypatch.setattr(fashion_mnist, "export_and_measure", stop)
    with pytest.raises(KeyError, match="as far as this"):
        fashion_mnist.main([*TINY, "--data-dir", str(folder), "--output", str(run[0])])
    assert capsys.readouterr().out.count("is there already") == 2


def test_the_points_of_the_plot(run: tuple[Path, dict[str, Any]]) -> None:
    results = run[1]
    (name, reached, size, ms), *others = fashion_report.points(results)
    row = results["networks"]["groups-80"]["engines"]["onnxruntime fp32"]
    assert (name, reached, size, ms) == ("float, onnxruntime", results["float"], row["file_bytes"], row["median_ms"])
    assert [point[0] for point in others] == ["groups-80"]


@pytest.mark.parametrize("name", ["entropy", "taught-90", "two-terms"])
def test_every_training(name: str, run: tuple[Path, dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)  # the float network is trained
    options = fashion_mnist.parser().parse_args([*TINY, "--ternary-epochs", "4", "--networks", name])
    nets = fashion_mnist.train_all(options, lambda: fashion_mnist.Fashion(folder), tmp_path)
    weights = [parameter for parameter in nets[name].parameters() if parameter.ndim == 4][1:]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    levels = 2 if name == "two-terms" else 1
    assert all(len(weight.detach().abs().unique()) <= 1 + 3 * levels for weight in weights)
    if name.rpartition("-")[2].isdigit():
        assert zeros == pytest.approx(int(name.rpartition("-")[2]) / 100, abs=0.01)
    assert len(input_quantizers(nets[name])) == 20


def test_parts_are_disjoint_and_test_images_are_not_trained_on(folder: Path) -> None:
    data = fashion_mnist.Fashion(folder)
    found = datasets.mnist_format(folder)
    whole = torch.cat([data.train.tensors[0], data.seen.tensors[0]]).numpy()
    np.testing.assert_array_equal(whole, found.train[0])
    assert len(data.seen) == 700 // 6
    np.testing.assert_array_equal(data.held_out[0], found.test[0].astype(np.float32) / np.float32(255))
    assert [len(part) for part in (fashion_mnist.Fashion(folder, 60).train, data.held_out[1])] == [50, 40]


def test_data_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "FASHION_PLACES", (str(tmp_path / "a"), str(tmp_path / "b")))
    with pytest.raises(SystemExit, match=r"apt install dataset-fashion-mnist.*--fetch does that without root"):
        fashion_mnist.main(["--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"--networks must be of twn, .*got nothing"):
        fashion_mnist.main(["--networks", "nothing"])


def fake_tool(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_fetching_by_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """With programs of our own in place of apt's: no test uses the network."""
    tools, place = tmp_path / "tools", tmp_path / "place"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    inside = "usr/share/datasets/fashion-mnist"
    fake_tool(tools / "apt-get", 'test "$*" = "download dataset-fashion-mnist" && touch dataset-fashion-mnist_1.deb')
    fake_tool(
        tools / "dpkg-deb",
        f'test "$*" = "-x dataset-fashion-mnist_1.deb ." && mkdir -p {inside} && cp {folder}/*.gz {inside}',
    )
    assert datasets.fetch_fashion_mnist(place) == place
    assert len(datasets.mnist_format(place).train[1]) == 700
    fake_tool(tools / "apt-get", "echo E: Unable to locate package >&2; exit 100")
    with pytest.raises(datasets.DatasetError, match="apt-get download dataset-fashion-mnist failed: E: Unable"):
        datasets.fetch_fashion_mnist(place)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(datasets.DatasetError, match="apt-get and dpkg-deb are not here"):
        datasets.fetch_fashion_mnist(place)
