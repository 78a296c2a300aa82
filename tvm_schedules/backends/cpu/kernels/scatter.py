"""Elements of a tensor overwritten where it lies: a row of a cache in a step of decoding.

An index that points nowhere changes nothing; negative ones count from the end. Of updates of one place the last counts.

Bound by writing the elements, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.compat import Emitter, kernel_function
from tvm_schedules.ir.graph import Fused, Scatter
from tvm_schedules.lowering.steps import Buffer

if TYPE_CHECKING:
    from tvm_schedules.lowering.base import Lowering

__all__ = ["NAME", "Spec", "emit", "lower"]

NAME = "scatter"
"""What artifacts and tuning databases call this kernel."""


@dataclass(frozen=True)
class Spec:
    """All that the code depends on.

    Args:
        axis: Of ScatterElements, the axis that indices are for; None for ScatterND.
        shape: Of the tensor.
        strides: Of the tensor, in elements.
        indices: Shape of the indices.
        updates: Shape of the updates.
        index: Type of the indices.
        dtype: Type of the elements.
    """

    axis: int | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    indices: tuple[int, ...]
    updates: tuple[int, ...]
    index: str
    dtype: str


def emit(spec: Spec) -> Any:
    """Makes the PrimFunc: ``indices, updates, out``."""
    arguments = [("indices", spec.index), ("updates", spec.dtype), ("out", spec.dtype)]

    def body(e: Emitter, *pointers: Any) -> None:
        sizes = [prod(shape) for shape in (spec.indices, spec.updates, spec.shape)]
        indices, updates, out = (e.view(p, n, t) for p, n, (_, t) in zip(pointers, sizes, arguments, strict=True))

        def index(at: Any, axis: int) -> Any:
            given = e.load(indices, at)
            wrapped = e.select(given < 0, given + e.const(spec.shape[axis], spec.index), given)
            return e.bind(wrapped)

        def inside(place: Any, axis: int) -> Any:
            return (place >= 0) & (place < e.const(spec.shape[axis], spec.index))

        with e.jobs(1, False):
            if spec.axis is None:
                depth = spec.indices[-1]
                rest = range(depth, len(spec.shape))
                with e.loop(prod(spec.indices[:-1])) as row:
                    places = [index(row * depth + k, k) for k in range(depth)]
                    there = places[0] >= 0
                    for k, place in enumerate(places):
                        there = there & inside(place, k)
                    with e.when(there):
                        first: Any = 0
                        for k, place in enumerate(places):
                            first = first + e.cast(place, "int32") * spec.strides[k]
                        size = prod(spec.shape[depth:])
                        with e.loop(size) as i:
                            e.store(out, first + _offset(spec, list(rest), i), e.load(updates, row * size + i))
            else:
                with e.loop(prod(spec.updates)) as i:
                    place = index(i, spec.axis)
                    with e.when(inside(place, spec.axis)):
                        others = [axis for axis in range(len(spec.shape)) if axis != spec.axis]
                        at = _offset(spec, others, i, spec.updates)
                        at = at + e.cast(place, "int32") * spec.strides[spec.axis]
                        e.store(out, at, e.load(updates, i))

    return kernel_function(arguments, body)


def _offset(spec: Spec, axes: list[int], flat: Any, shape: tuple[int, ...] = ()) -> Any:
    """Where an element lies, without the axes that indices are for.

    Args:
        spec: Of the tensor.
        axes: The axes that count.
        flat: The element's number among those of ``shape``, or of the axes alone.
        shape: Of what is counted, all axes; nothing for the axes alone.
    """
    total: Any = 0
    counted = list(range(len(spec.shape))) if shape else axes
    sizes = shape or spec.shape
    for axis in axes:
        below = prod(sizes[later] for later in counted if later > axis)
        total = total + flat // below % sizes[axis] * spec.strides[axis]
    return total


def lower(ctx: Lowering, node: Fused) -> bool:
    """Takes scatters into outputs that hold an input's content."""
    if not isinstance(node, Scatter):
        return False
    values = ctx.graph.values
    arrays = [ctx.graph.constants.get(name) for name in node.inputs]
    shapes = [
        values[name].shape if array is None else array.shape for name, array in zip(node.inputs, arrays, strict=True)
    ]
    index = values[node.inputs[0]].dtype if arrays[0] is None else arrays[0].dtype.name
    out = node.outputs[0]
    spec = Spec(node.axis, node.shape, node.strides, shapes[0], shapes[1], index, values[out].dtype)
    args = [_tensor(ctx, node, name, array) for name, array in zip(node.inputs, arrays, strict=True)]
    info = {"reason": f"{prod(shapes[1])} of {prod(node.shape)} elements, where they lie", "work": prod(shapes[1])}
    ctx.add_step(node, NAME, spec, [*args, ctx.plain(out)], info)
    return True


def _tensor(ctx: Lowering, node: Scatter, name: str, array: np.ndarray | None) -> Buffer:
    if array is None:
        return ctx.plain(name)
    return ctx.constants.add(node.name, "raw", {name: np.asarray(array, order="C")})[name]
