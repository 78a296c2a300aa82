"""Ranges of 8-bit activations and their fake quantization, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tern_lightning.functional.blocks import pieces, scratch
from tern_lightning.nn.token_quantizer import TokenFakeQuantizer, TokenRange, check_bits
from tern_lightning.nn.tracing import as_constant


@dataclass(frozen=True)
class ActivationRange:
    """Unsigned affine quantization of one tensor.

    ``q = clip(round_half_even(x / scale) + zero_point, 0, 2**bits - 1)`` and ``x ~ (q - zero_point) * scale``, as in
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018), eq. 1, and as
    ONNX's QuantizeLinear computes it.

    Attributes:
        scale: Size of one step in units of the tensor, finite and positive.
        zero_point: The integer that stands for zero, in ``[0, 2**bits - 1]``; zero where the tensor has no negative
            values.
        bits: Width of the integers, 2 to 8.

    Raises:
        ValueError: A field is outside its range.

    Example:
        >>> ActivationRange.from_bounds(-1.0, 3.0, bits=2)
        ActivationRange(scale=1.3333333730697632, zero_point=1, bits=2)
    """

    scale: float
    zero_point: int = 0
    bits: int = 8

    def __post_init__(self) -> None:
        check_bits(self.bits)
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be finite and positive, got {self.scale}")
        if not 0 <= self.zero_point <= self.levels:
            raise ValueError(f"zero_point must be in [0, {self.levels}], got {self.zero_point}")

    @property
    def levels(self) -> int:
        """The largest integer, ``2**bits - 1``."""
        return 2**self.bits - 1

    @property
    def low(self) -> float:
        """The smallest value that can be represented, at most zero."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The largest value that can be represented, at least zero."""
        return (self.levels - self.zero_point) * self.scale

    @classmethod
    def from_bounds(cls, low: float, high: float, bits: int = 8) -> ActivationRange:
        """Return the range that covers ``[low, high]`` and zero; a scale is rounded to float32.

        Args:
            low: Smallest value, finite; a positive one counts as zero.
            high: Largest value, finite; a negative one counts as zero. Both zero give scale one.
            bits: Width of the integers, 2 to 8.

        Raises:
            ValueError: A bound is not finite, or ``bits`` is not in 2 to 8.
        """
        check_bits(bits)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"low and high must be finite, got {low} and {high}")
        scale, zero_point = bounds_to_affine(torch.tensor(float(low)), torch.tensor(float(high)), bits)
        return cls(scale.item(), int(zero_point.item()), bits)

    @classmethod
    def union(cls, ranges: Sequence[ActivationRange]) -> ActivationRange:
        """Return a range that covers every one of ``ranges`` (which must not be empty), with the most bits of them."""
        if all(other == ranges[0] for other in ranges):
            return ranges[0]
        bounds = min(r.low for r in ranges), max(r.high for r in ranges)
        return cls.from_bounds(*bounds, bits=max(r.bits for r in ranges))

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round ``x`` to the values that the integers stand for; same shape and dtype, no gradient rule."""
        zero_point = torch.tensor(float(self.zero_point), device=x.device)
        return _snap(x.detach().float(), torch.tensor(self.scale, device=x.device), zero_point, self.levels).to(x.dtype)


def bounds_to_affine(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return float32 ``(scale, zero_point)`` of the range that covers ``[low, high]`` and zero.

    The zero point is rounded, so that zero, the value of padding, is exact; that moves both ends by at most half a
    step. An empty range gives scale one.
    """
    levels = 2**bits - 1
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    scale = ((high - low) / levels).float()
    scale = torch.where(scale > 0, scale.clamp_min(torch.finfo(torch.float32).tiny), torch.ones_like(scale))
    return scale, (-low / scale.double()).round().clamp(0, levels).float()


def _snap(x: Tensor, scale: Tensor, zero_point: Tensor, levels: int) -> Tensor:
    return _snapped(x / scale, scale, zero_point, levels)


def _snapped(steps: Tensor, scale: Tensor, zero_point: Tensor, levels: int) -> Tensor:
    """What ``steps`` of ``scale`` are rounded to, in their memory: fresh memory costs more than the arithmetic."""
    return steps.round_().add_(zero_point).clamp_(0, levels).sub_(zero_point).mul_(scale)


class _FakeQuantize(torch.autograd.Function):
    """Fake quantization with the straight-through gradient and, for the step, the gradient of LSQ."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, levels: int, features: int) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.levels, ctx.features = levels, features
        found = torch.empty_like(x, dtype=torch.float32)
        for part, steps in pieces(x, found):
            _snapped(steps.copy_(part).div_(scale), scale, zero_point, levels)
        return found.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, scale, zero_point = (saved.detach() for saved in ctx.saved_tensors)
        bottom, top = -zero_point, ctx.levels - zero_point
        grad_x, grad_scale, sums = torch.empty_like(grad), None, list[Tensor]()
        for part, upstream, into in pieces(x, grad, grad_x):
            wide = part.float()
            steps = torch.div(wide, scale, out=scratch(wide))
            # With bounds that are tensors clamp takes several times as long.
            clamped = torch.maximum(steps, bottom, out=scratch(wide, 1))
            torch.minimum(clamped, top, out=clamped)
            if ctx.needs_input_grad[1]:
                slope = torch.where(clamped == steps, torch.round(steps) - steps, clamped)
                sums.append((upstream.float() * slope).sum())
            into.copy_(clamped.eq_(steps)).mul_(upstream)
        if sums:
            grad_scale = torch.stack(sums).sum() / torch.sqrt(ctx.features * top.clamp_min(1.0))
        return grad_x if ctx.needs_input_grad[0] else None, grad_scale, None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Quantize and dequantize ``x``; differentiable in ``x`` and ``scale``.

    The gradient passes straight through inside the range and is zero outside. That of ``scale`` is eq. 3 of "Learned
    Step Size Quantization" (2020): ``round(v) - v`` inside the range with ``v = x / scale``, ``-Q_N`` below and ``Q_P``
    above it, here with ``Q_N = zero_point`` and ``Q_P = 2**bits - 1 - zero_point``, times ``1 / sqrt(N * Q_P)``
    (section 2.2) with N the number of features of one sample.

    Args:
        x: Any floating tensor whose first axis is the batch.
        scale: float32 scalar, positive.
        zero_point: float32 scalar holding an integer in ``[0, 2**bits - 1]``.
        bits: Width of the integers, 2 to 8.

    Returns:
        A tensor of ``x``'s shape and dtype; computed in float32.
    """
    levels = 2**bits - 1
    features = max(1, x.numel() // max(1, x.shape[0] if x.ndim > 1 else 1))
    if torch.jit.is_tracing():  # a trace can be saved without functions of this package only
        fixed = as_constant(lambda: torch.stack([scale, zero_point]))
        assert fixed is not None
        return _snap(x.float(), fixed[0], fixed[1], levels).to(x.dtype)
    return _FakeQuantize.apply(x, scale, zero_point, levels, features)


class InputFakeQuantizer:
    """Forward pre-hook that fake-quantizes the first input of a layer and, while ``observing``, follows its range.

    Its tensors are its own, no parameter or buffer of the module: keys of checkpoints do not change, and a deep copy
    of the module gets a copy of them.

    Args:
        bits: Width of the integers, 2 to 8.
        observer: ``"minmax"`` or ``"percentile"``.
        percentile: Percentile in (50, 100] that counts as the largest value, its complement as the smallest.
        ema: Weight of the past in the running bounds, in [0, 1).

    The range is constant while a batch is computed, however often the layer runs for it (modules that use a layer
    twice, gradient checkpointing): what was observed moves it at :meth:`settle`. Its tensors are replaced, never
    written to, because backward may still need them.

    Attributes:
        ready: Whether a range has been observed or loaded; until then inputs pass unchanged.
        observing: Whether inputs are observed.
        seen: The smallest and the largest value observed since the last :meth:`settle`.
        learned: Whether the step is trained (its gradient is then in ``scale.grad``).
    """

    def __init__(self, bits: int, observer: str = "minmax", percentile: float = 99.99, ema: float = 0.9) -> None:
        self.bits, self.observer, self.percentile, self.ema = bits, observer, percentile, ema
        self.ready = self.observing = self.learned = False
        self.low, self.high = torch.zeros(()), torch.zeros(())
        self.scale, self.zero_point = torch.ones(()), torch.zeros(())
        self.velocity = torch.zeros(())
        self.seen: tuple[Tensor, Tensor] | None = None

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the inputs with the first one fake-quantized, None to leave them alone."""
        if not inputs or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
            return None
        x = inputs[0]
        if self.scale.device != x.device:
            self.to(x.device)
        if self.observing:
            self.observe(x)
        if not self.ready:
            return None
        return (fake_quantize(x, self.scale, self.zero_point, self.bits), *inputs[1:])

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Remember the bounds of ``x`` together with those of other inputs of the batch."""
        low, high = observe_bounds(x, self.percentile if self.observer == "percentile" else None)
        if self.seen is not None:
            low, high = torch.minimum(low, self.seen[0]), torch.maximum(high, self.seen[1])
        self.seen = low, high

    @torch.no_grad()
    def settle(self) -> None:
        """Move the running bounds toward those of the batch (to them, the first time)."""
        if self.seen is None:
            return
        (low, high), self.seen = self.seen, None
        if self.ready:
            low, high = torch.lerp(low, self.low, self.ema), torch.lerp(high, self.high, self.ema)
        self.set_bounds(low, high)

    @torch.no_grad()
    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Take ``low`` and ``high`` as the range."""
        device = self.scale.device
        self.low, self.high = (bound.detach().to(device, torch.float32).clone() for bound in (low, high))
        self.scale, self.zero_point = bounds_to_affine(self.low, self.high, self.bits)
        self.scale.requires_grad_(self.learned)
        self.ready = True

    def learn(self) -> None:
        """Train the step from now on."""
        self.learned = True
        self.scale.requires_grad_(True)

    @torch.no_grad()
    def step(self, grad: Tensor, learning_rate: float, momentum: float = 0.9) -> None:
        """One step of SGD with momentum; the scale at most halves, so that it stays positive."""
        self.velocity.mul_(momentum).add_(grad)
        scale = torch.maximum(self.scale - learning_rate * self.velocity, self.scale / 2)
        self.scale = scale.requires_grad_(self.learned)

    def to(self, device: torch.device) -> None:
        """Move the tensors; they stay ordinary tensors when the first use is in inference mode."""
        with torch.inference_mode(False), torch.no_grad():
            for name in ("low", "high", "scale", "zero_point", "velocity"):
                setattr(self, name, getattr(self, name).detach().to(device).clone())
            self.scale.requires_grad_(self.learned)

    def range(self) -> ActivationRange:
        """The range that is in use; the hook must be ready."""
        return ActivationRange(self.scale.item(), int(self.zero_point.item()), self.bits)

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU and plain values."""
        tensors = {
            n: getattr(self, n).detach().cpu().clone() for n in ("low", "high", "scale", "zero_point", "velocity")
        }
        return {**tensors, "bits": self.bits, "ready": self.ready, "learned": self.learned}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave."""
        for name in ("low", "high", "scale", "zero_point", "velocity"):
            setattr(self, name, state[name].detach().to(self.scale.device).clone())
        self.bits, self.ready, self.seen = state["bits"], state["ready"], None
        self.scale.requires_grad_(self.learned)
        if state["learned"]:
            self.learn()


LayerRange = ActivationRange | TokenRange
"""How the inputs of a layer are rounded."""


def saved_range(state: Mapping[str, Any]) -> LayerRange:
    """How a layer's inputs are rounded by what ``state_dict`` of its quantizer gave."""
    if state.get("granularity") == "per_token":
        return TokenRange(int(state["bits"]))
    return ActivationRange(float(state["scale"]), int(state["zero_point"]), int(state["bits"]))


def observe_bounds(x: Tensor, percentile: float | None = None) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest value of ``x`` as float32 scalars, or a percentile and its complement.

    Percentiles are interpolated linearly and taken over at most ``2**18`` evenly spaced elements of ``x``.
    """
    flat = x.detach().float().flatten()
    if percentile is None:
        low, high = torch.aminmax(flat)
        return low, high
    flat = flat[:: max(1, math.ceil(flat.numel() / 2**18))]
    share = torch.tensor([1.0 - percentile / 100.0, percentile / 100.0], device=x.device, dtype=torch.float64)
    low, high = torch.quantile(flat.double(), share).float()
    return low, high


def layer_quantizers(module: nn.Module) -> dict[str, InputFakeQuantizer | TokenFakeQuantizer]:
    """Return the fake quantizers installed in a module, by layer path; a shared layer's under each of its paths."""
    return {
        path: hook
        for path, layer in module.named_modules(remove_duplicate=False)
        for hook in layer._forward_pre_hooks.values()
        if isinstance(hook, InputFakeQuantizer | TokenFakeQuantizer)
    }


def input_quantizers(module: nn.Module) -> dict[str, InputFakeQuantizer]:
    """Return those of :func:`layer_quantizers` that have a range of their own."""
    return {path: hook for path, hook in layer_quantizers(module).items() if isinstance(hook, InputFakeQuantizer)}


def activation_ranges(module: nn.Module) -> dict[str, LayerRange]:
    """Return the ranges that a module's layer inputs were trained with, by layer path."""
    return {path: hook.range() for path, hook in layer_quantizers(module).items() if hook.ready}


def remove_fake_quantizers(module: nn.Module) -> None:
    """Take every fake quantizer out of a module, which then has float activations."""
    for layer in module.modules():
        hooks = layer._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, InputFakeQuantizer | TokenFakeQuantizer)]:
            del hooks[key]
