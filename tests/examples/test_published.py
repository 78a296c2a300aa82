"""Published trainings on small data of the standard formats, written here."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from examples import published
from examples.datasets import DatasetError
from examples.image_data import Cifar, ImageNet, middle_box, random_box
from examples.published import Classifier, main, rate_factor, recipe_of
from tern_lightning import preset
from tests.examples.test_datasets import cifar_rows

QUIET = ["--accelerator", "cpu", "--devices", "1", "--batch-size", "8"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    net = published.models.CifarResNet
    monkeypatch.setitem(published.NETWORKS, "resnet20", lambda classes: net(1, classes, width=4))
    monkeypatch.setitem(published.NETWORKS, "resnet18", lambda classes: net(1, classes, width=4, stride=2))


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    for number in range(1, 6):
        cifar_rows(8, number).tofile(tmp_path / f"data_batch_{number}.bin")
    cifar_rows(16, 9).tofile(tmp_path / "test_batch.bin")
    return tmp_path


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name in ("n01", "n02"):
            folder = tmp_path / "imagenet" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.JPEG")
    return tmp_path / "imagenet"


def test_a_preset_from_a_float_network(cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "out"), "--data-dir", str(cifar), *QUIET]
    main(["float", *output, "--epochs", "1"])
    start = tmp_path / "out" / "float-resnet20" / "last.ckpt"
    with pytest.raises(SystemExit, match="bcgd-cifar10 starts from a trained float network: give --start"):
        main(["bcgd-cifar10", *output, "--epochs", "2"])
    result = main(["bcgd-cifar10", *output, "--epochs", "2", "--start", str(start), "--precision", "bf16-mixed"])
    assert 0 <= result["accuracy"] <= 1
    folder = tmp_path / "out" / "bcgd-cifar10-resnet20"
    assert json.loads((folder / "result.json").read_text()) == result
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    weight = saved["state_dict"]["net.layer2.0.conv1.weight"]
    assert len(weight.unique()) <= 3
    assert any(key.startswith("CoarseActivation") for key in saved["callbacks"])
    capsys.readouterr()
    again = main(["bcgd-cifar10", *output, "--epochs", "2", "--start", str(start), "--precision", "bf16-mixed"])
    assert again == result
    with pytest.raises(SystemExit, match="has a run with other settings"):
        main(["bcgd-cifar10", *output, "--epochs", "3", "--start", str(start)])


def test_imagenet_in_its_folders(imagenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = published.NETWORKS["resnet18"](2)
    torch.save(net.state_dict(), tmp_path / "weights.pth")  # as torchvision has them, without a prefix
    options = ["--network", "resnet18", "--start", str(tmp_path / "weights.pth"), "--output", str(tmp_path / "out")]
    result = main(["sws-imagenet", "--data-dir", str(imagenet), *options, *QUIET, "--epochs", "1"])
    assert result["accuracy"] in {0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1}
    printed = capsys.readouterr().out
    assert "published: ResNet-18 on ImageNet: 66.01 % (float 69.75 %)" in printed
    assert "resnet18, 1 epochs: " in printed


def test_two_processes(cifar: Path, tmp_path: Path) -> None:
    options = ["--output", str(tmp_path / "out"), "--data-dir", str(cifar), "--accelerator", "cpu", "--epochs", "1"]
    result = main(["sws-cifar10", *options, "--batch-size", "4", "--devices", "2", "--strategy", "ddp_fork"])
    assert result["published"][0].startswith("ResNet-20 on CIFAR-10: 91.65 %")
    assert (tmp_path / "out" / "sws-cifar10-resnet20" / "last.ckpt").is_file()


def arguments(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"optimizer": None, "learning_rate": None, "batch_size": None, "epochs": None, "start": "x", **given}
    )


def test_what_a_paper_does_not_say_has_to_be_given() -> None:
    with pytest.raises(SystemExit, match=r"ttq-cifar10: epochs not published, .* give --epochs"):
        recipe_of("ttq-cifar10", arguments())
    found = recipe_of("ttq-cifar10", arguments(epochs=3))
    assert (found.epochs, found.learning_rate, found.weight_decay) == (3, 0.1, 2e-4)


def test_learning_rates() -> None:
    recipe = vars(preset("sws-cifar10").recipe)  # 0.1, 0.1 and 0.5 at epochs 80, 120 and 160 of 200
    factors = [rate_factor(recipe, epoch, 200) for epoch in (0, 79, 80, 119, 120, 160, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.005, 0.005])
    assert [rate_factor(recipe, epoch, 20) for epoch in (7, 8, 12, 16)] == pytest.approx([1, 0.1, 0.01, 0.005])
    assert [rate_factor({"schedule": "cosine"}, epoch, 4) for epoch in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
    assert rate_factor({"schedule": "constant"}, 3, 4) == 1


def test_the_optimizer_is_the_published_one() -> None:
    net = Classifier("resnet20", 10, vars(preset("sws-cifar10").recipe))
    net.trainer = argparse.Namespace(max_epochs=200)  # type: ignore[assignment]
    [optimizer], _ = net.configure_optimizers()
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.SGD
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.1, 0.9, True, 3e-4)


def test_cifar_batches_are_normalized(cifar: Path) -> None:
    data = Cifar(cifar, 40)
    [batch] = data.train_dataloader()
    images, _ = data.on_after_batch_transfer(batch, 0)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-3, rtol=0)


def test_image_folders(imagenet: Path) -> None:
    data = ImageNet(imagenet, 4)
    assert (data.classes, len(data.train), len(data.seen)) == (2, 16, 8)  # type: ignore[arg-type]
    image, label = data.seen[5]
    assert (image.shape, int(label)) == ((3, 224, 224), 1)
    path = data.seen.files[5][0]  # type: ignore[attr-defined]
    with Image.open(path) as opened:
        middle = np.asarray(opened.resize((224, 224), Image.Resampling.BILINEAR, (12.5, 2.5, 47.5, 37.5)))
    mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(image.permute(1, 2, 0), (middle / 255 - mean) / spread, atol=1e-5)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match="JPEG"):
        data.seen[5]
    with pytest.raises(DatasetError, match="train is missing"):
        ImageNet(imagenet / "val", 4)


def test_boxes() -> None:
    assert middle_box(60, 40) == (12.5, 2.5, 47.5, 37.5)
    torch.manual_seed(0)
    areas = []
    for _ in range(300):
        left, top, right, bottom = random_box(60, 40)
        assert 0 <= left < right <= 60
        assert 0 <= top < bottom <= 40
        areas.append((right - left) * (bottom - top) / 2400)
        assert 0.74 <= (right - left) / (bottom - top) <= 1.51
    assert min(areas) < 0.15
    assert max(areas) > 0.6
