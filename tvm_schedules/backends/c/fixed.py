"""The epilogue in whole numbers, for cores without floating point; it gives the floats' bytes, bit for bit.

With the sum ``s`` of a channel and the residual ``r``, both integers, the byte is the nearest integer to
``y = s * scale + bias + r * factor``. In units of ``2**-bits`` and with one half added that is about
``p = (s >> shift) * table[0] + table[1] + r * residual``, in 32 bits, and the byte is ``p >> bits``. What ``p`` and
the rounding of the floats may be away from the exact number is known beforehand: ``near``. Where ``p`` lies so near to
a whole number, the float formula decides, in software; everywhere else both give the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2

import numpy as np
import numpy.typing as npt

__all__ = ["Fixed", "fixed"]

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

MOST = 0.125
"""Share of the numbers that may have to be decided by floats."""


@dataclass(frozen=True)
class Fixed:
    """Numbers of the formula above.

    Attributes:
        table: ``[channels, 2]``.
        residual: Multiplier of the residual.
        shift: Bits of the sum that are left away.
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
    shift = max(0, int(sums.max(initial=0)).bit_length() - 15)
    reach = np.abs(scale) * (sums + 2**shift) + np.abs(bias) + 255 * abs(factor) + 2
    if not (len(reach) and np.isfinite(reach).all() and reach.max() < 2**20):
        return None
    bits = min(24, floor(31 - log2(reach.max())))
    unit = 2.0**bits
    multiplier, residual = np.rint(scale * unit * 2**shift), round(factor * unit)
    lost = (1 - 2.0**-shift) / 2  # what the shift takes away on the average, in units of the multiplier
    table = np.stack([multiplier, np.rint(bias * unit + unit / 2 + multiplier * lost)], 1)
    apart = (sums / 2**shift + 1) / 2 + np.abs(multiplier) * lost + 1 + (128 if factor else 0)
    floats = (reach + 256) * unit * 2.0**-23  # two roundings to 24 bits
    near = int(np.ceil((apart + floats).max())) + 1
    return Fixed(table.astype(np.int32), residual, shift, bits, near) if 2 * near < MOST * unit else None
