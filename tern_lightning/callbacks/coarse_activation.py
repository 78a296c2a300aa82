"""Layer inputs as unsigned integers with a trained step, the activations of blended coarse gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

from tern_lightning.callbacks._learned_input import LearnedInputs
from tern_lightning.functional.bcgd import Derivative, gaussian_step
from tern_lightning.nn.learned_input import CoarseInput, LearnedInput
from tvm_schedules.common.arguments import check_arguments


@check_arguments
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
        self.bits: int = bits
        self.derivative = derivative

    def make(self) -> LearnedInput:
        """A hook for one layer."""
        return CoarseInput(self.bits, self.derivative)

    def fits(self, hook: LearnedInput) -> bool:
        """Whether a hook has the same form."""
        return isinstance(hook, CoarseInput) and (hook.bits, hook.derivative) == (self.bits, self.derivative)
