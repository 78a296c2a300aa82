"""Blended coarse gradient descent for weights."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from typing_extensions import override

from tern_lightning.callbacks._masking import WeightCallback
from tern_lightning.functional.bcgd import blend
from tern_lightning.nn.ternary_layers import TernaryLayer, effective_weight
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import check_share


@check_arguments
class BCGD(WeightCallback):
    r"""Let the latent weights of ternary layers drift to their ternary values in every optimizer step.

    :math:`W \leftarrow (1 - \rho) W + \rho Q(W) - \eta \tilde g` where the coarse gradient is taken at Q(W), as the
    straight-through estimator does: Blended Coarse Gradient Descent for Full Quantization of Deep Neural Networks
    (2019). Q is the method of TernaryCallback; the ternary weights of that line of work are those of ``twn``. The
    pull is a weight decay toward the ternary point; ``rho=0`` is the plain estimator. It acts from the start of
    ternary training until the codes are frozen.

    Args:
        rho: Share of the way to the ternary value in every step, in [0, 1).
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.

    Raises:
        ValueError: ``rho`` is out of range.
        MisconfigurationException: None of the layers is trained by TernaryCallback.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback("twn"), BCGD(1e-5), CoarseActivation(bits=4)])
    """

    def __init__(self, rho: float = 1e-5, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> None:
        super().__init__(include, exclude)
        check_share("rho", rho, "[0, 1)")
        self.rho = rho

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not any(isinstance(target.layer, TernaryLayer) for target in self._targets.values()):
            raise MisconfigurationException(
                f"BCGD needs ternary layers, and TernaryCallback trains none of {list(self._targets)}"
            )

    @override
    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        for target, _ in self._of(optimizer):
            layer = target.layer
            moves = target.weight.grad is not None
            if moves and isinstance(layer, TernaryLayer) and layer._ternary_state.phase == "ternary":
                target.weight.copy_(blend(target.weight, effective_weight(layer), self.rho))
