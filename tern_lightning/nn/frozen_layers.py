r"""Layers of frozen codes with one level, which train without the gradient of a whole weight.

A linear or convolution layer is :math:`y = l \, (T * x) + b` with codes :math:`T` and one level :math:`l`, linear in
its input as well as in its weight :math:`W = l T`. So :math:`\langle W, dL/dW \rangle = \langle x, dL/dx \rangle`, and
the gradient of the level is known from that of the input, which a step of training computes anyway:

.. math:: S = \langle T, dL/dW \rangle = \langle x, dL/dx \rangle / l

The gradient of the latent weight is :math:`T S / N` (:func:`tern_lightning.functional.frozen_levels`). The third of a
step's arithmetic that the gradients of weights take is not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern_lightning.functional.blocks import blocks
from tern_lightning.functional.frozen import FrozenCodes

_CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


@dataclass(frozen=True)
class Operation:
    """What a layer computes of its input, weight and bias; ``dims`` is None for a linear layer."""

    dims: int | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @classmethod
    def of(cls, base: type[nn.Module], layer: nn.Module) -> Operation | None:
        """That of a layer whose own class is ``base``; None if its forward is none of those of torch."""
        if base.forward is nn.Linear.forward:
            return cls()
        for dims, kind in enumerate(_CONVOLUTIONS, 1):
            if base.forward is kind.forward and base._conv_forward is kind._conv_forward:  # type: ignore[attr-defined]
                assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
                if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
                    return None
                return cls(dims, layer.stride, layer.padding, layer.dilation, layer.groups)
        return None

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output."""
        if self.dims is None:
            return F.linear(x, weight, bias)
        options = (self.stride, self.padding, self.dilation, self.groups)
        return list(_CONVOLUTIONS.values())[self.dims - 1](x, weight, bias, *options)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, with_bias: bool) -> tuple[Tensor, Tensor | None]:
        """Gradients of the input and of the bias."""
        if self.dims is None:
            return grad @ weight, grad.reshape(-1, grad.shape[-1]).sum(0) if with_bias else None
        place = (self.stride, self.padding, self.dilation, False, [0] * self.dims, self.groups)
        sizes = [weight.shape[0]] if with_bias else None
        own, _, bias = torch.ops.aten.convolution_backward(grad, x, weight, sizes, *place, [True, False, with_bias])
        return own, bias


class _Layer(torch.autograd.Function):
    """A layer that gets its weight and level ready made, and hands their gradient to the latent weight."""

    @staticmethod
    def forward(
        x: Tensor,
        latent: Tensor,
        bias: Tensor | None,
        weight: Tensor,
        level: Tensor,
        frozen: FrozenCodes,
        operation: Operation,
    ) -> Tensor:
        return operation.forward(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, latent, bias, weight, level, ctx.frozen, ctx.operation = inputs
        # The latent weight itself may change before backward: it is only read for a second derivative.
        ctx.latent, ctx.version, ctx.bias = latent, latent._version, bias
        ctx.save_for_backward(x, weight, level)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, level = ctx.saved_tensors
        if torch.is_grad_enabled():
            own: list[Tensor | None] = _again(ctx, x, grads[0])
        else:
            toward_x, toward_bias = ctx.operation.backward(grads[0], x, weight, ctx.needs_input_grad[2])
            own = [toward_x, ctx.frozen.gradient(inner(x, toward_x) / level), toward_bias]
        return *own, None, None, None, None


def _again(ctx: Any, x: Tensor, grad: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated once more."""
    if ctx.latent._version != ctx.version:
        raise RuntimeError("a weight was changed between forward and backward, whose second derivative is wanted")
    inputs = [one for one, needed in zip((x, ctx.latent, ctx.bias), ctx.needs_input_grad, strict=False) if needed]
    output = ctx.operation.forward(x, ctx.frozen.values(ctx.latent), ctx.bias)
    found = iter(torch.autograd.grad(output, inputs, grad, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of two float32 tensors of one shape, without a tensor of the products where it can be."""
    if not (a.is_contiguous() and b.is_contiguous()):
        return (a * b).sum()
    return torch.stack([torch.dot(p[0], q[0]) for p, q in blocks(a.view(1, -1), b.view(1, -1))]).sum()


def run(x: Tensor, latent: Tensor, bias: Tensor | None, frozen: FrozenCodes, operation: Operation) -> Tensor:
    """A layer's output, for which :func:`possible` is true."""
    with torch.no_grad():
        weight, level = frozen.weigh(latent)
    found: Tensor = _Layer.apply(x, latent, bias, weight, level, frozen, operation)
    return found


def possible(x: Any, latent: Tensor, bias: Tensor | None, operation: Operation) -> bool:
    """Whether a layer can be computed so: a step of plain float32 training, in which the input needs a gradient too."""
    if type(x) is not Tensor or type(latent) is not nn.Parameter or not torch.is_grad_enabled():
        return False
    if not (x.requires_grad and latent.requires_grad and latent.is_contiguous()) or x.device != latent.device:
        return False
    if any(one.dtype != torch.float32 for one in (x, latent, latent if bias is None else bias)):
        return False
    if x.layout != torch.strided or x.is_nested or (operation.dims is not None and x.ndim != operation.dims + 2):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return False
    try:
        x.data_ptr()
    except RuntimeError:  # a tensor of torch.func, or of a tracer
        return False
    return x.numel() > 0
