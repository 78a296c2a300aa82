"""CIFAR and ImageNet for a Trainer, from their standard local files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from examples import datasets
from examples.datasets import DatasetError
from tvm_schedules.common.files import user_path
from tvm_schedules.common.reading import reading

Batch = tuple[Tensor, Tensor]
ENDINGS = (".jpeg", ".jpg", ".png")
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, as torchvision's weights expect."""


class Images(pl.LightningDataModule):
    """A part to train on and one to validate on, as loaders of batches.

    Args:
        folder: With the files.
        batch_size: Images in a batch.
        workers: Processes that read images.
    """

    classes: int

    def __init__(self, folder: Path, batch_size: int, workers: int = 0) -> None:
        super().__init__()
        self.batch_size, self.workers = batch_size, workers
        self.train, self.seen = self.parts(user_path(folder))

    def parts(self, folder: Path) -> tuple[Dataset[Any], Dataset[Any]]:
        """Read both parts."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches."""
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """In their order."""
        return DataLoader(self.seen, self.batch_size, num_workers=self.workers)


class Cifar(Images):
    """CIFAR-10, or CIFAR-100 where a folder has that one; crops of the padded image, mirrored half of the time."""

    def parts(self, folder: Path) -> tuple[Dataset[Any], Dataset[Any]]:
        """Both parts as bytes; batches are scaled on the device."""
        hundred = any((place / "train.bin").is_file() for place in (folder, folder / "cifar-100-binary"))
        found = datasets.cifar100(folder) if hundred else datasets.cifar10(folder)
        self.classes = found.classes
        images = found.train[0]
        self.mean = torch.from_numpy(images.mean((0, 2, 3), dtype=np.float64).astype(np.float32))[:, None, None]
        spread = np.sqrt(np.square(images, dtype=np.float64).mean((0, 2, 3)) - self.mean.numpy().ravel() ** 2)
        self.spread = torch.from_numpy(spread.astype(np.float32))[:, None, None]
        train, seen = (
            TensorDataset(torch.from_numpy(images.copy()), torch.from_numpy(labels))
            for images, labels in (found.train, found.test)
        )
        return train, seen

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalize; in training also move and mirror every image."""
        images, labels = batch
        images = (images.float() - self.mean.to(images.device)) / self.spread.to(images.device)
        if self.trainer is not None and self.trainer.training:
            images = torch.stack([_moved(image) for image in F.pad(images, (4, 4, 4, 4))])
        return images, labels


def _moved(padded: Tensor) -> Tensor:
    down, right, mirrored = (int(value) for value in torch.stack([*torch.randint(0, 9, (2,)), torch.randint(0, 2, ())]))
    crop = padded[:, down : down + datasets.SIDE, right : right + datasets.SIDE]
    return crop.flip(2) if mirrored else crop


class ImageNet(Images):
    """``train/CLASS/*.JPEG`` and ``val/CLASS/*.JPEG``: random crops of 224x224 to train on, the middle to validate."""

    def parts(self, folder: Path) -> tuple[Dataset[Any], Dataset[Any]]:
        """The files of both parts; images are read when they are asked for."""
        train = ImageFolder(folder / "train", crop=True)
        seen = ImageFolder(folder / "val", crop=False)
        if train.names != seen.names:
            raise DatasetError(f"{folder} must have the same classes in train and val")
        self.classes = len(train.names)
        return train, seen


class ImageFolder(Dataset[Batch]):
    """Images in a folder for each class, classes in the order of their names.

    Args:
        folder: With a folder for each class.
        crop: Whether to take a random part of 8 to 100 % of the area, mirrored half of the time (Szegedy et al., 2015),
            or the middle of the image, whose shorter side becomes 256.

    Raises:
        DatasetError: There are no images.
    """

    def __init__(self, folder: Path, crop: bool) -> None:
        if not folder.is_dir():
            raise DatasetError(f"{folder} is missing; the folder must have train/CLASS/*.JPEG and val/CLASS/*.JPEG")
        self.names = sorted(place.name for place in folder.iterdir() if place.is_dir())
        self.files = [
            (path, label)
            for label, name in enumerate(self.names)
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in ENDINGS
        ]
        self.crop = crop
        if not self.files:
            raise DatasetError(f"{folder} has no images: there must be folders with files that end in {ENDINGS}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Batch:
        from PIL import Image

        path, label = self.files[index]
        with reading(path, DatasetError), Image.open(path) as opened:
            image = opened.convert("RGB")
            box = random_box(*image.size) if self.crop else middle_box(*image.size)
            pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR, box))
        found = (torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / (
            torch.tensor(SPREAD)[:, None, None]
        )
        mirrored = self.crop and bool(torch.rand(()) < 0.5)
        return (found.flip(2) if mirrored else found).contiguous(), torch.tensor(label)


def middle_box(width: int, height: int) -> tuple[float, float, float, float]:
    """The middle square of 224 pixels where the shorter side is 256, in an image's own pixels."""
    side = min(width, height) * 224 / 256
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int) -> tuple[float, float, float, float]:
    """A part of 8 to 100 % of the area whose sides are 3:4 to 4:3, or the whole where ten tries do not fit."""
    for _ in range(10):
        area = width * height * float(torch.empty(()).uniform_(0.08, 1.0))
        ratio = math.exp(float(torch.empty(()).uniform_(math.log(3 / 4), math.log(4 / 3))))
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= width and down <= height:
            left = float(torch.rand(())) * (width - across)
            top = float(torch.rand(())) * (height - down)
            return left, top, left + across, top + down
    return 0.0, 0.0, float(width), float(height)
