"""Activation functions in epilogues: half of the operations that they take elsewhere.

Functions of sigmoid shape are ``x / (1 + 2**(x * P(x * x)))`` with a polynomial P. For results of 8 bits GELU has that
shape too, with a fit to the normal distribution: minimax over 0 to 6, and all errors are below 5e-5. Others are as in
:mod:`tvm_schedules.fallback.approximations`.
"""

from __future__ import annotations

from math import log2, pi, sqrt
from typing import Any

from tvm_schedules.backends.cpu.kernels.common.exponentials import exp2_of_product, polynomial
from tvm_schedules.compat import Emitter
from tvm_schedules.fallback.approximations import ACTIVATIONS
from tvm_schedules.lowering.epilogue import ENDS

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


def activated(e: Emitter, kind: str, x: Any, lanes: int, fma: bool, exact: bool, factors: int = 0) -> Any:
    """An activation function of a vector of float32.

    Args:
        e: Emitter of the function.
        kind: Its name in :data:`tvm_schedules.passes.activations.KINDS`.
        x: The vector.
        lanes: Its length.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
        exact: Whether float32's precision is asked for.
        factors: What :func:`~tvm_schedules.lowering.epilogue.power_factors` says of the numbers.
    """
    if kind not in _GATES or (exact and kind == "gelu"):
        return ACTIVATIONS[kind](x, True)
    f32 = f"float32x{lanes}"

    def number(value: float) -> Any:
        return e.const(value, f32)

    x = e.bind(x)
    end, inner = ENDS[kind], tuple(c / max(1, factors) for c in _GATES[kind])
    if not factors:  # the constant first: a NaN is what comes second
        x = e.bind(e.max(number(-end), x))
    within = x if factors else e.bind(e.min(x, number(end)))
    factor = number(inner[0])
    if len(inner) > 1:
        factor = e.bind(polynomial(e, e.bind(within * within), inner, lanes, fma))
    power = exp2_of_product(e, within, factor, lanes, fma, exact)
    if factors < 2:
        gate = number(1.0) + power
    else:
        power = e.bind(power)
        gate = e.fma(power, power, number(1.0)) if fma else number(1.0) + power * power
    return (number(1.0) if kind == "sigmoid" else x) / gate
