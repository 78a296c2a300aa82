"""Compare all methods on equal terms: one float network a seed, and every recipe fine-tunes it.

    python -m benchmarks.methods --data digits
    python -m benchmarks.methods --data glyphs --network resnet20-s2
    python -m benchmarks.methods --data fashion-mnist --validation 5000 --recipes 'twn*' --seeds 0
    python -m benchmarks.methods --data mnist --data-dir DIR --network mobilenet
    python -m benchmarks.methods --data cifar10 --data-dir DIR --network resnet20 --float-epochs 200 --epochs 200
    python -m benchmarks.methods --data glyphs --recipes 'twn*' --distill --seeds 0
    python -m benchmarks.methods --data glyphs --report

Every run leaves a JSON file; a later call skips it. Test images are looked at once, when a run is over; settings are
chosen with ``--validation``, which takes training images in their place. Seed 0 of everything comes first. The table,
the plot and the aims that were missed are made from the files.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from benchmarks.methods import data as compare_data
from benchmarks.methods.data import Batches, Data, scaled
from benchmarks.methods.recipes import RECIPES, Recipe, choose, depthwise
from benchmarks.methods.report import report
from benchmarks.methods.training import Learner, Ticker, accuracy, add_biases, fit, measure
from examples import datasets
from examples.models import CifarResNet, SmallMobileNet
from tern_lightning import Distillation, export
from tvm_schedules.common.files import write_file
from tvm_schedules.engines import system

TEACHING = {"temperature": 2.0, "weight": 0.7}
"""Arguments of ``Distillation`` where ``--distill`` asks for it."""
CALIBRATION = 128
"""Training images from which the ranges of an exported network's activations come."""


@dataclass(frozen=True)
class Plan:
    """What a result depends on besides recipe and seed.

    Attributes:
        network: Name in ``NETWORKS``.
        float_epochs: Of the float network.
        epochs: Of every recipe.
        batch: Images in a batch.
        float_rate: Learning rate of the float network (AdamW; a short rise, then a cosine to zero).
        rate: Of the recipes.
        freeze: Share of a run after which the codes are fixed.
        precision: Of Lightning's Trainer.
    """

    network: str
    float_epochs: int
    epochs: int
    batch: int = 128
    float_rate: float = 4e-3
    rate: float = 2e-3
    freeze: float = 0.7
    precision: str = "32-true"


def _digits_net(classes: int, inputs: int) -> nn.Module:
    from examples.digits import DigitsNet

    return DigitsNet()


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "digits": _digits_net,
    "resnet20": lambda classes, inputs: CifarResNet(3, classes, inputs=inputs),
    "resnet20-w8": lambda classes, inputs: CifarResNet(3, classes, width=8, inputs=inputs),
    "resnet20-s2": lambda classes, inputs: CifarResNet(3, classes, stride=2, inputs=inputs),
    "mobilenet": SmallMobileNet,
}
"""By name, of classes and channels of an image: the network of ``examples.digits``, ResNet-20, the same half as wide,
the same at half the resolution, inverted residuals (whose depthwise convolutions stay dense)."""

PLANS = {
    "digits": Plan("digits", 40, 20, batch=64, float_rate=3e-3, rate=3e-3),
    "glyphs": Plan("resnet20-s2", 6, 2, precision="bf16-mixed"),
    "fashion-mnist": Plan("resnet20-s2", 4, 3),
    "mnist": Plan("resnet20-s2", 4, 3),
    "cifar10": Plan("resnet20", 200, 100, precision="bf16-mixed"),
    "cifar100": Plan("resnet20", 200, 100, precision="bf16-mixed"),
}
SINCE = Recipe("").settings()
"""Settings of results that were written before there was a choice."""


class Comparison:
    """All runs on one data set with one plan.

    Args:
        data: The images.
        plan: Everything else that results depend on, besides recipe and seed.
        output: Directory of the results.
        tell: Called with a name and the share of the run that is done.
        keep: Write the network of every run as ``NAME/model.onnx``, beside its result.
    """

    def __init__(
        self, data: Data, plan: Plan, output: Path, tell: Callable[[str, float], None], keep: bool = False
    ) -> None:
        self.data, self.plan, self.output, self.tell, self.keep = data, plan, output, tell, keep

    def float_net(self, seed: int) -> nn.Module:
        """The trained float network of a seed; it is trained when its file is not there."""
        plan, folder = self.plan, self.output / f"seed-{seed}"
        path, note = folder / "float.pt", folder / "float.json"
        pl.seed_everything(seed, verbose=False)
        net = NETWORKS[plan.network](self.data.classes, self.data.train[0].shape[1])
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        settings = {key: value for key, value in asdict(plan).items() if key not in ("epochs", "rate", "freeze")}
        wanted = {"data": self.data.digest, "plan": settings}
        if path.is_file() and _read(note).items() >= wanted.items():
            net.load_state_dict(torch.load(path, weights_only=True))
            return net
        started = time.perf_counter()
        learner = Learner(net, plan.float_rate)
        tick = Ticker(lambda share: self.tell(f"float, seed {seed}", share))
        fit(learner, Batches(self.data, plan.batch, seed), plan.float_epochs, plan.precision, seed, [tick])
        note.unlink(missing_ok=True)
        content = io.BytesIO()
        torch.save(net.state_dict(), content)
        write_file(path, content.getvalue())
        self._keep(net, folder / "float")
        found = {"accuracy": accuracy(net, self.data.test), **measure(net, self.data.test[0][:1])}
        result = {"recipe": "float", "seed": seed, "distill": False, **wanted, **found}
        _write(note, result | _circumstances(started))
        return net

    def run(self, recipe: Recipe, seed: int, distill: bool) -> dict[str, Any]:
        """Fine-tune by a recipe, or read what an earlier call found.

        Args:
            recipe: What to do; a changed one is run again (of ``extras`` only the name of the recipe is known).
            seed: Of the float network that it starts from, and of the order of the images.
            distill: Learn from the float network too.
        """
        plan, name = self.plan, recipe.name + ("+kd" if distill else "")
        path = self.output / f"seed-{seed}" / f"{name}.json"
        wanted = {"data": self.data.digest, "plan": asdict(plan), **recipe.settings()}
        known = SINCE | _read(path)
        if known.items() >= wanted.items():
            return known
        net = self.float_net(seed)
        started = time.perf_counter()
        learner = Learner(net, plan.rate * recipe.rate)
        teaching = recipe.teacher or (TEACHING if distill else None)
        extra = [] if teaching is None else [Distillation(self.float_net(seed), module="net", **teaching)]
        if recipe.bias:
            add_biases(net)
        tick = Ticker(lambda share: self.tell(f"{name}, seed {seed}", share))
        batches = Batches(self.data, plan.batch, seed + 1000)
        callbacks = recipe.callbacks(plan.freeze, depthwise(learner))
        fit(learner, batches, plan.epochs, plan.precision, seed, [*callbacks, *extra, tick])
        self._keep(net, path.with_suffix(""))
        found = {"accuracy": accuracy(net, self.data.test), **measure(net, self.data.test[0][:1])}
        result = {"recipe": recipe.name, "seed": seed, "distill": distill, **wanted, **found}
        _write(path, result | _circumstances(started))
        return result

    def _keep(self, net: nn.Module, folder: Path) -> None:
        """Write the network with 8-bit activations, whose ranges are those of some training images."""
        if self.keep:
            images = scaled(self.data.train[0][:CALIBRATION]).contiguous().numpy()
            export(net, folder, onnx_only=True, samples=images, activations="uint8", allow_zero_layers=True)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _circumstances(started: float) -> dict[str, Any]:
    """How long a run took, when it ended, and on what CPU."""
    when = time.strftime("%Y-%m-%d", time.gmtime())
    return {"seconds": round(time.perf_counter() - started, 1), "when": when, "cpu": system.machine()["cpu"]}


def _write(path: Path, result: dict[str, Any]) -> None:
    write_file(path, json.dumps(result, indent=1) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=str(__doc__).splitlines()[0])
    made.add_argument("--data", choices=sorted(PLANS), required=True)
    made.add_argument(
        "--data-dir", type=Path, help="folder with the files of CIFAR's binary version, or of MNIST's format"
    )
    made.add_argument(
        "--validation", type=int, default=0, metavar="N", help="the last N training images in place of the test images"
    )
    made.add_argument("--onnx", action="store_true", help="keep every network as model.onnx")
    made.add_argument("--cache", type=Path, help="of the glyphs (default: ~/.cache/tern-lightning)")
    made.add_argument("--train-images", type=int, default=49_600, help="glyphs (default: %(default)s)")
    made.add_argument("--test-images", type=int, default=9_920, help="glyphs (default: %(default)s)")
    made.add_argument("--network", choices=sorted(NETWORKS), help="(default: what suits the data)")
    made.add_argument("--float-epochs", type=int, help="of the float network")
    made.add_argument("--epochs", type=int, help="of every recipe")
    made.add_argument("--precision", help="of Lightning's Trainer")
    made.add_argument("--seeds", default="0,1,2", help="(default: %(default)s)")
    made.add_argument("--recipes", default="*", help="patterns with commas between (default: all)")
    made.add_argument("--distill", action="store_true", help="learn from the float network too")
    made.add_argument("--output", type=Path, default=Path("runs/compare"), help="(default: %(default)s)")
    made.add_argument("--report", action="store_true", help="only write table and plot of what is there")
    return made


def load_data(options: argparse.Namespace) -> Data:
    """The data set that was asked for."""
    if options.data == "digits":
        found = compare_data.digits()
    elif options.data == "glyphs":
        found = compare_data.glyphs(options.cache, options.train_images, options.test_images)
    elif options.data == "fashion-mnist":
        found = compare_data.mnist(datasets.fashion_mnist(options.data_dir), flip=True)
    elif options.data_dir is None:
        raise SystemExit(f"--data {options.data} needs --data-dir, the folder with its files; nothing is downloaded")
    elif options.data == "mnist":
        found = compare_data.mnist(options.data_dir, flip=False)
    else:
        found = compare_data.cifar(options.data_dir, 10 if options.data == "cifar10" else 100)
    return compare_data.validation(found, options.validation) if options.validation else found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and report."""
    from benchmarks.methods.progress import Progress

    options = parser().parse_args(arguments)
    plan = PLANS[options.data]
    changes = {name: getattr(options, name) for name in ("network", "float_epochs", "epochs", "precision")}
    plan = replace(plan, **{name: value for name, value in changes.items() if value is not None})
    output = options.output / (f"{options.data}-{plan.network}" + "-validation" * bool(options.validation))
    if not options.report:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        data, chosen = load_data(options), choose(options.recipes.split(","))
        with Progress(len(chosen) * len(options.seeds.split(","))) as progress:
            comparison = Comparison(data, plan, output, progress.tell, options.onnx)
            for seed in (int(text) for text in options.seeds.split(",")):
                for recipe in chosen:
                    progress.done(comparison.run(recipe, seed, options.distill))
    report(output, options.data, [recipe.name for recipe in RECIPES])


if __name__ == "__main__":
    main()
