"""Image data sets as whole arrays from their standard local files: MNIST's format, CIFAR-10 and CIFAR-100.

Files are taken for untrusted: sizes are checked before memory is taken, and CIFAR is read from its binary version,
since the one for Python consists of pickles, which could run code. Nothing is downloaded, except by
:func:`fetch_fashion_mnist`.
"""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import reading
from tvm_schedules.errors import TernError

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

LARGEST = 1 << 28
"""Bytes of images in one file beyond which it is refused; ImageNet is no such file."""
SIDE = 32
"""Rows and columns of CIFAR's images."""
MNIST_CLASSES = 10
PACKAGE = "dataset-fashion-mnist"
"""Debian's package of Fashion-MNIST."""
FASHION_PLACES = ("/usr/share/datasets/fashion-mnist", "~/.cache/tern-lightning/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files, and where ours may be put."""


class DatasetError(TernError):
    """Files of a data set are missing, or not of their format."""


@dataclass(frozen=True)
class Images:
    """Images uint8 ``[N, C, H, W]`` with labels int64 ``[N]`` in two parts.

    Attributes:
        train: To train on.
        test: To be looked at once, when everything is decided.
        classes: Number of classes.
    """

    train: tuple[Bytes, Labels]
    test: tuple[Bytes, Labels]
    classes: int


def mnist_format(folder: Path | str) -> Images:
    """A data set of ten classes in MNIST's format: MNIST, Fashion-MNIST, KMNIST and others.

    Args:
        folder: With ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the same two that begin with
            ``t10k``, each as it is or packed with the ending ``.gz``.

    Raises:
        DatasetError: A file is missing or damaged, or labels do not fit the images.
    """
    place = user_path(folder)
    return Images(_mnist_part(place, "train"), _mnist_part(place, "t10k"), MNIST_CLASSES)


def fashion_mnist(folder: Path | str | None = None) -> Path:
    """The folder with Fashion-MNIST's files (Xiao, Rasul, Vollgraf, 2017): 60,000 and 10,000 images of clothes.

    Args:
        folder: Where they are; None looks into :data:`FASHION_PLACES`.

    Raises:
        DatasetError: They are not there; the message says how to get them.
    """
    places = [*FASHION_PLACES] if folder is None else [str(folder)]
    for place in map(user_path, places):
        if any((place / f"train-images-idx3-ubyte{ending}").is_file() for ending in ("", ".gz")):
            return place
    raise DatasetError(
        f"Fashion-MNIST is not in {', '.join(places)}; on Debian and Ubuntu `apt install dataset-fashion-mnist` brings "
        f"it, elsewhere its four .gz files from github.com/zalandoresearch/fashion-mnist go into {FASHION_PLACES[-1]}"
    )


def fetch_fashion_mnist(folder: Path | str = FASHION_PLACES[-1]) -> Path:
    """Download Debian's package of Fashion-MNIST (31 MB) by apt, and unpack its four files; root is not needed.

    Only for a user who asks for it: nothing else here uses the network.

    Args:
        folder: Where the files go.

    Raises:
        DatasetError: There is no apt, or it fails; the message has its words.
    """
    place = user_path(folder)
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DatasetError(f"apt-get and dpkg-deb are not here, which would fetch {PACKAGE} from Debian")
    with tempfile.TemporaryDirectory() as temporary:
        for command in (["apt-get", "download", PACKAGE], ["dpkg-deb", "-x", "PACKAGE", "."]):
            packages = [path.name for path in Path(temporary).glob("*.deb")]
            words = [packages[0] if word == "PACKAGE" else word for word in command]
            done = subprocess.run(words, cwd=temporary, capture_output=True, text=True, check=False)
            if done.returncode:
                raise DatasetError(f"{' '.join(words)} failed: {(done.stderr or done.stdout).strip()[-500:]}")
        source = Path(temporary) / FASHION_PLACES[0].lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*-ubyte.gz"):
            shutil.copy(path, place)
    return fashion_mnist(place)


def _mnist_part(folder: Path, part: str) -> tuple[Bytes, Labels]:
    images = read_idx(_packed_or_not(folder, f"{part}-images-idx3-ubyte"), 3)
    labels = read_idx(_packed_or_not(folder, f"{part}-labels-idx1-ubyte"), 1)
    _check_labels(folder, labels, len(images), MNIST_CLASSES)
    return images[:, None], labels.astype(np.int64)


def _packed_or_not(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DatasetError(f"{folder} has neither {name} nor {name}.gz; it must be a folder with the four files of MNIST")


def read_idx(path: Path, dimensions: int) -> Bytes:
    """The bytes of a file of the format IDX, which MNIST came with.

    Args:
        path: The file, packed by gzip where its name ends in ``.gz``.
        dimensions: How many the array must have.

    Raises:
        DatasetError: The file has another format, is cut off or larger than :data:`LARGEST`.
    """
    with reading(path, DatasetError), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(4 + 4 * dimensions)
        if head[:4] != bytes([0, 0, 8, dimensions]) or len(head) < 4 + 4 * dimensions:
            raise DatasetError(
                f"{path} must be an IDX file of bytes in {dimensions} dimensions, it starts {head[:4]!r}"
            )
        shape = struct.unpack(f">{dimensions}I", head[4:])
        wanted = int(np.prod(shape, dtype=object))
        if not 0 < wanted <= LARGEST:
            raise DatasetError(f"{path} must hold between 1 and {LARGEST} bytes, got the shape {shape}")
        data = file.read(wanted + 1)
        if len(data) != wanted:
            raise DatasetError(f"{path} must hold {wanted} bytes for the shape {shape}, got {len(data)} or more")
    return np.frombuffer(data, np.uint8).reshape(shape)


def cifar10(folder: Path | str) -> Images:
    """CIFAR-10 from ``cifar-10-batches-bin``, the binary version of its files.

    Args:
        folder: That folder, or the one that it is in.

    Raises:
        DatasetError: A file is missing or damaged.
    """
    place = _inside(folder, "cifar-10-batches-bin")
    parts = [_cifar_file(place / f"data_batch_{number}.bin", 1, 10) for number in range(1, 6)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Images((images, labels), _cifar_file(place / "test_batch.bin", 1, 10), 10)


def cifar100(folder: Path | str) -> Images:
    """CIFAR-100 with its 100 fine labels, from ``cifar-100-binary``, the binary version of its files.

    Args:
        folder: That folder, or the one that it is in.

    Raises:
        DatasetError: A file is missing or damaged.
    """
    place = _inside(folder, "cifar-100-binary")
    return Images(_cifar_file(place / "train.bin", 2, 100), _cifar_file(place / "test.bin", 2, 100), 100)


def _inside(folder: Path | str, name: str) -> Path:
    place = user_path(folder)
    return place / name if (place / name).is_dir() else place


def _cifar_file(path: Path, labels: int, classes: int) -> tuple[Bytes, Labels]:
    """Rows of ``labels`` bytes, of which the last one counts, and an image in planes of red, green and blue."""
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing; the folder must have the binary version of CIFAR's files (from "
            "cifar-10-binary.tar.gz or cifar-100-binary.tar.gz)"
        )
    row = labels + 3 * SIDE * SIDE
    with reading(path, DatasetError):
        size = path.stat().st_size
        if not 0 < size <= LARGEST or size % row:
            raise DatasetError(f"{path} must consist of rows of {row} bytes, got {size} bytes")
        rows = np.fromfile(path, np.uint8).reshape(-1, row)
    _check_labels(path, rows[:, labels - 1], len(rows), classes)
    return rows[:, labels:].reshape(-1, 3, SIDE, SIDE), rows[:, labels - 1].astype(np.int64)


def _check_labels(source: Path, labels: Bytes, count: int, classes: int) -> None:
    if len(labels) != count:
        raise DatasetError(f"{source} has {len(labels)} labels for {count} images")
    if labels.max() >= classes:
        raise DatasetError(f"{source} has label {labels.max()}; it must have 0 to {classes - 1}")
