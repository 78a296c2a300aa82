"""Blended coarse gradient descent for weights and activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import Optimizer
from typing_extensions import override

from tern_lightning.callbacks._learned_input import LearnedInputs
from tern_lightning.callbacks._masking import WeightCallback
from tern_lightning.functional.bcgd import Derivative, blend, gaussian_step
from tern_lightning.nn.learned_input import CoarseInput, LearnedInput
from tern_lightning.nn.ternary_layers import TernaryLayer, effective_weight


class BCGD(WeightCallback):
    r"""Let the latent weights of ternary layers drift to their ternary values in every optimizer step.

    :math:`W \leftarrow (1 - \rho) W + \rho Q(W) - \eta \tilde g` where the coarse gradient is taken at Q(W), as the
    straight-through estimator does: Blended Coarse Gradient Descent for Full Quantization of Deep Neural Networks
    (2019). Q is the method of TernaryCallback; the ternary weights of that line of work are those of ``twn``. The
    pull is a weight decay towards the ternary point; ``rho=0`` is the plain estimator. It acts from the start of
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
        if not 0 <= rho < 1:
            raise ValueError(f"rho must be in [0, 1), got {rho}")
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


class CoarseActivation(LearnedInputs):
    """Quantize layer inputs to unsigned integers with a trained step and a coarse derivative.

    See :func:`tern_lightning.functional.bcgd.coarse_activation`. Every layer input has a step of its own, also where
    several layers follow one ReLU module. The step starts at :func:`tern_lightning.functional.bcgd.gaussian_step` times
    the root mean square of the positive inputs in the first training batch; a hundredth of its gradient, limited to
    [-1, 1], moves it within [1e-3, 5]. Nothing is added to the module's parameters, buffers or ``state_dict``.

    Args:
        bits: Width of the integers, 1 to 8.
        derivative: ``mean`` (three values, the paper's choice), ``exact`` or ``two``.
        learning_rate: Of SGD with momentum 0.9 for the steps, >= 0.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers whose inputs stay float.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        bits: int = 4,
        derivative: Derivative = "mean",
        learning_rate: float = 0.01,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(learning_rate, include, exclude)
        gaussian_step(bits)
        if derivative not in get_args(Derivative):
            raise ValueError(f"derivative must be one of {get_args(Derivative)}, got {derivative!r}")
        self.bits, self.derivative = bits, derivative

    def make(self) -> LearnedInput:
        """A hook for one layer."""
        return CoarseInput(self.bits, self.derivative)

    def fits(self, hook: LearnedInput) -> bool:
        """Whether a hook has the same form."""
        return isinstance(hook, CoarseInput) and (hook.bits, hook.derivative) == (self.bits, self.derivative)
