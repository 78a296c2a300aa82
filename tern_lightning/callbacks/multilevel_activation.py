"""Multi-level ternary activations."""

from __future__ import annotations

from collections.abc import Sequence

from tern_lightning.callbacks._learned_input import LearnedInputs
from tern_lightning.nn.learned_input import LearnedInput, MultiLevelInput
from tvm_schedules.common.arguments import check_arguments


@check_arguments
class MultiLevelActivation(LearnedInputs):
    r"""Round layer inputs to sums of ternary digits :math:`\sum_i \gamma_i S_i` with trained levels.

    See :func:`tern_lightning.functional.multilevel.multilevel_activation`; the levels start from the first training
    batch, which passes unchanged, with sum 2 RMS(x). Nothing is added to the module's parameters, buffers or
    ``state_dict``.

    Args:
        terms: Number of digits M, >= 1.
        signed: Digits -1, 0, 1 instead of 0, 1, for inputs that may be negative.
        uniform: One trained level for all digits: the values are 0, g, .., M g (and their negatives if signed).
        learning_rate: Of SGD with momentum 0.9 for the levels, >= 0.
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers whose inputs stay float.

    Raises:
        ValueError: An argument is out of range.

    Example::

        methods = TernaryCallback("multilevel", options={"terms": 2}), MultiLevelActivation(terms=2)
        trainer = Trainer(callbacks=[*methods, AccuracyGuidedPruning(monitor="val_accuracy")])
    """

    def __init__(
        self,
        terms: int = 2,
        signed: bool = False,
        uniform: bool = False,
        learning_rate: float = 1e-3,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(learning_rate, include, exclude)
        if terms < 1:
            raise ValueError(f"terms must be at least 1, got {terms}")
        self.terms: int = terms
        self.signed: bool = signed
        self.uniform: bool = uniform

    def make(self) -> LearnedInput:
        """A hook for one layer."""
        return MultiLevelInput(self.terms, self.signed, self.uniform)

    def fits(self, hook: LearnedInput) -> bool:
        """Whether a hook has the same form."""
        own = self.terms, self.signed, self.uniform
        return isinstance(hook, MultiLevelInput) and (hook.terms, hook.signed, hook.uniform) == own
