"""ScatterElements and ScatterND: one pass over the updates; those that point outside are left out."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["combined", "expression", "plan"]


def plan(data: list[int], indices: list[int], axis: int | None) -> dict[str, Any]:
    """Describes the copies of both operators in one form.

    Args:
        data: Shape of what is copied first.
        indices: Shape of the indices.
        axis: Of ScatterElements; None for ScatterND.

    Returns:
        ``entries``: number of index tuples; ``coordinates``: for every number of a tuple the smallest that it may be,
        the end of its range, and its stride in the data; ``slice``: elements in a row that a tuple stands for;
        ``places``: for ScatterElements pairs of size and stride, by which an entry's own place adds to the address,
        from the last axis on.
    """
    strides = [math.prod(data[i + 1 :]) for i in range(len(data))]
    if axis is None:
        depth = indices[-1]
        # TVM's front end has wrapped negative ones already.
        coordinates = [[0, data[i], strides[i]] for i in range(depth)]
        width = math.prod(data[depth:])
        return {"entries": math.prod(indices[:-1]), "coordinates": coordinates, "slice": width, "places": []}
    places = [[size, 0 if i == axis else strides[i]] for i, size in reversed(list(enumerate(indices)))]
    coordinates = [[-data[axis], data[axis], strides[axis]]]
    return {"entries": math.prod(indices), "coordinates": coordinates, "slice": 1, "places": places}


def combined(t: Any, reduction: str, old: Any, new: Any) -> Any:
    """The value that an update leaves.

    Args:
        t: TVM's module of scalar expressions, for its Min and Max.
        reduction: ``none`` (the new value stays), ``add``, ``mul``, ``min`` or ``max``.
        old: The value before.
        new: The update.
    """
    if reduction == "add":
        return old + new
    if reduction == "mul":
        return old * new
    if reduction == "min":
        return t.Min(old, new)
    if reduction == "max":
        return t.Max(old, new)
    return new


def expression(tag: dict[str, Any], shape: list[int]) -> Any:
    """The same as a tensor expression ``(data, indices, updates) -> out``, for targets without the template.

    Every element looks at all updates that could be its own: much work, and no memory that two threads write.

    Args:
        tag: Of :func:`plan`, with ``reduction``.
        shape: The shape of the data.
    """
    from tvm import te, tirx

    reduction, depth, width = tag["reduction"], len(tag["coordinates"]), tag["slice"]

    def flat(tensor: Any, at: Any) -> Any:
        dims, found = [int(n) for n in tensor.shape], []
        for size in reversed(dims):
            found.append(at % size)
            at = at // size
        return tensor(*reversed(found))

    def join(old: Any, new: Any) -> Any:
        value = combined(tirx, reduction, old[1], new[1])
        both = tirx.And(old[0] > 0, new[0] > 0)
        alone = tirx.Select(new[0] > 0, new[1], old[1])
        return tirx.max(old[0], new[0]), tirx.Select(both, value, alone)

    reducer = te.comm_reducer(join, lambda a, b: (tirx.const(0, a), tirx.const(0, b)), name="scatter")

    def compute(data: Any, indices: Any, updates: Any) -> Any:
        entry = te.reduce_axis((0, tag["entries"]), name="entry")

        def element(*place: Any) -> Any:
            mine: Any = tirx.const(0, "int64")
            for i, at in enumerate(place):
                mine = mine + tirx.Cast("int64", at) * math.prod(shape[i + 1 :])
            row, column = (mine // width, mine % width) if width > 1 else (mine, tirx.const(0, "int64"))
            number = tirx.Cast("int64", entry)
            address: Any = tirx.const(0, "int64")
            rest, found = number, tirx.const(True, "bool")
            for extent, stride in tag["places"]:
                address, rest = address + rest % extent * stride, rest // extent
            for k, (low, extent, stride) in enumerate(tag["coordinates"]):
                at = tirx.Cast("int64", flat(indices, number * depth + k))
                found = tirx.And(found, tirx.And(at >= low, at < extent))
                address = address + (at + tirx.Select(at < 0, tirx.const(extent, "int64"), tirx.const(0, "int64"))) * (
                    stride // width
                )
            hit = tirx.And(found, address == row)
            return reducer((tirx.Cast("int32", hit), flat(updates, number * width + column)), axis=entry)

        hits, values = te.compute(shape, element, name="scatter")
        return te.compute(
            shape,
            lambda *at: tirx.Select(hits(*at) > 0, combined(tirx, reduction, data(*at), values(*at)), data(*at)),
            name="scattered",
        )

    return compute
