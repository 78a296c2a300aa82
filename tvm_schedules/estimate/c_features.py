"""What the time of a step of the C form depends on: its loops are over words of four pixels, and over codes of rows."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from typing import Any

from tvm_schedules.lowering.steps import Step

__all__ = ["activated", "kinds", "loops", "share"]

_WORD, _BLOCK = 4, 16
"""Pixels of a word, and of a block: a list of taps is read once for a block, of which the last may have fewer words."""
_FEWEST = 2
"""Words of a block at least."""
_ACTIVATED = {"hardswish": 26, "hardsigmoid": 26}
_EXPONENTIAL = 64
"""Instructions an output of an activation function, and of one with an exponential: of hard swish and SiLU behind three
blocks of a MobileNetV3, a Cortex-M4 took 27 and 65, a Cortex-M55 25 and 62."""


def kinds(step: Step, function: str) -> list[str]:
    """What steps share that have coefficients of their own: the function, what is added to sums, what is written."""
    end = getattr(step.spec, "epilogue", None)
    if end is None or not hasattr(end, "out"):
        return [function]
    return [function, *(["beside"] if end.residual else []), f"to {end.out.dtype}"]


def activated(step: Step) -> float:
    """Instructions of the activation function that a layer computes."""
    end = getattr(step.spec, "epilogue", None)
    activation = getattr(end, "activation", None)
    if end is None or activation is None:
        return 0.0
    x: Any = step.spec.x
    outputs = share(step) * x.batch * getattr(step.spec, "rows", x.channels) * prod(end.size)
    return outputs * _ACTIVATED.get(activation, _EXPONENTIAL)


def share(step: Step) -> float:
    """The part of a layer's output channels that a step computes: layers of C may be in several steps."""
    channels, rows = getattr(step, "last", 0) - getattr(step, "first", 0), getattr(step.spec, "rows", 0)
    return channels / rows if channels and rows else 1.0


def loops(step: Step) -> tuple[float, ...] | None:
    """``operations``, ``loads``, ``rounds``, ``ends`` and ``rows``; None where those of other targets do."""
    spec: Any = step.spec
    if hasattr(spec, "fields"):
        return _operator(spec.fields)
    nonzero, macs = (float(step.info.get(name, 0)) for name in ("nonzero_macs", "macs"))
    if not macs:
        return None
    return _planes(step, nonzero, macs) if hasattr(spec, "epilogue") else _rows(spec, nonzero, macs)


def _rows(spec: Any, nonzero: float, macs: float) -> tuple[float, ...]:
    """Of a layer over rows: weights that are not zero, all weights, rounds of four of them, outputs, and rows."""
    return (
        nonzero,
        macs,
        float(spec.batch * spec.outputs * ceil(spec.inputs / 4)),
        spec.batch * spec.outputs,
        spec.batch,
    )


def _planes(step: Step, nonzero: float, macs: float) -> tuple[float, ...]:
    """Of a layer over pixels: weights times words, times blocks, codes that are read for rows, outputs, and blocks."""
    spec: Any = step.spec
    pixels, each = spec.x.run(spec.epilogue.size), spec.x.batch * prod(spec.epilogue.size)
    channels = getattr(spec, "rows", spec.x.channels)
    blocks = ceil(pixels / _BLOCK)
    before = (blocks - 1) * _BLOCK // _WORD
    words = before + max(_FEWEST, ceil(pixels / _WORD) - before)
    taps, codes = nonzero / each, macs / each
    counts = (taps * words, taps * blocks, codes / spec.x.batch, channels * words, channels * blocks)
    return tuple(share(step) * spec.x.batch * count for count in counts)


def _operator(fields: Mapping[str, Any]) -> tuple[float, ...]:
    """Of an operator over plain tensors, whose sizes its description has: products, exponentials, results, and rows."""

    def size(*names: str) -> float:
        return float(prod(fields.get(name, 1) for name in names))

    if "keys" in fields:  # attention: two products, and exponentials
        scores = size("pairs", "rows", "keys")
        return scores * (fields["depth"] + fields["width"]), 0.0, scores, 0.0, size("pairs", "rows")
    if "columns" in fields:  # a product of matrices
        return size("pairs", "rows", "inner", "columns"), 0.0, 0.0, size("pairs", "rows", "columns"), 0.0
    if "gates" in fields:  # the hidden part of a recurrent layer
        results = size("length", "batch", "directions", "gates", "units")
        return results * fields["units"], 0.0, 0.0, results, size("length", "batch", "directions")
    if "to_height" in fields:  # a transposed convolution, or resizing
        results, kernel = size("images", "groups", "outputs", "to_height", "to_width"), prod(fields.get("kernel", ()))
        products = size("images", "groups", "inputs", "outputs", "height", "width") * kernel
        return products if "kernel" in fields else results, 0.0, 0.0, results, 0.0
    if "count" not in fields:  # loops over any dimensions
        elements = float(prod(number for number in fields.get("dims", ()) if number))
        return elements, 0.0, 0.0, 0.0, size("rows")
    each = size("inner") if "wide" in fields else 1.0  # what is gathered are rows of so many
    return each * size("outer", "rows", "count"), 0.0, 0.0, 0.0, size("outer", "rows")
