"""The data sets of the comparison as whole tensors: digits, glyphs, and the local files of what others compare on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from examples import datasets

Augment = Callable[[Tensor, torch.Generator], Tensor]
BLACK = -1.0
"""What :func:`scaled` makes of a pixel of zero."""


@dataclass(frozen=True)
class Data:
    """Images uint8 ``[N, C, H, W]`` with labels int64 ``[N]`` in two parts.

    Attributes:
        train: To train on.
        test: Looked at once, when a run is over.
        classes: Number of classes.
        augment: Random changes of a training batch; None where every image is a random one already.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    augment: Augment | None

    @cached_property
    def digest(self) -> str:
        """Of all images and labels, so that results on others are not taken for these."""
        found = hashlib.sha256()
        for tensor in (*self.train, *self.test):
            found.update(tensor.numpy().reshape(-1).data)
        return found.hexdigest()[:16]


def validation(data: Data, count: int) -> Data:
    """The same data with the last images of the training part in place of the test part, to choose settings by.

    Args:
        data: All images.
        count: How many of the training part, at least 1; they are trained on no longer.

    Raises:
        ValueError: There are not so many.
    """
    images, labels = data.train
    if not 0 < count < len(labels):
        raise ValueError(f"count must be in [1, {len(labels) - 1}], got {count}")
    return replace(data, train=(images[:-count], labels[:-count]), test=(images[-count:], labels[-count:]))


def scaled(images: Tensor) -> Tensor:
    """Bytes -> float32 in [-1, 1], channels last, which convolutions on a CPU like better."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


class Batches:
    """Shuffled batches ``(images, labels)``; every pass has another order, the same for the same seed.

    Args:
        data: What to draw from.
        size: Images in a batch; what is left over of a pass is not used.
        seed: Of the order.
    """

    def __init__(self, data: Data, size: int, seed: int) -> None:
        self.data, self.size, self.random = data, size, torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.data.train[1]) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self.data.train
        order = torch.randperm(len(labels), generator=self.random)
        for index in order[: len(self) * self.size].split(self.size):
            batch = scaled(images[index])
            if self.data.augment is not None:
                batch = self.data.augment(batch, self.random)
            yield batch, labels[index]


def shift(pixels: int, flip: bool = False, fill: float = 0.0) -> Augment:
    """Move every image by up to ``pixels`` in each direction, what comes in is ``fill``; half of them mirrored."""

    def change(images: Tensor, random: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        padded = F.pad(images, (pixels,) * 4, value=fill)
        down, right = torch.randint(0, 2 * pixels + 1, (2, count, 1, 1), generator=random)
        rows, columns = down + torch.arange(height)[:, None], right + torch.arange(width)
        if flip:
            mirrored = torch.rand(count, 1, 1, generator=random) < 0.5
            columns = torch.where(mirrored, columns.flip(2), columns)
        moved = padded[torch.arange(count)[:, None, None], :, rows, columns]
        return moved.permute(0, 3, 1, 2)

    return change


def digits() -> Data:
    """The 8x8 digits of scikit-learn: 1347 to train on, 450 held out (the same as in ``examples.digits``)."""
    from examples.digits import Digits

    made = Digits()
    images, labels = (torch.cat(parts) for parts in zip(made.train.tensors, made.seen.tensors, strict=True))
    held = torch.from_numpy(made.held_out[0]), torch.from_numpy(made.held_out[1])
    return Data((_bytes(images), labels), (_bytes(held[0]), held[1]), 10, shift(1))


def glyphs(cache: Path | None, train: int, test: int) -> Data:
    """Drawn characters, see :mod:`benchmarks.methods.glyphs`; always the same ones, whatever the seed of a run."""
    from benchmarks.methods.glyphs import CHARACTERS, Settings, load

    found = load(Settings(train=train, test=test), cache)
    parts = [(torch.from_numpy(images), torch.from_numpy(labels)) for images, labels in (found.train, found.test)]
    return Data(parts[0], parts[1], len(CHARACTERS), None)


def cifar(folder: Path, classes: int) -> Data:
    """CIFAR-10 or CIFAR-100, see :mod:`examples.datasets`."""
    found = datasets.cifar10(folder) if classes == 10 else datasets.cifar100(folder)
    return _of_files(found, shift(4, flip=True))


def mnist(folder: Path, flip: bool) -> Data:
    """A folder in MNIST's format; images have one channel, and move by up to two pixels on black.

    Args:
        folder: With its four files.
        flip: Whether half of the training images are mirrored, which is right for clothes and wrong for characters.
    """
    return _of_files(datasets.mnist_format(folder), shift(2, flip, BLACK))


def _of_files(found: datasets.Images, augment: Augment) -> Data:
    parts = [
        (torch.from_numpy(images.copy()), torch.from_numpy(labels)) for images, labels in (found.train, found.test)
    ]
    return Data(parts[0], parts[1], found.classes, augment)


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)
