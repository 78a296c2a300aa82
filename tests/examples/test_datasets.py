"""Data sets from small files of the standard formats, written here byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import datasets
from examples.datasets import DatasetError, cifar10, cifar100, fashion_mnist, mnist_format


def write_idx(path: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """The array as a file of the format IDX."""
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, train: int = 12, test: int = 7, ending: str = "") -> None:
    """Images of noise in the four files of MNIST; labels go round."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte{ending}", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", np.arange(count, dtype=np.uint8) % 10)


def cifar_rows(count: int, seed: int, labels: int = 1, classes: int = 10) -> np.ndarray[Any, np.dtype[np.uint8]]:
    rows = np.random.default_rng(seed).integers(0, 256, (count, labels + 3072), dtype=np.uint8)
    rows[:, 0] = np.arange(count) % 10
    rows[:, labels - 1] = np.arange(count) % classes
    return rows


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        cifar_rows(4, number).tofile(folder / f"data_batch_{number}.bin")
    cifar_rows(3, 9).tofile(folder / "test_batch.bin")
    return tmp_path


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_format_of_mnist(tmp_path: Path, ending: str) -> None:
    write_mnist(tmp_path, ending=ending)
    found = mnist_format(tmp_path)
    assert (found.train[0].shape, found.test[0].shape, found.classes) == ((12, 1, 28, 28), (7, 1, 28, 28), 10)
    assert found.train[0].dtype == np.uint8
    # Byte 16 + 784 * 3 + 28 * 2 + 5 of the file is row 2, column 5 of image 3.
    path = tmp_path / f"train-images-idx3-ubyte{ending}"
    raw = gzip.decompress(path.read_bytes()) if ending else path.read_bytes()
    assert found.train[0][3, 0, 2, 5] == raw[16 + 784 * 3 + 28 * 2 + 5]
    assert found.test[1].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_files_that_are_not_of_the_format_of_mnist(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"neither train-images-idx3-ubyte nor .*\.gz"):
        mnist_format(tmp_path)
    write_mnist(tmp_path)
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    for data, message in (
        (whole[:-1], "must hold 9408 bytes for the shape .12, 28, 28., got 9407"),
        (whole + b"x", "got 9409 or more"),
        (labels.read_bytes(), "3 dimensions, it starts"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "between 1 and 268435456 bytes"),
        (whole[:9], "3 dimensions"),
    ):
        images.write_bytes(data)
        with pytest.raises(DatasetError, match=message):
            mnist_format(tmp_path)
    images.write_bytes(whole)
    write_idx(labels, np.arange(11, dtype=np.uint8) % 10)
    with pytest.raises(DatasetError, match="11 labels for 12 images"):
        mnist_format(tmp_path)
    write_idx(labels, np.arange(12, dtype=np.uint8))
    with pytest.raises(DatasetError, match="label 11; it must have 0 to 9"):
        mnist_format(tmp_path)
    images.unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(DatasetError, match="is damaged"):
        mnist_format(tmp_path)


def test_fashion_mnist_is_found_in_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    monkeypatch.setattr(datasets, "FASHION_PLACES", (str(first), str(second)))
    with pytest.raises(DatasetError, match=r"/a, .*/b; on Debian .*dataset-fashion-mnist.*go into .*/b"):
        fashion_mnist()
    write_mnist(second, ending=".gz")
    assert fashion_mnist() == second
    assert fashion_mnist(second) == second
    with pytest.raises(DatasetError, match="is not in"):
        fashion_mnist(first)


def test_cifar10_is_read_from_its_binary_files(cifar: Path) -> None:
    for root in (cifar, cifar / "cifar-10-batches-bin"):
        data = cifar10(root)
        assert data.train[0].shape == (20, 3, 32, 32)
        # Row 5 is the second of the second file: a label, 1024 red bytes, 1024 green ones, 1024 blue ones, row by row.
        expected = cifar_rows(4, 2)[1]
        assert data.train[1][5] == expected[0]
        assert data.train[0][5, 1, 2, 7] == expected[1 + 1024 + 2 * 32 + 7]
        np.testing.assert_array_equal(data.test[0][2].flatten(), cifar_rows(3, 9)[2, 1:])


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    cifar_rows(150, 0, 2, 100).tofile(folder / "train.bin")
    cifar_rows(20, 1, 2, 100).tofile(folder / "test.bin")
    data = cifar100(tmp_path)
    assert data.classes == 100
    assert data.train[1].tolist() == [*range(100), *range(50)]  # not the coarse ones, which are below 10 here
    np.testing.assert_array_equal(data.test[0][3].flatten(), cifar_rows(20, 1, 2, 100)[3, 2:])
    (folder / "test.bin").write_bytes(bytes(3073))
    with pytest.raises(DatasetError, match="rows of 3074 bytes, got 3073"):
        cifar100(tmp_path)


def test_cifar10_refuses_what_is_not_its_format(cifar: Path) -> None:
    folder = cifar / "cifar-10-batches-bin"
    (folder / "test_batch.bin").write_bytes(b"\x0b" + bytes(3072))
    with pytest.raises(DatasetError, match="label 11"):
        cifar10(cifar)
    (folder / "test_batch.bin").write_bytes(bytes(100))
    with pytest.raises(DatasetError, match="rows of 3073 bytes, got 100"):
        cifar10(cifar)
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DatasetError, match=r"test_batch.bin is missing.*binary version"):
        cifar10(cifar)
