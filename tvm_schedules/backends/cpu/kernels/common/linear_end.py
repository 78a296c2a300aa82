"""The end of a linear layer whose output channels are side by side: scale, bias, residual, clip, rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tvm_schedules.backends.cpu.kernels.common.epilogue import MAGIC
from tvm_schedules.compat import Emitter

__all__ = ["Outputs", "Rows", "arguments_of", "finish_outputs", "views_of"]


class Outputs(Protocol):
    """The part of a kernel's specification that the end depends on."""

    @property
    def outputs(self) -> int:
        """Output channels."""

    @property
    def out(self) -> str:
        """``"uint8"`` or ``"float32"``."""

    @property
    def fma(self) -> bool:
        """Whether the target has a fused multiply-add."""


class Rows(Outputs, Protocol):
    """The part of a specification that the arguments depend on."""

    @property
    def batch(self) -> int:
        """Rows."""

    @property
    def padded(self) -> int:
        """Output channels rounded up to whole register blocks."""

    @property
    def residual(self) -> str | None:
        """Type of a residual ``[M, O]``, or None."""


def arguments_of(spec: Rows, values: str) -> list[tuple[str, str]]:
    """Names and types of ``x, values, scale, bias, params, [residual,] out``.

    Args:
        spec: Specification of the kernel.
        values: Type of the packed weights.
    """
    numbers = [(name, "float32") for name in ("scale", "bias", "params")]
    residual = [("residual", spec.residual)] if spec.residual else []
    return [("x", "uint8"), ("values", values), *numbers, *residual, ("out", spec.out)]


def views_of(e: Emitter, spec: Rows, pointers: Sequence[Any]) -> dict[str, Any]:
    """The buffers that :func:`finish_outputs` takes.

    Args:
        e: Emitter of the function.
        spec: Specification of the kernel.
        pointers: The arguments of :func:`arguments_of`.
    """
    total = spec.batch * spec.outputs
    scale, bias = (e.view(pointer, spec.padded, "float32") for pointer in pointers[2:4])
    params, out = e.view(pointers[4], 4, "float32"), e.view(pointers[-1], total, spec.out)
    residual = e.view(pointers[5], total, spec.residual) if spec.residual else None
    return {"scale": scale, "bias": bias, "params": params, "residual": residual, "out": out}


def _residual(e: Emitter, spec: Outputs, lanes: int, residual: Any, m: Any, first: Any) -> Any:
    """The residual of a vector of channels; nothing past the last channel is read."""
    total = spec.outputs
    row, at, edge = e.local(lanes, "float32"), m * total + first, e.expr(first) + lanes
    with e.when(edge <= total):
        e.store(row, 0, e.cast(e.load(residual, at, lanes), f"float32x{lanes}"), lanes)
    if total % lanes:
        with e.when(edge > total), e.loop(total % lanes) as i, e.when(e.expr(first) < total):
            e.store(row, i, e.cast(e.load(residual, at + i), "float32"))
    return e.load(row, 0, lanes)


def finish_outputs(
    e: Emitter, spec: Outputs, lanes: int, views: Mapping[str, Any], value: Any, m: Any, first: Any
) -> None:
    """Stores a vector of output channels.

    Args:
        e: Emitter of the function.
        spec: Specification of the kernel.
        lanes: Channels a vector.
        views: Buffers ``scale``, ``bias`` (of whole vectors), ``params``, ``residual`` (or None) and ``out``.
        value: Sums, float32.
        m: Row.
        first: The first of the channels.
    """
    f32, i32, total = f"float32x{lanes}", f"int32x{lanes}", spec.outputs
    params, residual, out = (views[name] for name in ("params", "residual", "out"))
    factor, offset = e.load(views["scale"], first, lanes), e.load(views["bias"], first, lanes)
    y = e.fma(value, factor, offset) if spec.fma else value * factor + offset
    if residual is not None:
        other, weight = _residual(e, spec, lanes, residual, m, first), e.splat(e.load(params, 0), lanes)
        y = e.fma(other, weight, y) if spec.fma else y + other * weight
    low, high = (e.splat(e.load(params, i), lanes) for i in (1, 2))
    y = e.min(e.max(y, low), high)
    if spec.out == "uint8":
        y = e.cast(e.bits(y + e.const(MAGIC, f32), i32), f"uint8x{lanes}")
    whole = e.expr(first) + lanes <= total
    with e.when(whole):
        e.store(out, m * total + first, y, lanes)
    if total % lanes:
        rest = e.local(lanes, spec.out)
        e.store(rest, 0, y, lanes)
        with e.loop(total % lanes) as i, e.when((e.expr(first) < total) & (e.expr(first) + lanes > total)):
            e.store(out, m * total + first + i, e.load(rest, i))
