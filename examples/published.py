r"""Published trainings on the standard files of CIFAR-10, CIFAR-100 and ImageNet, with the accuracy that papers state.

    python -m examples.published sws-cifar10 --data-dir DIR --network resnet20
    python -m examples.published ec2t-cifar10 --data-dir DIR --network resnet20 --start float.ckpt
    python -m examples.published sws-imagenet --data-dir DIR --network resnet18 --start resnet18.pth \
        --accelerator gpu --devices 8 --strategy ddp --precision bf16-mixed

Hyper-parameters are those of the preset; what a paper does not state has to be given, or is said when the run starts.
CIFAR is read from its binary version, ImageNet from ``train/CLASS/*.JPEG`` and ``val/CLASS/*.JPEG``. A second call goes
on where the first one stopped. ``--start`` is a checkpoint of this command (``float`` trains one), or a file of weights
with torchvision's names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from examples import models
from examples.image_data import Cifar, ImageNet
from tern_lightning import preset, presets
from tern_lightning.checkpoint import load_module, read_checkpoint
from tern_lightning.recipes.preset import Recipe
from tvm_schedules.common.files import write_file

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    **{f"resnet{depth}": getattr(models, f"resnet{depth}") for depth in (20, 32, 44, 56)},
    "resnet18": models.ResNet18,
    "mobilenetv2": models.MobileNetV2,
}
FLOAT = Recipe(
    start_from="scratch",
    optimizer="SGD",
    learning_rate=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    batch_size=128,
    epochs=200,
    schedule="cosine",
)
"""Of the float network that others start from: ours, after He et al. (2016)."""


class Classifier(pl.LightningModule):
    """A network that is trained as a recipe says.

    Args:
        network: Name in :data:`NETWORKS`.
        classes: Number of classes.
        recipe: The recipe, as plain values.
    """

    def __init__(self, network: str, classes: int, recipe: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recipe = recipe
        self.net = NETWORKS[network](classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, H, W]`` -> logits ``[N, classes]``."""
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross entropy."""
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Share of images that get the right class."""
        right = (self(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val_acc", right, prog_bar=True, sync_dist=True, batch_size=len(batch[1]))

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer and learning rates."""
        told = self.recipe
        names = {"learning_rate": "lr", "momentum": "momentum", "nesterov": "nesterov", "betas": "betas"}
        arguments = {key: told[name] for name, key in names.items() if told.get(name) is not None}
        decay = told.get("weight_decay") or 0.0
        optimizer = getattr(torch.optim, told["optimizer"])(self.parameters(), weight_decay=decay, **arguments)
        epochs = int(self.trainer.max_epochs or 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: rate_factor(told, epoch, epochs))
        return [optimizer], [schedule]


def rate_factor(recipe: dict[str, Any], epoch: int, epochs: int) -> float:
    """The learning rate of an epoch, over the first one's: milestones, a cosine to zero, or constant.

    Milestones are those of the published number of epochs, and move along where a run has another one.
    """
    if recipe.get("milestones"):
        scale = epochs / recipe["epochs"]
        passed = zip(recipe["milestones"], recipe["factors"], strict=True)
        return math.prod(factor for milestone, factor in passed if epoch >= milestone * scale)
    if recipe.get("schedule") == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    return 1.0


def recipe_of(name: str, options: argparse.Namespace) -> Recipe:
    """The recipe with what was given on the command line in place of its own.

    Raises:
        SystemExit: The paper does not state what a run needs, and it was not given.
    """
    found = FLOAT if name == "float" else preset(name).recipe
    given = {key: getattr(options, key) for key in ("optimizer", "learning_rate", "batch_size", "epochs")}
    found = dataclasses.replace(found, **{key: value for key, value in given.items() if value is not None})
    missing = [key for key in given if getattr(found, key) is None]
    if missing:
        flags = ", ".join("--" + key.replace("_", "-") for key in missing)
        raise SystemExit(f"{name}: {', '.join(missing)} not published, or not known to us; give {flags}")
    if found.start_from == "float" and options.start is None:
        raise SystemExit(f"{name} starts from a trained float network: give --start (`float` trains one)")
    return found


def load_start(net: Classifier, path: Path) -> None:
    """Fill a network from a checkpoint of this command, or from a file of the network's own weights."""
    weights = read_checkpoint(path)["state_dict"]
    load_module(path, net if all(name.startswith("net.") for name in weights) else net.net)


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on, and tell the accuracy.

    Returns:
        What is written to ``result.json``.
    """
    recipe = recipe_of(name, options)
    chosen = None if name == "float" else preset(name)
    on_imagenet = (recipe.data or "") == "ImageNet" or (options.data_dir / "train").is_dir()
    data = (ImageNet if on_imagenet else Cifar)(options.data_dir, int(recipe.batch_size or 1), options.workers)
    output: Path = options.output / f"{name}-{options.network}"
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))
    settings = {"recipe": plain, "network": options.network, "seed": options.seed, "start": str(options.start)}
    note, last = output / "settings.json", output / "last.ckpt"
    if last.is_file() and json.loads(note.read_text()) != settings:
        raise SystemExit(f"{output} has a run with other settings; remove it, or give another --output")
    output.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(options.seed, verbose=False, workers=True)
    net = Classifier(options.network, data.classes, plain)
    if options.start is not None:
        load_start(net, options.start)
    trainer = pl.Trainer(
        max_epochs=recipe.epochs,
        accelerator=options.accelerator,
        devices=options.devices,
        strategy=options.strategy,
        precision=options.precision,
        gradient_clip_val=recipe.gradient_clip,
        logger=False,
        enable_progress_bar=options.progress,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(output, save_last=True, save_top_k=0, every_n_epochs=1),
            *([] if chosen is None else chosen.callbacks(verbose=options.progress)),
        ],
    )
    if trainer.is_global_zero:
        write_file(note, json.dumps(settings, indent=1))
        print(f"== {name}\n{chosen if chosen is not None else recipe}", flush=True)
    trainer.fit(net, data, ckpt_path=last if last.is_file() else None, weights_only=True)
    [metrics] = trainer.validate(net, data, verbose=False)
    published = [] if chosen is None else [str(one) for one in chosen.results]
    result = {"preset": name, "network": options.network, "accuracy": metrics["val_acc"], "published": published}
    if trainer.is_global_zero:
        write_file(output / "result.json", json.dumps(result, indent=1) + "\n")
        print(f"{options.network}, {recipe.epochs} epochs: {metrics['val_acc']:.2%}")
        for line in published or ["no accuracy that we know of"]:
            print(f"published: {line}")
    return result


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m examples.published", description=str(__doc__).splitlines()[0])
    made.add_argument("preset", choices=["float", *presets()], metavar="PRESET", help="float, or one of presets()")
    made.add_argument("--data-dir", type=Path, required=True, help="folder with the files of the data set")
    made.add_argument("--network", choices=sorted(NETWORKS), default="resnet20", help="(default: %(default)s)")
    made.add_argument("--start", type=Path, help="checkpoint to start from")
    made.add_argument("--output", type=Path, default=Path("runs/published"), help="(default: %(default)s)")
    made.add_argument("--epochs", type=int, help="in place of the published number")
    made.add_argument("--batch-size", type=int, help="of a process, in place of the published one")
    made.add_argument("--learning-rate", type=float, help="in place of the published one")
    made.add_argument("--optimizer", help="class in torch.optim, in place of the published one")
    made.add_argument("--accelerator", default="auto", help="of Lightning's Trainer, as the next three")
    made.add_argument("--devices", default="auto")
    made.add_argument("--strategy", default="auto")
    made.add_argument("--precision", default="32-true")
    made.add_argument("--workers", type=int, default=0, help="processes that read images (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    made.add_argument("--progress", action="store_true", help="show bars and tables")
    return made


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run a preset."""
    options = parser().parse_args(arguments)
    return run(options.preset, options)


if __name__ == "__main__":
    main()
