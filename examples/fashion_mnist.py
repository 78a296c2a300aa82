"""Ternary networks on Fashion-MNIST: accuracy, bytes and milliseconds of several trainings, beside float.

    python -m examples.fashion_mnist --fetch
    python -m examples.fashion_mnist --data-dir DIR --networks twn,zeros-90,groups-80 --epochs 12 --ternary-epochs 8

A ResNet-20 with a strided first layer is trained in float, then goes on as several ternary networks with 8-bit
activations. Each is exported, verified, and measured beside onnxruntime. ``--fetch`` downloads Debian's package of the
data (31 MB) by apt into ``~/.cache/tern-lightning``; without it the data have to be there already. The 10,000 test
images are seen once, at the end; the accuracy that training shows is that of 5,000 images of the rest. A second call
goes on where the first one stopped. The default takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from examples import datasets
from examples.models import CifarResNet
from examples.training import Images, accuracy, load_rounding, one_cycle, torch_logits, train
from tern_lightning import (
    ActivationQuantization,
    Distillation,
    EntropyConstraint,
    PruningSchedule,
    Schedule,
    TernaryCallback,
    export,
)
from tern_lightning.checkpoint import load_module
from tvm_schedules.common.files import write_file

SEEN = 5_000
"""Training images that are held back to look at while a network trains."""
CALIBRATION = 128
"""Training images with which an export is verified."""


class FashionNet(pl.LightningModule):
    """ResNet-20 for 28x28 gray images.

    Args:
        learning_rate: Of AdamW at its peak, after which a cosine takes it to zero.
        width: Channels of the first stage.
    """

    def __init__(self, learning_rate: float = 4e-3, width: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = CifarResNet(3, 10, width=width, stride=2, inputs=1)
        self.example_input_array = torch.linspace(0, 1, 28 * 28).reshape(1, 1, 28, 28)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 1, 28, 28]`` with values in [0, 1] -> logits ``[N, 10]``."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy on a batch moved by up to two pixels, and mirrored half of the time."""
        images, labels = batch
        down, right = torch.randint(0, 5, (2,)).tolist()
        moved = F.pad(images.float() / 255, (2, 2, 2, 2))[..., down : down + 28, right : right + 28]
        loss = F.cross_entropy(self(moved.flip(3) if torch.rand(()) < 0.5 else moved), labels)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy, for the eye only: nothing is chosen by it."""
        self.log("val_acc", (self(batch[0].float() / 255).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        """AdamW; one cosine over the run."""
        return one_cycle(self, self.hparams["learning_rate"])


class Fashion(pl.LightningDataModule):
    """Fashion-MNIST as bytes: what is trained on, what is looked at meanwhile, and the test images.

    Args:
        folder: With its four files.
        limit: Use only so many training images and a fifth as many test images, to try something out; None for all.
        seed: Of the order of the training images.
        batch_size: Images in a training batch.
    """

    def __init__(self, folder: Path, limit: int | None = None, seed: int = 0, batch_size: int = 128) -> None:
        super().__init__()
        found = datasets.mnist_format(folder)
        images, labels = (torch.from_numpy(part[:limit].copy()) for part in found.train)
        seen = min(SEEN, len(labels) // 6)
        self.train, self.seen = (
            TensorDataset(images[:-seen], labels[:-seen]),
            TensorDataset(images[-seen:], labels[-seen:]),
        )
        tests = None if limit is None else limit // 5
        self.held_out = (_scaled(found.test[0][:tests]), found.test[1][:tests])
        self.calibration: Images = _scaled(images[:CALIBRATION].numpy())
        self.batch_size, self.order = batch_size, torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches."""
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=self.order)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """In their order."""
        return DataLoader(self.seen, 500)


def _scaled(images: datasets.Bytes) -> Images:
    return images.astype(np.float32) / np.float32(255)


def _pruned(zeros: float, **options: Any) -> list[pl.Callback]:
    """TWN with a schedule of zeros beside its threshold, which makes a few more."""
    schedule = PruningSchedule(zeros, schedule=Schedule("cubic", end=0.5), **options)
    return [schedule, TernaryCallback("twn", verbose=False)]


NETWORKS: dict[str, Callable[[FashionNet], list[pl.Callback]]] = {
    "twn": lambda _: [TernaryCallback("twn", verbose=False)],
    "two-terms": lambda _: [TernaryCallback("multilevel", options={"terms": 2}, verbose=False)],
    "entropy": lambda _: [EntropyConstraint(0.3, Schedule("linear", end=0.4)), TernaryCallback("ec2t", verbose=False)],
    "zeros-80": lambda _: _pruned(0.8),
    "zeros-90": lambda _: _pruned(0.9),
    "groups-80": lambda _: _pruned(0.8, pattern="block", group=(4, 1), kernel=False),
    "taught-90": lambda teacher: [*_pruned(0.9), Distillation(teacher, temperature=2.0, weight=0.5)],
}
"""By name: the callbacks of a training that starts from the float network. ``groups`` are four output channels at one
position of a kernel, which are zero together; ``taught`` learns from the float network, too."""


def train_all(options: argparse.Namespace, data: Callable[[], Fashion], output: Path) -> dict[str, FashionNet]:
    """The float network and the ternary ones that were asked for, all in evaluation mode."""
    settings = {"width": options.width, "seed": options.seed, "epochs": options.epochs, "limit": options.limit}
    pl.seed_everything(options.seed, verbose=False)
    start = FashionNet(width=options.width)
    path = train("float", start, data(), options.epochs, output, settings, every=1)
    float_net = FashionNet(width=options.width)
    load_module(path, float_net)
    nets = {"float": float_net}
    for name in options.networks.split(","):
        net = FashionNet(options.ternary_rate, options.width)
        net.load_state_dict(float_net.state_dict())
        own = [*NETWORKS[name](float_net), ActivationQuantization(bits=8)]
        more = {**settings, "ternary_epochs": options.ternary_epochs, "rate": options.ternary_rate}
        path = train(name, net, data(), options.ternary_epochs, output, more, own, every=1)
        nets[name] = load_rounding(path, FashionNet(width=options.width))
    return nets


def export_and_measure(name: str, net: FashionNet, data: Fashion, output: Path, options: Any) -> dict[str, Any]:
    """Export a ternary network, compare the library with it on the test images, and measure it.

    Returns:
        ``accuracy``, ``bytes``, ``ms``, ``zeros``, ``agreement`` with the network in torch, ``engines``: rows of the
        benchmark.
    """
    import tvm_schedules
    from tvm_schedules.bench import Request, bench

    print(f"== export and measure {name}", flush=True)
    result = export(net, output / name, target="host", samples=data.calibration, activations="uint8")
    images, labels = data.held_out
    library = tvm_schedules.load(output / name)
    logits = np.concatenate([library(image[None]) for image in images])
    rounds, seconds = (2, 0.02) if options.quick_bench else (9, 0.1)
    measured = bench(output / name, Request(threads=[options.threads], rounds=rounds, seconds=seconds))
    rows = {row["name"]: row for row in measured["results"][0]["engines"]}
    weights = [(one.sparsity(), int(np.prod(one.shape))) for one in result.network.ternary.values()]
    return {
        "accuracy": accuracy(logits, labels),
        "agreement": accuracy(logits, torch_logits(net, images).argmax(1)),
        "bytes": rows["tern"]["file_bytes"],
        "ms": rows["tern"]["median_ms"],
        "zeros": sum(share * count for share, count in weights) / sum(count for _, count in weights),
        "verified": result.artifact.report.to_dict()["passed"],
        "machine": measured["machine"],
        "engines": rows,
    }


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m examples.fashion_mnist", description=str(__doc__).splitlines()[0])
    made.add_argument("--data-dir", type=Path, help="folder with the four files (default: where Debian puts them)")
    made.add_argument(
        "--fetch", action="store_true", help=f"download Debian's {datasets.PACKAGE} by apt if it is not here"
    )
    made.add_argument("--output", type=Path, default=Path("runs/fashion"), help="directory (default: %(default)s)")
    made.add_argument("--networks", default="twn,zeros-90,groups-80", help=f"of {', '.join(NETWORKS)}")
    made.add_argument("--epochs", type=int, default=4, help="of the float network (default: %(default)s)")
    made.add_argument("--ternary-epochs", type=int, default=3, help="of every ternary one (default: %(default)s)")
    made.add_argument("--ternary-rate", type=float, default=2e-3, help="their learning rate (default: %(default)s)")
    made.add_argument("--width", type=int, default=16, help="channels of the first stage (default: %(default)s)")
    made.add_argument("--limit", type=int, help="use only so many training images")
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument("--threads", type=int, default=1, help="of the benchmark (default: %(default)s)")
    made.add_argument("--quick-bench", action="store_true", help="a short benchmark, for tests")
    return made


def find_data(options: argparse.Namespace) -> Path:
    """The folder of the data, fetched where that was asked for and they are not here."""
    try:
        return datasets.fashion_mnist(options.data_dir)
    except datasets.DatasetError as error:
        if not options.fetch:
            raise SystemExit(f"{error}; --fetch does that without root") from error
    place = options.data_dir or datasets.FASHION_PLACES[-1]
    print(f"== apt-get download {datasets.PACKAGE}, unpacked into {place}", flush=True)
    try:
        return datasets.fetch_fashion_mnist(place)
    except datasets.DatasetError as error:
        raise SystemExit(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run everything; returns what is written to ``results.json``."""
    from examples import fashion_report

    options = parser().parse_args(arguments)
    unknown = sorted(set(options.networks.split(",")) - NETWORKS.keys())
    if unknown:
        raise SystemExit(f"--networks must be of {', '.join(NETWORKS)}, got {', '.join(unknown)}")
    started = time.perf_counter()
    folder = find_data(options)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    nets = train_all(options, lambda: Fashion(folder, options.limit, options.seed), options.output)
    data = Fashion(folder, options.limit)
    images, labels = data.held_out
    found = {
        name: export_and_measure(name, net, data, options.output / "exported", options)
        for name, net in nets.items()
        if name != "float"
    }
    results = {
        "command": " ".join(["python -m examples.fashion_mnist", *(sys.argv[1:] if arguments is None else arguments)]),
        "images": len(labels),
        "float": accuracy(torch_logits(nets["float"], images), labels),
        "networks": found,
        "seconds": time.perf_counter() - started,
    }
    write_file(options.output / "results.json", json.dumps(results, indent=1, default=float) + "\n")
    fashion_report.plot(results, options.output / "fashion.png")
    fashion_report.show(results, options.output)
    return results


if __name__ == "__main__":
    main()
