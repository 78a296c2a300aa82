"""A network for small images, from training to a microcontroller.

``python -m examples.c.images --output runs/images`` trains a convolutional network with ternary weights and 8-bit
activations on Fashion-MNIST where its files are there (``apt install dataset-fashion-mnist``, or ``--data-dir``), else
on scikit-learn's digits, exports it as C and shows it images: on this machine, and on an emulated Cortex-M4 where
``arm-none-eabi-gcc`` and ``qemu-system-arm`` are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import tern_lightning
import tvm_schedules
from examples.c.keywords import programs
from examples.datasets import DatasetError, fashion_mnist, mnist_format
from examples.models import conv_bn

PICTURES = 8
"""Images that the program on the board looks at."""

Part = tuple[Tensor, Tensor]


def data(folder: Path | None) -> tuple[str, Part, Part]:
    """The data set's name, images ``[N, 1, H, W]`` in [0, 1] and labels to train on, and those held out."""
    try:
        found = mnist_format(fashion_mnist(folder))
    except DatasetError:
        if folder is not None:
            raise
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images[:, None] / 16).float()
        labels = torch.from_numpy(digits.target).long()
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        held, rest = order[:400], order[400:]
        return "scikit-learn's digits", (images[rest], labels[rest]), (images[held], labels[held])
    train, held_out = (
        (torch.from_numpy(x / np.float32(255)).float().reshape(len(x), 1, *x.shape[-2:]), torch.from_numpy(y).long())
        for x, y in (found.train, found.test)
    )
    return "Fashion-MNIST", train, held_out


def network(side: int) -> nn.Sequential:
    """Three convolutions and a linear layer for square images; ternary from the start, the ends apart."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 2 if side > 16 else 1), (16, 32, 2), (32, 32, 1)):
        layers += [*conv_bn(inputs, outputs, 3, stride), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def train(net: nn.Module, part: Part, steps: int) -> None:
    """Ternary weights, whose codes are frozen two thirds of the way."""
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    tern_lightning.ternarize(net, "twn", optimizer=optimizer)
    images, labels = part
    for step in range(steps):
        if step == steps * 2 // 3:
            tern_lightning.freeze(net)
        batch = torch.randint(0, len(labels), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    net.eval()


def export(net: nn.Module, train_images: Tensor, held_out: Part, output: Path) -> float:
    """The network as C, and images in 8 bits with what it says of them here; returns the accuracy on held-out ones."""
    tern_lightning.export(
        net, output / "c", target="c", c_prefix="images", samples=train_images[:256].numpy(), activations="uint8"
    )
    library = tvm_schedules.load(output / "c")
    images, labels = held_out
    seen = np.array([library(image[None].numpy()).argmax() for image in images])
    quant = library.inputs[0]["quant"]
    codes = np.clip(np.rint(images[:PICTURES].numpy() / quant["scale"]) + quant["zero_point"], 0, 255).astype(np.uint8)
    (output / "c" / "pictures.h").write_text(
        f"enum {{ PICTURES = {PICTURES} }};\nstatic const uint8_t pictures[PICTURES][{codes[0].size}] = {{\n"
        + ",\n".join("{" + ",".join(map(str, one.ravel())) + "}" for one in codes)
        + f"\n}};\nstatic const int expected[PICTURES] = {{ {_numbers(seen)} }};\n"
        f"static const int labels[PICTURES] = {{ {_numbers(labels.numpy())} }};\n"
    )
    return float((seen == labels.numpy()).mean())


def _numbers(values: npt.NDArray[np.int64]) -> str:
    return ", ".join(str(value) for value in values[:PICTURES])


def main(arguments: list[str] | None = None) -> dict[str, float | str]:
    """Trains, exports, runs; returns the accuracy and what the programs said."""
    parser = argparse.ArgumentParser(prog="python -m examples.c.images", description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--data-dir", type=Path, help="folder with four files in MNIST's format")
    parser.add_argument("--steps", type=int, default=600, help="of training (default: %(default)s)")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    name, part, (images, labels) = data(given.data_dir)
    net = network(images.shape[-1])
    train(net, part, given.steps)
    right = export(net, part[0], (images[:400], labels[:400]), given.output)
    print(f"{name}: {right:.1%} of 400 held-out images by the C form")
    return {"accuracy": right, **programs(given.output, "images")}


if __name__ == "__main__":
    main()
