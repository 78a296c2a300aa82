"""Training, accuracy and cost of the networks that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.methods.data import Batches, scaled
from tern_lightning.functional.size import stored_bytes
from tern_lightning.metrics import CodeEntropy, Operations, Sparsity
from tern_lightning.nn.ternary_layers import ternary_layers


class Learner(pl.LightningModule):
    """Trains a network by labels.

    Args:
        net: The network.
        rate: Learning rate at its peak.
    """

    def __init__(self, net: nn.Module, rate: float) -> None:
        super().__init__()
        self.net, self.rate = net, rate

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, C, H, W]``."""
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch ``(images, labels)``."""
        images, labels = batch
        return F.cross_entropy(self.net(images).float(), labels)

    def configure_optimizers(self) -> Any:
        """AdamW; one cycle over the run."""
        optimizer = torch.optim.AdamW(self.parameters(), self.rate, weight_decay=1e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Ticker(pl.Callback):
    """Calls a function with the share of the run that is done."""

    def __init__(self, tell: Callable[[float], None]) -> None:
        self.tell = tell

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Tell the share of the steps that are done."""
        self.tell(trainer.global_step / float(trainer.estimated_stepping_batches))


def fit(
    learner: Learner, batches: Batches, epochs: int, precision: str, seed: int, callbacks: Sequence[pl.Callback]
) -> None:
    """Train; the same seed gives the same network."""
    pl.seed_everything(seed, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=list(callbacks),
    )
    trainer.fit(learner.train(), batches)  # Lightning leaves modules in the mode that they are in


@torch.no_grad()
def logits_of(net: nn.Module, images: Tensor, batch: int = 512) -> Tensor:
    """Logits ``[N, classes]`` in float32, for bytes ``[N, C, H, W]``."""
    net.eval()
    return torch.cat([net(scaled(part)).float() for part in images.split(batch)])


def accuracy(net: nn.Module, part: tuple[Tensor, Tensor]) -> float:
    """Share of images that get the right class."""
    return float((logits_of(net, part[0]).argmax(1) == part[1]).float().mean())


def output_positions(net: nn.Module, image: Tensor) -> dict[str, int]:
    """How many positions the outputs of convolutions and linear layers have for one image, by path."""
    positions: dict[str, int] = {}
    hooks = []
    for path, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def note(_: nn.Module, args: Any, output: Tensor, path: str = path) -> None:
                positions[path] = output[0, 0].numel() if output.ndim == 4 else 1

            hooks.append(module.register_forward_hook(note))
    logits_of(net, image)
    for hook in hooks:
        hook.remove()
    return positions


def measure(net: nn.Module, image: Tensor) -> dict[str, float]:
    """Size and cost of a network.

    Args:
        net: Ternary in parts, or float.
        image: One image, bytes ``[1, C, H, W]``.

    Returns:
        ``sparsity`` and ``entropy`` (bits a weight) of the ternary layers, where there are any; ``weight_bytes``: of
        them in the smallest format; ``bytes``: the same and all other parameters as float32; ``adds`` and
        ``multiplies`` of all convolutions and linear layers for one image.
    """
    forms = {path: layer.ternary() for path, layer in ternary_layers(net).items()}
    zeros, bits, work = Sparsity(), CodeEntropy(), Operations()
    for path, count in output_positions(net, image).items():
        module = net.get_submodule(path)
        weight = forms[path] if path in forms else module.get_parameter("weight").detach()
        work.update(weight, count, module._parameters["bias"] is not None)
    for form in forms.values():
        zeros.update(form)
        bits.update(form)
    ternary = sum(stored_bytes(form) for form in forms.values())
    replaced = sum(form.codes[0].numel() for form in forms.values())
    rest = 4 * (sum(p.numel() for p in net.parameters()) - replaced)
    found: dict[str, float] = {"weight_bytes": ternary, "bytes": ternary + rest}
    if forms:
        found |= {"sparsity": zeros.compute().item(), "entropy": bits.compute().item()}
    return found | {name: int(value) for name, value in work.compute().items()}


def add_biases(net: nn.Module) -> None:
    """Give convolutions without a bias one of zeros."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
