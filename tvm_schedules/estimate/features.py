"""What the time of a step depends on, read from its lowered form: numbers that a few coefficients are multiplied by.

They count what a kernel does in its loops: vectors of operands, rounds of loops, ends of rows, bytes that come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import numpy as np

from tvm_schedules.estimate import c_features
from tvm_schedules.lowering.steps import Buffer, Step
from tvm_schedules.packing import pattern_lists

__all__ = ["CALL", "NAMES", "call_features", "features", "group"]

NAMES = (
    "call", "operations", "loads", "rounds", "ends", "rows", "constants", "near", "far", "read", "written", "terms",
)  # fmt: skip
"""Names of the numbers.

* ``call``: 1.
* ``operations``: vectors of sums that an operand is added to, or multiplied and added to.
* ``loads``: vectors of operands that are loaded for them.
* ``rounds``: rounds of the loop over taps, or over inputs of a linear layer.
* ``ends``: vectors of outputs that are scaled, clipped, rounded and stored.
* ``rows``: blocks of outputs, each with a loop over taps; such loops, where a block has several.
* ``constants``: cache lines of weights.
* ``near``, ``far``: cache lines of weights for which the first and the second cache have no room, as often as read;
  ``far`` also those of inputs and outputs. Of a call all that a network reads and writes, as far as all of it together
  has no room: between calls of a step that is timed alone it stays where it is.
* ``read``, ``written``: cache lines of inputs and of outputs.
* ``terms``: vectors of sums that are multiplied by a level and put aside, or added to those of other terms.
"""

CALL = "call of a network"
"""The group of what a call takes beside its steps."""

_LINE = 64
_FIRST, _SECOND = 24 << 10, 384 << 10
"""Bytes of weights for which the first and the second cache of common cores have room."""
_NEON = 16
"""Bytes of a vector of kernels that are for Arm alone, whose specifications have none."""
_PIXELS = 16
"""Pixels that copies move at once."""


def group(step: Step, function: str = "") -> str:
    """The steps that share coefficients: those of a kernel and a type of operand.

    Args:
        step: The call of a kernel.
        function: Of the C form, the function that is called.
    """
    if step.kernel == "fallback":
        return f"fallback {step.info['op']}"
    if function:
        return " ".join([step.kernel, *c_features.kinds(step, function)])
    operand = step.info.get("operand") or getattr(step.spec, "x", None)
    weights = getattr(step.spec, "weights", None)
    kinds = [kind for kind in (operand, weights) if isinstance(kind, str)]
    if step.kernel == "repack":
        kinds = [step.spec.source.dtype, step.spec.target.dtype]
    if getattr(step.spec, "exact", False):
        kinds.append("in integers")
    if getattr(step.spec, "terms", 1) > 1:  # sums of one channel are multiplied by levels, and fewer channels fit
        kinds.append("in terms")
    end = getattr(step.spec, "epilogue", None)
    written, activation = getattr(getattr(end, "out", None), "dtype", "uint8"), getattr(end, "activation", None)
    kinds += [f"then {activation}"] if activation else []
    if operand == "uint8" and written != "uint8":
        kinds.append(f"to {written}")
    return " ".join([step.kernel, *kinds])


def features(step: Step, function: str = "") -> list[float]:
    """The numbers of :data:`NAMES` of a step; see :func:`group` for the arguments."""
    part = c_features.share(step)
    constants, others = round(part * _bytes(step.args, True)), _bytes(step.args[:-1], False)
    work = step.info.get("nonzero_macs", step.info.get("work", 0))
    again = _passes(step.spec)
    near, far = (again * max(0, constants - size) / _LINE for size in (_FIRST, _SECOND))
    far += max(0, others + step.args[-1].nbytes - _SECOND) / _LINE
    sizes = [constants / _LINE, near, far, others / _LINE, step.args[-1].nbytes / _LINE]
    loops = (function and c_features.loops(step)) or _loops(step.spec, float(work))
    return [1.0, *(float(number) for number in (*loops, *sizes, part * _terms(step.spec)))]


def call_features(steps: Sequence[Step], memory: int, inputs: int, outputs: int) -> list[float]:
    """The same numbers of a call, with the number of its steps as ``rounds``.

    Args:
        steps: The steps.
        memory: Bytes of the arena.
        inputs: Bytes of all inputs.
        outputs: Bytes of all outputs.
    """
    constants = sum(_bytes(step.args, True) for step in steps)
    touched = sum(buffer.nbytes for step in steps for buffer in step.args) / _LINE
    near, far = (touched * max(0.0, 1 - size / max(1, constants + memory)) for size in (_FIRST, _SECOND))
    return [1.0, 0.0, 0.0, float(len(steps)), 0.0, 0.0, 0.0, near, far, inputs / _LINE, outputs / _LINE, 0.0]


def _bytes(buffers: Sequence[Buffer], constant: bool) -> int:
    def is_constant(buffer: Buffer) -> bool:
        place = buffer.root.place
        return place is not None and place.kind == "constant"

    return sum(buffer.nbytes for buffer in buffers if is_constant(buffer) == constant)


def _passes(spec: Any) -> int:
    """How often a step reads all its weights."""
    if hasattr(spec, "inputs"):
        return ceil(spec.batch / _tile(spec)[0])
    return _blocks(spec)[1] if hasattr(spec, "epilogue") and hasattr(spec, "pixels") else 1


def _terms(spec: Any) -> float:
    """Vectors of sums that belong to a part of a row: all but the last one of a row, of lists that are shared all."""
    segments = getattr(spec, "segments", 0)
    if not segments or not hasattr(spec, "pixels"):
        return 0.0
    kept = segments * spec.size if hasattr(spec, "patterns") else segments - spec.rows
    return float(spec.x.batch * kept * _blocks(spec)[0])


def _loops(spec: Any, work: float) -> tuple[float, ...]:
    """``operations``, ``loads``, ``rounds``, ``ends`` and ``rows``."""
    if hasattr(spec, "epilogue") and hasattr(spec, "pixels"):
        return _planes(spec, work)
    if hasattr(spec, "inputs") and hasattr(spec, "outputs"):
        return _linear(spec)
    if hasattr(spec, "queries"):
        return _attention(spec)
    x: Any = getattr(spec, "x", None) or getattr(spec, "target", None)
    if hasattr(x, "channels"):
        source = getattr(spec, "source", x)
        lines = source.batch * source.channels * prod(source.dims[:2])
        return 0.0, lines * ceil(source.dims[2] / _PIXELS), lines, 0.0, x.batch * x.channels
    return work / _LINE, 0.0, 0.0, 0.0, 0.0


def _linear(spec: Any) -> tuple[float, ...]:
    """Of a layer over rows: inputs times vectors of outputs."""
    if not hasattr(spec, "dot") and not hasattr(spec, "lanes"):  # inputs are the lanes
        vectors = spec.batch * spec.blocks * spec.steps
        return vectors, vectors, vectors, spec.batch * spec.outputs, spec.batch * spec.blocks
    lanes = spec.dot.lanes if hasattr(spec, "dot") else spec.lanes
    together = spec.step if hasattr(spec, "dot") else 1
    blocks = spec.batch * ceil(spec.outputs / lanes)
    vectors = blocks * ceil(spec.inputs / together)
    rows, tile = _tile(spec)
    return vectors, vectors / rows, vectors / tile, spec.batch * spec.outputs, blocks


def _tile(spec: Any) -> tuple[int, int]:
    """Of a layer over rows: rows for which weights are loaded once, and vectors of sums that are held at a time."""
    if hasattr(spec, "tiling"):
        rows, vectors = spec.tiling
        return int(rows), int(rows * vectors)
    return int(getattr(spec, "rows", 1)), int(getattr(spec, "tile", 1))


def _attention(spec: Any) -> tuple[float, ...]:
    """Two products of matrices, their panels, and the exponential function of the scores as ``ends``."""
    pairs, keys, tile = prod(spec.q.view.shape[:-2]), spec.keys, spec.tile(spec.vectors(spec.keys))
    vectors, wide, panel = spec.padded // spec.lanes, ceil(spec.width / spec.lanes), spec.vectors(spec.width)
    tiles = ceil(spec.queries / tile)
    rows = tiles * tile
    products = rows * (spec.depth * vectors + keys * ceil(wide / panel) * panel)
    panels = keys * (spec.depth + spec.width) / spec.lanes
    rounds = tiles * (spec.depth * vectors / spec.vectors(spec.keys) + keys * ceil(wide / panel))
    return tuple(float(pairs * count) for count in (products, panels, rounds, rows * vectors, spec.queries))


def _planes(spec: Any, work: float) -> tuple[float, ...]:
    """Of a kernel that computes rows of pixels: taps times vectors, taps times blocks, channels times either."""
    x, size = spec.x, spec.epilogue.size
    channels, tile = getattr(spec, "rows", x.channels), getattr(spec, "tile", 1)
    two = getattr(spec, "two_levels", False)  # either segment has one list, as many as a row of one level has
    segments = channels if two else max(channels, getattr(spec, "segments", 0))
    vectors, blocks = _blocks(spec)
    if hasattr(spec, "patterns"):  # lists of taps that channels share, whose sums are added to those of the channels
        members = sum(np.count_nonzero(pattern_lists.digits(pattern, spec.size)) for pattern in spec.patterns)
        sets = max(spec.segments, spec.groups)
        lists = 2 * sets * len(spec.patterns)
        added = (spec.taps + sets * members) * vectors
        counts = (added, spec.taps * vectors, spec.taps * blocks, channels * vectors, lists * blocks)
    else:
        taps = work / max(1, x.batch * prod(size))  # of all output channels together
        taps = taps / 4 if getattr(spec, "dot", None) else taps
        rows = segments * blocks / tile
        counts = (taps * vectors, taps / tile * vectors, taps / tile * blocks, channels * vectors, rows)
    return tuple(float(x.batch * count) for count in counts)


def _blocks(spec: Any) -> tuple[int, int]:
    """Vectors of pixels in a plane, and blocks of them."""
    vector, dot = getattr(spec, "vector", _NEON), getattr(spec, "dot", None)
    lanes = dot.lanes if dot else max(1, vector // spec.x.itemsize)
    lanes = getattr(spec, "lanes", lanes)
    return ceil(spec.pixels / lanes), ceil(spec.pixels / getattr(spec, "step", lanes * getattr(spec, "block", 1)))
