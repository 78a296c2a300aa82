"""Elementary functions as polynomials: LLVM calls the C library once per element for them, which is no SIMD at all.

All work on float32 TIR expressions, scalars or vectors, and keep NaN. With ``fma`` they multiply and add in one
operation, which LLVM makes one instruction where the CPU has it, and two elsewhere; code for graphics processors goes
another way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ACTIVATIONS", "erf", "exp", "gelu", "gelu_tanh", "sigmoid", "silu", "tanh"]

_LOG2E = 1.4426950408889634
# ln 2 in two parts, so that n * ln 2 is exact to 2^-40 (Cody and Waite, Software Manual for the Elementary Functions,
# 1980).
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440e-4
# Minimax polynomial of (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2 (Cephes expf, Moshier 1989).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_EXP_HIGH = 88.72283905206835  # exp of more is infinite in float32
_EXP_LOW = -87.3365  # exp of less is as good as below the smallest normal number: 0
_MAGIC = 12582912.0  # 1.5 * 2**23: added to a float32 below 2**22, it leaves the nearest integer in the low bits
# Rational minimax approximations of Eigen (MathFunctionsImpl.h): odd numerator, even denominator, highest power first.
_TANH_P = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_Q = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
_TANH_CLAMP = 7.90531110763549805
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
_ERF_CLAMP = 4.0


def _constant(value: float, dtype: str) -> Any:
    from tvm import tirx

    return tirx.const(value, dtype)


def _let(name: str, value: Any, body: Any) -> Any:
    """Names a value that is used more than once: expressions nest, and copies of them would grow exponentially."""
    from tvm import tirx

    variable = tirx.Var(name, str(value.ty.dtype))
    return tirx.Let(variable, value, body(variable))


def _multiply_add(a: Any, b: Any, c: Any, fma: bool) -> Any:
    from tvm import tirx

    return tirx.call_intrin(str(a.ty.dtype), "tirx.fma", a, b, c) if fma else a * b + c


def _horner(x: Any, coefficients: tuple[float, ...], fma: bool) -> Any:
    dtype = str(x.ty.dtype)
    result = _constant(coefficients[0], dtype)
    for c in coefficients[1:]:
        result = _multiply_add(result, x, _constant(c, dtype), fma)
    return result


def exp(x: Any, fma: bool = False) -> Any:
    """``e**x`` of a float32 expression; relative error below 2e-7, 0 below -87.3, infinite above 88.7."""
    return _let("x", x, _exp_by_bits if fma else _exp_by_factors)


def _exp_by_bits(x: Any) -> Any:
    """The nearest integer comes from an addition that leaves it in the low bits, and is added to the exponent."""
    from tvm import tirx

    dtype = str(x.ty.dtype)
    integer = dtype.replace("float", "int")

    def scaled(near: Any, r: Any) -> Any:
        # The bits of a NaN, moved as far, are zeros.
        bits = tirx.reinterpret(integer, _mantissa(r, True)) + (
            tirx.reinterpret(integer, near) << _constant(23, integer)
        )
        return _ends(x, tirx.reinterpret(dtype, bits))

    def reduced(near: Any) -> Any:
        r = _let("n", near - _constant(_MAGIC, dtype), lambda n: _rest(x, n, True))
        return _let("r", r, lambda r: scaled(near, r))

    return _let("near", _multiply_add(x, _constant(_LOG2E, dtype), _constant(_MAGIC, dtype), True), reduced)


def _exp_by_factors(x: Any) -> Any:
    """In code for graphics processors constants have six digits, which are too few for the other way."""
    from tvm import tirx

    dtype = str(x.ty.dtype)
    integer = dtype.replace("float", "int")

    def scaled(n: Any, r: Any) -> Any:
        # 2^n in two factors: n = 128 alone is no float32.
        half = tirx.Cast(_type(integer), n * _constant(0.5, dtype))
        rest = tirx.Cast(_type(integer), n) - half
        return _ends(x, _mantissa(r, False) * _power_of_two(half, dtype) * _power_of_two(rest, dtype))

    clipped = tirx.Max(tirx.Min(x, _constant(_EXP_HIGH, dtype)), _constant(_EXP_LOW, dtype))
    near = tirx.floor(clipped * _constant(_LOG2E, dtype) + _constant(0.5, dtype))
    return _let("n", near, lambda n: _let("r", _rest(x, n, False), lambda r: scaled(n, r)))


def _rest(x: Any, n: Any, fma: bool) -> Any:
    """``x - n * ln 2``."""
    dtype = str(x.ty.dtype)
    high = _multiply_add(n, _constant(-_LN2_HIGH, dtype), x, fma)
    return _multiply_add(n, _constant(-_LN2_LOW, dtype), high, fma)


def _mantissa(r: Any, fma: bool) -> Any:
    """``e**r`` for r from -ln(2)/2 to ln(2)/2."""
    return _multiply_add(_horner(r, _EXP, fma), r * r, r, fma) + _constant(1.0, str(r.ty.dtype))


def _ends(x: Any, value: Any) -> Any:
    """The value, where ``e**x`` is in range."""
    from tvm import tirx

    dtype = str(x.ty.dtype)
    value = tirx.Select(x > _constant(_EXP_HIGH, dtype), _constant(float("inf"), dtype), value)
    return tirx.Select(x < _constant(_EXP_LOW, dtype), _constant(0.0, dtype), value)


def _type(dtype: str) -> Any:
    import tvm

    return tvm.ir.PrimType(dtype)


def _power_of_two(n: Any, dtype: str) -> Any:
    """``2.0**n`` of an integer -126..127, by its bits."""
    from tvm import tirx

    integer = str(n.ty.dtype)
    bits = (n + _constant(127, integer)) * _constant(1 << 23, integer)
    return tirx.reinterpret(dtype, bits)


def sigmoid(x: Any, fma: bool = False) -> Any:
    """``1 / (1 + e**-x)``."""
    one = _constant(1.0, str(x.ty.dtype))
    return one / (one + exp(_constant(0.0, str(x.ty.dtype)) - x, fma))


def _rational(x: Any, clamp: float, p: tuple[float, ...], q: tuple[float, ...], fma: bool) -> Any:
    from tvm import tirx

    dtype = str(x.ty.dtype)

    def evaluate(x: Any) -> Any:
        value = _let("x2", x * x, lambda x2: x * _horner(x2, p, fma) / _horner(x2, q, fma))
        # Choices instead of a clamped argument: NaN fails both comparisons and stays NaN.
        value = tirx.Select(x > _constant(clamp, dtype), _constant(1.0, dtype), value)
        return tirx.Select(x < _constant(-clamp, dtype), _constant(-1.0, dtype), value)

    return _let("x", x, evaluate)


def tanh(x: Any, fma: bool = False) -> Any:
    """Hyperbolic tangent; absolute error below 4e-7."""
    return _rational(x, _TANH_CLAMP, _TANH_P, _TANH_Q, fma)


def erf(x: Any, fma: bool = False) -> Any:
    """Error function; absolute error below 4e-7."""
    return _rational(x, _ERF_CLAMP, _ERF_P, _ERF_Q, fma)


def silu(x: Any, fma: bool = False) -> Any:
    """``x * sigmoid(x)``."""
    return _let("x", x, lambda x: x * sigmoid(x, fma))


def gelu(x: Any, fma: bool = False) -> Any:
    """Gaussian Error Linear Units (2016), ``x * Phi(x)``."""
    half, dtype = 0.5, str(x.ty.dtype)

    def evaluate(x: Any) -> Any:
        share = erf(x * _constant(math.sqrt(half), dtype), fma) * _constant(half, dtype)
        return x * (_constant(half, dtype) + share)

    return _let("x", x, evaluate)


def gelu_tanh(x: Any, fma: bool = False) -> Any:
    """Its tanh approximation, same paper, section 2."""
    dtype = str(x.ty.dtype)

    def evaluate(x: Any) -> Any:
        cubic = x * (_constant(1.0, dtype) + _constant(0.044715, dtype) * x * x)
        inner = tanh(cubic * _constant(math.sqrt(2.0 / math.pi), dtype), fma)
        return _constant(0.5, dtype) * x * (_constant(1.0, dtype) + inner)

    return _let("x", x, evaluate)


def _gelu_sigmoid(x: Any, fma: bool) -> Any:
    dtype = str(x.ty.dtype)
    return _let("x", x, lambda x: x * sigmoid(x * _constant(1.702, dtype), fma))


def _hard_sigmoid(x: Any, fma: bool) -> Any:
    from tvm import tirx

    dtype = str(x.ty.dtype)
    zero, three, six = (_constant(value, dtype) for value in (0.0, 3.0, 6.0))
    return tirx.Min(tirx.Max(x + three, zero), six) * _constant(1 / 6, dtype)


def _hard_swish(x: Any, fma: bool) -> Any:
    return _let("x", x, lambda x: x * _hard_sigmoid(x, fma))


ACTIVATIONS: Mapping[str, Callable[[Any, bool], Any]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_sigmoid": _gelu_sigmoid,
    "silu": silu,
    "hardswish": _hard_swish,
    "hardsigmoid": _hard_sigmoid,
    "sigmoid": sigmoid,
    "tanh": tanh,
}
"""By the names of :data:`tvm_schedules.passes.activations.KINDS`."""
