"""Powers of two of vectors of float32, by a polynomial between two integers."""

from __future__ import annotations

from typing import Any

from tvm_schedules.compat import Emitter

__all__ = ["MAGIC", "exp2", "exp2_of_product", "polynomial"]

MAGIC = 12582912.0
"""1.5 * 2**23; added to a float32 below 2**22, it leaves the nearest integer in the mantissa's low bits."""

_EXP2 = {
    False: (0.0551717746, 0.242611372, 0.693260970, 0.999928027),
    True: (0.00132669704, 0.00967545975, 0.0555074262, 0.240221218, 0.693146949, 1.00000007),
}
"""2**r for \\|r\\| <= 1/2, relative errors 8e-5 and 8e-8; highest power first."""


def polynomial(e: Emitter, at: Any, coefficients: tuple[float, ...], lanes: int, fma: bool) -> Any:
    """The value of a polynomial, whose coefficients begin with that of the highest power."""
    kind = f"float32x{lanes}"
    value = e.const(coefficients[0], kind)
    for c in coefficients[1:]:
        value = e.fma(value, at, e.const(c, kind)) if fma else value * at + e.const(c, kind)
    return value


def exp2(e: Emitter, power: Any, lanes: int, fma: bool, exact: bool) -> Any:
    """``2**power`` of a vector of numbers from -126 to 126; NaN stays.

    Args:
        e: Emitter of the function.
        power: The vector, bound to a name.
        lanes: Its length.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
        exact: Whether float32's precision is asked for, or less will do.
    """
    i32 = f"int32x{lanes}"
    near = e.bind(e.round(power))
    mantissa = e.bits(polynomial(e, e.bind(power - near), _EXP2[exact], lanes, fma), i32)
    return e.bits(mantissa + (e.cast(near, i32) << e.const(23, i32)), f"float32x{lanes}")


def exp2_of_product(e: Emitter, x: Any, factor: Any, lanes: int, fma: bool, exact: bool) -> Any:
    """``2**(x * factor)`` of two vectors, whose products are from -126 to 126.

    A multiply-add rounds the product to an integer and another one has what is left of it, so that nothing is
    converted: three instructions less than of a product that is there.

    Args:
        e: Emitter of the function.
        x: A vector, bound to a name.
        factor: A vector, bound to a name or a constant.
        lanes: Their length.
        fma: Whether the target multiplies and adds with one rounding in one instruction.
        exact: Whether float32's precision is asked for, or less will do.
    """
    if not fma:
        return exp2(e, e.bind(x * factor), lanes, fma, exact)
    i32, magic = f"int32x{lanes}", e.const(MAGIC, f"float32x{lanes}")
    near = e.bind(e.fma(x, factor, magic))
    rest = e.bind(e.fma(x, factor, magic - near))
    mantissa = e.bits(polynomial(e, rest, _EXP2[exact], lanes, fma), i32)
    return e.bits(mantissa + (e.bits(near, i32) << e.const(23, i32)), f"float32x{lanes}")
