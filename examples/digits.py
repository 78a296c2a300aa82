"""The whole way on real data: handwritten digits, float baseline, ternary fine-tuning, export, benchmark.

    python -m examples.digits --output runs/digits

The data are the 8x8 digits that come with scikit-learn (UCI "Optical Recognition of Handwritten Digits"). A quarter of
them is held out and seen only once, after everything is decided; the validation accuracy that training shows comes from
the rest. A second call goes on where the first one stopped, and trains again only when the settings have changed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples.models import BasicBlock, conv_bn
from examples.training import accuracy, load_rounding, one_cycle, torch_logits, train
from tern_lightning import ActivationQuantization, TernaryCallback, export
from tern_lightning.checkpoint import load_module
from tvm_schedules.common.files import write_file

Images = npt.NDArray[np.float32]


class DigitsNet(pl.LightningModule):
    """A small residual network for 8x8 gray images.

    Args:
        width: Channels of the first stage; the second has twice as many.
        learning_rate: Of AdamW at its peak, after which a cosine takes it to zero.
    """

    def __init__(self, width: int = 32, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.stem = nn.Sequential(*conv_bn(1, width), nn.ReLU())
        shortcut = nn.Sequential(*conv_bn(width, 2 * width, 1, 2))
        self.blocks = nn.Sequential(
            BasicBlock(width, width, 1, None),
            BasicBlock(width, width, 1, None),
            BasicBlock(width, 2 * width, 2, shortcut),
            BasicBlock(2 * width, 2 * width, 1, None),
        )
        self.head = nn.Linear(2 * width, 10)
        self.example_input_array = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 1, 8, 8]`` with values in [0, 1] -> logits ``[N, 10]``."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy on images moved by up to one pixel."""
        images, labels = batch
        down, right = torch.randint(0, 3, (2,)).tolist()
        moved = F.pad(images, (1, 1, 1, 1))[..., down : down + 8, right : right + 8]
        loss = F.cross_entropy(self(moved), labels, label_smoothing=0.05)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy, for the eye only: nothing is chosen by it."""
        images, labels = batch
        self.log("val_acc", (self(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW; one cosine over the run."""
        return one_cycle(self, self.hparams["learning_rate"])


class Digits(pl.LightningDataModule):
    """The digits in three parts: 1077 to train on, 270 to look at meanwhile, 450 held out.

    Args:
        batch_size: Images in a training batch.
        seed: Of the order of the training images; the parts are always the same.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        data = load_digits()
        images, labels = (data.images[:, None] / 16).astype(np.float32), data.target
        rest, test, rest_labels, test_labels = train_test_split(
            images, labels, test_size=450, stratify=labels, random_state=0
        )
        train, seen, train_labels, seen_labels = train_test_split(
            rest, rest_labels, test_size=270, stratify=rest_labels, random_state=0
        )
        self.train = TensorDataset(torch.from_numpy(train), torch.from_numpy(train_labels))
        self.seen = TensorDataset(torch.from_numpy(seen), torch.from_numpy(seen_labels))
        self.held_out: tuple[Images, npt.NDArray[np.int64]] = (test, test_labels)
        self.calibration: Images = train[:64]
        self.batch_size, self.order = batch_size, torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches."""
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, generator=self.order)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All in one batch."""
        return DataLoader(self.seen, len(self.seen))


def train_both(options: argparse.Namespace, output: Path) -> tuple[nn.Module, DigitsNet]:
    """Float baseline, then the same network ternary with 8-bit activations; both in evaluation mode."""
    settings = {"width": options.width, "seed": options.seed, "epochs": options.epochs}
    pl.seed_everything(options.seed, verbose=False)
    start = DigitsNet(options.width)
    float_net = load_module(
        train("float", start, Digits(seed=options.seed), options.epochs, output, settings), DigitsNet
    )

    settings = {**settings, "ternary_epochs": options.ternary_epochs, "factor": options.factor}
    net = DigitsNet(options.width)
    net.load_state_dict(float_net.state_dict())
    callbacks = [TernaryCallback(options={"factor": options.factor}), ActivationQuantization(bits=8)]
    path = train("ternary", net, Digits(seed=options.seed), options.ternary_epochs, output, settings, callbacks)
    return float_net, load_rounding(path, DigitsNet(options.width))


def export_all(net: DigitsNet, samples: Images, output: Path) -> dict[str, Any]:
    """Export to this machine and to any 64-bit ARM; what was exported is compared with onnxruntime on the way."""
    found = {}
    for target in ("host", "arm"):
        print(f"== export to {target}", flush=True)
        started = time.perf_counter()
        result = export(net, output / target, target=target, samples=samples, activations="uint8")
        seconds = time.perf_counter() - started
        print("   " + result.artifact.report.text().replace("\n", "\n   "))
        found[target] = {
            "seconds": seconds,
            "verification": result.artifact.report.to_dict(),
            "layers": {
                path: {"zeros": weight.sparsity(), "entropy": weight.entropy(), "weights": int(np.prod(weight.shape))}
                for path, weight in result.network.ternary.items()
            },
        }
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m examples.digits", description=__doc__.splitlines()[0])
    made.add_argument("--output", type=Path, default=Path("runs/digits"), help="directory (default: %(default)s)")
    made.add_argument("--epochs", type=int, default=20, help="of the float baseline (default: %(default)s)")
    made.add_argument("--ternary-epochs", type=int, default=40, help="of the fine-tuning (default: %(default)s)")
    made.add_argument("--width", type=int, default=32, help="channels of the first stage (default: %(default)s)")
    made.add_argument(
        "--factor", type=float, default=0.7, help="threshold in mean magnitudes: more makes more zeros (default: 0.7)"
    )
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument("--threads", type=int, default=1, help="of the benchmark (default: %(default)s)")
    made.add_argument("--quick-bench", action="store_true", help="a short benchmark, for tests")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run everything; returns what is written to ``results.json``."""
    import tvm_schedules
    from examples import digits_report
    from tvm_schedules.bench import Request, bench

    options = parser().parse_args(arguments)
    output: Path = options.output
    started = time.perf_counter()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(1)  # the layers are too small for more: threads would wait for one another

    data = Digits()
    float_net, ternary_net = train_both(options, output)
    np.savez_compressed(output / "samples.npz", x=data.calibration)
    exports = export_all(ternary_net, data.calibration, output)

    print("== held-out digits", flush=True)
    images, labels = data.held_out
    library = tvm_schedules.load(output / "host")
    ternary_logits = torch_logits(ternary_net, images)
    library_logits = np.concatenate([library(image[None]) for image in images])
    results = {
        "command": " ".join(["python -m examples.digits", *(sys.argv[1:] if arguments is None else arguments)]),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "images": len(labels),
        "accuracy": {
            "float": accuracy(torch_logits(float_net, images), labels),
            "ternary": accuracy(ternary_logits, labels),
            "exported": accuracy(library_logits, labels),
        },
        "agreement": accuracy(library_logits, ternary_logits.argmax(1)),
        "parameters": sum(parameter.numel() for parameter in ternary_net.parameters()),
        "exports": exports,
    }
    print("== benchmark", flush=True)
    rounds, seconds = (3, 0.02) if options.quick_bench else (9, 0.1)
    results["bench"] = bench(output / "host", Request(threads=[options.threads], rounds=rounds, seconds=seconds))
    results["seconds"] = time.perf_counter() - started
    write_file(output / "results.json", json.dumps(results, indent=1) + "\n")
    digits_report.plot(results, output / "digits.png")
    digits_report.show(results, output)
    return results


if __name__ == "__main__":
    main()
