"""The epilogue in whole numbers, for cores without floating point; it gives the floats' bytes, bit for bit.

With the sum ``s`` of a channel and the residual ``r``, both integers, the byte is the nearest integer to
``y = s * scale + bias + r * factor``. In units of ``2**-bits`` and with one half added that is about
``p = s * table[0] / 2**shift + table[1] + r * residual``, in 32 bits, and the byte is ``p >> bits``. The quotient is
made of the upper and the lower bits of the sum: ``(s >> shift) * table[0] + ((s & 2**shift - 1) * table[0] >> shift)``.
What ``p`` and the rounding of the floats may be away from the exact number is known beforehand: ``near``. Where ``p``
lies so near to a whole number, the float formula decides, in software; everywhere else both give the same. A channel
whose numbers reach too far for that is left to floats as a whole: its ``table[1]`` is :data:`LEFT`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fixed", "fixed"]

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

MOST = 0.5
"""Share of the numbers that may have to be decided by floats."""

LEFT = -(2**31)
"""In the place of an addend: floats decide everything. No other addend is as small."""

FEW_BITS = 13
"""Sums of so many bits are multiplied as a whole: the multiplier's rounding makes too little of them to matter."""


@dataclass(frozen=True)
class Fixed:
    """Numbers of the formula above.

    Attributes:
        table: ``[channels, 2]``.
        residual: Multiplier of the residual.
        shift: Bits of the sum that are multiplied apart from the others.
        bits: Bits after the point.
        near: Distance from a whole number within which floats decide.
    """

    table: npt.NDArray[np.int32]
    residual: int
    shift: int
    bits: int
    near: int


def fixed(scale: Floats, bias: Floats, factor: float, sums: Integers) -> Fixed | None:
    """Chooses the numbers so that nothing overflows and as little as can be is left to floats.

    Args:
        scale: Of every channel.
        bias: Of every channel.
        factor: Of the residual, which is a byte; 0 where there is none.
        sums: The largest absolute sum of every channel.

    Returns:
        None where too much would be left to floats.
    """
    scale, bias = np.asarray(scale, np.float64), np.asarray(bias, np.float64)
    most = int(sums.max(initial=0)).bit_length()
    shift = 0 if most <= FEW_BITS else most // 2
    reach = np.abs(scale) * (sums + 2**shift) + np.abs(bias) + 255 * abs(factor) + 2
    found = [_with_bits(bits, scale, bias, factor, sums, shift, reach) for bits in range(8, 25)] if len(reach) else []
    share, best = min(found, key=lambda one: one[0], default=(1.0, None))
    return best if share < MOST else None


def _with_bits(
    bits: int, scale: Floats, bias: Floats, factor: float, sums: Integers, shift: int, reach: Floats
) -> tuple[float, Fixed]:
    """The numbers with so many bits after the point, and the share that they leave to floats."""
    unit = 2.0**bits
    fits = reach * unit < 2.0**31  # not of infinity, nor of NaN
    multiplier = np.rint(np.where(fits, scale, 0) * unit * 2**shift)
    # The lower bits of the sum times the multiplier have to fit as well.
    fits &= np.abs(multiplier) < 2.0 ** (31 - shift)
    multiplier = np.where(fits, multiplier, 0)
    addend = np.where(fits, np.rint(np.where(fits, bias, 0) * unit + unit / 2), LEFT)
    apart = (sums / 2**shift + 1) / 2 + 1 + (128 if factor else 0) + (1 if shift else 0)
    floats = (reach + 256) * unit * 2.0**-23  # two roundings to 24 bits
    near = int(np.ceil((apart + floats)[fits].max(initial=0))) + 1
    share = 1 - fits.mean() * (1 - min(1.0, 2 * near / unit))
    table = np.stack([multiplier, addend], 1).astype(np.int32)
    residual = round(factor * unit) if fits.any() else 0
    return float(share), Fixed(table, residual, shift, bits, near)
