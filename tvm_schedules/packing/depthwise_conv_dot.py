"""Depthwise weights in runs of neighboring taps (numpy; runs at load)."""

from __future__ import annotations

import numpy as np

from tvm_schedules.ir.layout import Halo, Window

__all__ = ["pack", "tap_runs"]


def tap_runs(window: Window, x: Halo) -> list[tuple[int, list[int]]]:
    """Runs of at most four neighboring taps: offset of the first in a channel, and the taps' indices."""
    taps = sorted((x.offset(0, phase, shift), index) for index, (phase, shift) in enumerate(window.taps()))
    found: list[tuple[int, list[int]]] = []
    for offset, index in taps:
        if found and len(found[-1][1]) < 4 and found[-1][0] + len(found[-1][1]) == offset:
            found[-1][1].append(index)
        else:
            found.append((offset, [index]))
    return found


def pack(values: np.ndarray, window: Window, x: Halo) -> dict[str, np.ndarray]:
    """Lays int8 weights ``[O, 1, kd, kh, kw]`` out as ``[O, runs, 4]`` (numpy; runs when a library is loaded)."""
    runs = tap_runs(window, x)
    flat = values.reshape(len(values), -1)
    out = np.zeros((len(values), len(runs), 4), np.int8)
    for r, (_, indices) in enumerate(runs):
        out[:, r, : len(indices)] = flat[:, indices]
    return {"values": out}
