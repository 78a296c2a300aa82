"""Quantizers of layer inputs with a few trained numbers: hooks, outside the module's parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from tern_lightning.functional.bcgd import Derivative, coarse_activation, gaussian_step
from tern_lightning.functional.multilevel import activation_digits, multilevel_activation
from tern_lightning.nn.activation_quantizer import ActivationRange
from tern_lightning.nn.tracing import as_constant


class LearnedInput(ABC):
    """Forward pre-hook that quantizes the first input of a layer with trained numbers.

    Its tensors are its own, no parameter or buffer of the module, so that keys of checkpoints do not change; a deep
    copy of the module gets a copy of them. The first training batch passes unchanged and is observed. ``value`` is
    replaced, never written to, because backward may still need it.

    Attributes:
        value: The trained numbers, float32 ``[n]``.
        ready: Whether they have been initialized.
        observing: Whether inputs are observed.
        fixed: Whether the layer is in evaluation mode, where the numbers are constants.
        last: The input of the last forward while ``recording``, before it is quantized.
    """

    kind: ClassVar[str]
    """Name of the form in checkpoints."""

    def __init__(self, size: int) -> None:
        self.value: Tensor = torch.ones(size)
        self.velocity: Tensor = torch.zeros(size)
        self.statistic: Tensor = torch.zeros(2)
        self.ready: bool = False
        self.observing = False
        self.recording = False
        self.fixed: bool = False
        self.last: Tensor | None = None

    def numbers(self) -> Tensor:
        """``value``, with its gradient in training."""
        if torch.jit.is_tracing():
            return cast(Tensor, as_constant(lambda: self.value.clone()))
        return self.value.detach() if self.fixed else self.value

    @abstractmethod
    def quantize(self, x: Tensor) -> Tensor:
        """The quantized input, differentiable in ``value``."""

    @abstractmethod
    def initial(self, size: float) -> Tensor:
        """The first ``value`` for inputs whose observed size is ``size``."""

    @abstractmethod
    def form(self) -> dict[str, Any]:
        """The arguments that make such a hook."""

    @abstractmethod
    def write(self, x: Tensor, value: list[float]) -> Tensor:
        """The quantized input by the operators that a file shall have; equal but for values on an edge.

        Args:
            x: The layer input, of any shape.
            value: The trained numbers, which are constants of the trace.
        """

    def range(self) -> ActivationRange | None:
        """Integers that stand for what :meth:`write` gives; None where it gives dequantized integers already."""
        return None

    def measure(self, x: Tensor) -> Tensor:
        """The squares that the observed size is the root mean of."""
        return x.square()

    def limit(self, value: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient to use, and the smallest and largest value after a step."""
        return grad, value / 2, torch.full_like(value, torch.inf)

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the inputs with the first one quantized, None to leave them alone."""
        if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
            return None
        x, self.fixed = inputs[0], not layer.training
        if self.value.device != x.device:
            self.to(x.device)
        if self.observing:
            squares = self.measure(x.detach().float())
            self.statistic += torch.stack([squares.sum(), squares.new_tensor(float(squares.numel()))])
        if self.recording:
            self.last = x.detach()
        return (self.quantize(x), *inputs[1:]) if self.ready else None

    def start(self, total: Tensor) -> None:
        """Initialize from the sum and number of observed squares."""
        if total[1] > 0 and total[0] > 0:
            self.value = self.initial(float((total[0] / total[1]).sqrt())).to(self.value)
            self.value.requires_grad_()
            self.ready = True

    @torch.no_grad()
    def step(self, grad: Tensor, learning_rate: float, momentum: float = 0.9) -> None:
        """One step of SGD with momentum."""
        grad, low, high = self.limit(self.value.detach(), grad)
        self.velocity.mul_(momentum).add_(grad)
        moved = self.value.detach() - learning_rate * self.velocity
        self.value = torch.minimum(torch.maximum(moved, low), high).requires_grad_()

    def to(self, device: torch.device) -> None:
        """Move the tensors; they stay ordinary tensors when the first use is in inference mode."""
        with torch.inference_mode(False), torch.no_grad():
            for name in ("value", "velocity", "statistic"):
                setattr(self, name, getattr(self, name).detach().to(device).clone())
            self.value.requires_grad_(self.ready)

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU and plain values."""
        tensors = {n: getattr(self, n).detach().cpu().clone() for n in ("value", "velocity", "statistic")}
        return {**tensors, "ready": self.ready, "form": {"kind": self.kind, **self.form()}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        Raises:
            ValueError: A tensor has another shape, or a value that is not finite.
        """
        for name in ("value", "velocity", "statistic"):
            shape = getattr(self, name).shape
            if state[name].shape != shape or not bool(state[name].isfinite().all()):
                raise ValueError(f"{name} must be finite numbers of shape {list(shape)}, got {state[name]}")
            setattr(self, name, state[name].to(self.value.device).clone())
        self.ready = state["ready"]
        self.value.requires_grad_(self.ready)


class MultiLevelInput(LearnedInput):
    """Rounds an input to a sum of ternary digits with trained levels.

    Args:
        terms: Number of digits, >= 1.
        signed: Whether digits may be negative.
        uniform: Whether all digits share one level.
    """

    kind = "multilevel"

    def __init__(self, terms: int, signed: bool, uniform: bool) -> None:
        super().__init__(1 if uniform else terms)
        self.terms: int = terms
        self.signed: bool = signed
        self.uniform: bool = uniform

    def levels(self) -> Tensor:
        """The levels of all digits, float32 ``[terms]``."""
        return self.numbers().expand(self.terms)

    def quantize(self, x: Tensor) -> Tensor:
        """The rounded input."""
        return multilevel_activation(x, self.levels(), self.signed)

    def initial(self, size: float) -> Tensor:
        """Levels that sum up to twice the root mean square, equal or in the ratio M to M - 1 .. to 1."""
        if self.uniform:
            return torch.tensor([2 * size / self.terms])
        shares = torch.arange(self.terms, 0, -1, dtype=torch.float32)
        return 2 * size * shares / shares.sum()

    def form(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"terms": self.terms, "signed": self.signed, "uniform": self.uniform}

    def write(self, x: Tensor, value: list[float]) -> Tensor:
        """Integers if all levels are equal, else the sum of the digits by rounding."""
        levels = value * self.terms if self.uniform else value
        if len(set(levels)) == 1:
            return quantize_linear(x, levels[0], self.terms * self.signed, self.terms * (1 + self.signed))
        total = torch.zeros_like(x)
        for level in levels:
            digit = torch.round(x / level).clamp(-1 if self.signed else 0, 1) * level
            x, total = x - digit, total + digit
        return total

    def range(self) -> ActivationRange | None:
        """The coarsest grid of 8 bits that all sums of digits lie on."""
        levels = self.levels().detach().tolist()
        if len(set(levels)) == 1:
            return None
        step, counts = common_grid(levels, 127 if self.signed else 255)
        top = sum(counts)
        return ActivationRange(step, top * self.signed, max(2, (top * (1 + self.signed)).bit_length()))

    def digits(self, x: Tensor) -> Tensor:
        """The digits of an input, int8 ``[terms, *x.shape]``."""
        return activation_digits(x, self.levels().detach(), self.signed)


class CoarseInput(LearnedInput):
    """Rounds an input up to a multiple of a trained step.

    Args:
        bits: Width of the integers, 1 to 8.
        derivative: Coarse derivative of the step.
    """

    kind = "coarse"

    def __init__(self, bits: int, derivative: Derivative) -> None:
        super().__init__(1)
        self.bits: int = bits
        self.derivative = derivative

    def quantize(self, x: Tensor) -> Tensor:
        """The rounded input."""
        return coarse_activation(x, self.numbers()[0], self.bits, self.derivative)

    def form(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"bits": self.bits, "derivative": self.derivative}

    def write(self, x: Tensor, value: list[float]) -> Tensor:
        """Integers: rounding up is rounding half a step later."""
        (step,) = value
        return quantize_linear(x + step / 2, step, 0, 2**self.bits - 1)

    def measure(self, x: Tensor) -> Tensor:
        """The squares of positive inputs, which are those of a rectified normal variable after normalization."""
        return x[x > 0].square()

    def initial(self, size: float) -> Tensor:
        """The step that is best for a rectified normal variable."""
        return torch.tensor([gaussian_step(self.bits) * size])

    def limit(self, value: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The published safeguards: a hundredth of the gradient within [-1, 1], a step within [1e-3, 5]."""
        return (0.01 * grad).clamp(-1, 1), torch.full_like(value, 1e-3), torch.full_like(value, 5.0)


def learned_hooks(module: nn.Module) -> list[LearnedInput]:
    """All such hooks of a module."""
    hooks = (hook for layer in module.modules() for hook in layer._forward_pre_hooks.values())
    return [hook for hook in hooks if isinstance(hook, LearnedInput)]


def learned_inputs(module: nn.Module) -> dict[str, LearnedInput]:
    """The hooks with trained numbers that are in use, by layer path; a shared layer's under each of its paths."""
    return {
        path: hook
        for path, layer in module.named_modules(remove_duplicate=False)
        for hook in layer._forward_pre_hooks.values()
        if isinstance(hook, LearnedInput) and hook.ready
    }


INPUT_KINDS: dict[str, type[LearnedInput]] = {hook.kind: hook for hook in (MultiLevelInput, CoarseInput)}


def quantize_linear(x: Tensor, step: float, zero_point: int, top: int) -> Tensor:
    """Clip to ``[0, top]`` in steps from ``zero_point`` and round; traced as Clip, QuantizeLinear, DequantizeLinear."""
    clipped = x.clamp(-zero_point * step, (top - zero_point) * step)
    return torch.fake_quantize_per_tensor_affine(clipped, step, zero_point, 0, 255)


def common_grid(levels: list[float], most: int) -> tuple[float, list[int]]:
    """The coarsest grid with every level at most an eighth of an 8-bit step off, or the finest of ``most`` steps.

    Args:
        levels: The levels of all digits, all positive.
        most: The largest sum of the integers.

    Returns:
        The step and each level's integer.

    Example:
        >>> common_grid([1.0, 0.5], 255)
        (0.5, [2, 1])
    """
    total, largest = sum(levels), max(levels)
    best: tuple[float, float, list[int]] = (math.inf, 0.0, [])
    for count in range(1, most + 1):
        counts = [round(level * count / largest) for level in levels]
        if sum(counts) > most:
            break
        step = sum(n * level for n, level in zip(counts, levels, strict=True)) / sum(n * n for n in counts)
        error = sum(abs(level - n * step) for n, level in zip(counts, levels, strict=True))
        if error < best[0]:
            best = error, step, counts
        if error <= total / 2048:
            break
    return best[1], best[2]


def write_learned_inputs(module: nn.Module) -> None:
    """Let the hooks compute by :meth:`LearnedInput.write` from now on, so that a trace has these operators."""
    for layer in module.modules():
        hooks = layer._forward_pre_hooks
        for key, hook in list(hooks.items()):
            if isinstance(hook, LearnedInput):
                hooks[key] = _Written(hook)


class _Written:
    """The forward pre-hook that stands for a :class:`LearnedInput` in a trace."""

    def __init__(self, hook: LearnedInput) -> None:
        self.hook, self.value = hook, hook.value.tolist()

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.hook.write(inputs[0], self.value), *inputs[1:]) if self.hook.ready else inputs
