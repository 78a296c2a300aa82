"""Activation functions in epilogues: half of the operations that they take elsewhere.

Functions of sigmoid shape are ``x / (1 + 2**(x * P(x * x)))`` with a polynomial P. For results of 8 bits GELU has that
shape too, with a fit to the normal distribution: minimax over 0 to 6, and all errors are below 5e-5. Others are as in
:mod:`tvm_schedules.fallback.approximations`.
"""

from __future__ import annotations

from math import log2, pi, sqrt
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.exponentials import exp2, polynomial
from tvm_schedules.compat import Emitter
from tvm_schedules.fallback.approximations import ACTIVATIONS

__all__ = ["activated"]

_LOG2E = log2(2.718281828459045)
_GATES = {
    "silu": (-_LOG2E,),
    "sigmoid": (-_LOG2E,),
    "gelu_sigmoid": (-1.702 * _LOG2E,),
    "gelu_tanh": (-2 * sqrt(2 / pi) * 0.044715 * _LOG2E, -2 * sqrt(2 / pi) * _LOG2E),
    "gelu": (0.0010142667033779126, -0.10677574867743085, -2.301121309537491),
}
"""Polynomials P, highest power first."""
_LARGEST = 40.0
"""Squares are cut there: beyond it gates are 0 or 1."""


def activated(e: Emitter, kind: str, x: Any, lanes: int, fma: bool, exact: bool) -> Any:
    """An activation function of a vector of float32.

    Args:
        e: Emitter of the function.
        kind: Its name in :data:`tvm_schedules.passes.activations.KINDS`.
        x: The vector.
        lanes: Its length.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
        exact: Whether float32's precision is asked for.
    """
    if kind not in _GATES or (exact and kind == "gelu"):
        return ACTIVATIONS[kind](x)
    f32 = f"float32x{lanes}"

    def number(value: float) -> Any:
        return e.const(value, f32)

    x = e.bind(x)
    square = e.bind(e.min(x * x, number(_LARGEST))) if len(_GATES[kind]) > 1 else x
    inner = polynomial(e, square, _GATES[kind], lanes, fma)
    power = e.bind(e.min(e.max(x * inner, number(-126.0)), number(126.0)))
    return (number(1.0) if kind == "sigmoid" else x) / (number(1.0) + exp2(e, power, lanes, fma, exact))
