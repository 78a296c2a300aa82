"""Operators that TVM's front end does not have, written with those that it has; shapes are fixed by then."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.frontend.constant_folding import fixed_shape

if TYPE_CHECKING:
    import onnx

__all__ = ["COMPOSED", "Composition"]

MOST_TAPS = 1 << 22
"""Elements that windows may have together where a maximum is taken with its place."""


class Composition:
    """The nodes that take the place of one.

    Attributes:
        shapes: Shapes of its inputs, None of one that is open.
        types: ONNX' numbers of their element types.
        result: Type of its first output; None where it is not known.
        attributes: Of the node.
        nodes: What there is so far.
        constants: What they read besides.
    """

    def __init__(self, node: onnx.NodeProto, types: Mapping[str, Any]) -> None:
        from onnx import helper

        self.node, self._made = node, itertools.count()
        self.shapes = [fixed_shape(types.get(name)) for name in node.input]
        self.types = [types[name].tensor_type.elem_type if name in types else 0 for name in node.input]
        self.result = types.get(node.output[0])
        found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        self.attributes: dict[str, Any] = {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def _name(self) -> str:
        return f"{next(name for name in self.node.output if name)}/part{next(self._made)}"

    def add(self, op: str, *inputs: str | np.ndarray, output: int | None = None, **attributes: Any) -> str:
        """Appends a node; arrays among its inputs become constants.

        Args:
            op: The operator.
            inputs: Names of tensors, or constants.
            output: Which output of the whole it makes; None for a tensor of its own.
            attributes: Of the operator.

        Returns:
            The name of its output.
        """
        from onnx import helper

        out = self._name() if output is None else self.node.output[output]
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        self.nodes.append(helper.make_node(op, names, [out], name=self.node.name or out, **attributes))
        return out

    def constant(self, array: np.ndarray) -> str:
        """The name of a new constant."""
        name = self._name()
        self.constants[name] = array
        return name

    def dtype(self, index: int = 0) -> np.dtype[Any]:
        """Element type of an input."""
        from onnx import helper

        return np.dtype(helper.tensor_dtype_to_np_dtype(self.types[index]))


def _integers(values: Sequence[int]) -> np.ndarray:
    return np.array(values, np.int64)


def _norm(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    """``LpNormalization``: divided by the sum of magnitudes, or by the root of the sum of squares, along an axis."""
    shape, order = made.shapes[0], made.attributes.get("p", 2)
    if shape is None or order not in (1, 2):
        return False
    x, axis = made.node.input[0], _integers([made.attributes.get("axis", -1) % len(shape)])
    each = made.add("Abs", x) if order == 1 else made.add("Mul", x, x)
    total = made.add("ReduceSum", each, axis, keepdims=1)
    norm = total if order == 1 else made.add("Sqrt", total)
    # Zeros stay zeros, as in onnxruntime.
    zero = made.add("Equal", norm, np.zeros((), made.dtype()))
    made.add("Div", x, made.add("Where", zero, np.ones((), made.dtype()), norm), output=0)
    return True


def _cumulative_product(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    """``CumProd`` by doubling (Hillis and Steele, "Data parallel algorithms", 1986): in log2 n products of tensors."""
    shape, axis = made.shapes[0], constants.get(made.node.input[1])
    if shape is None or axis is None:
        return False
    place = int(axis.ravel()[0]) % len(shape)
    x, size, one = made.node.input[0], shape[place], np.ones((), made.dtype())
    backward = bool(made.attributes.get("reverse", 0))

    def shifted(x: str, by: int) -> str:
        """``x`` moved along the axis, ones behind it; what is moved out is lost."""
        filler = np.full((*shape[:place], by, *shape[place + 1 :]), one)
        ends = (by, size) if backward else (0, size - by)
        kept = made.add("Slice", x, *(_integers([n]) for n in (*ends, place)))
        return made.add("Concat", *((kept, filler) if backward else (filler, kept)), axis=place)

    if made.attributes.get("exclusive", 0):
        x = shifted(x, 1) if size > 1 else made.constant(np.ones(shape, made.dtype()))
    step = 1
    while step < size:
        x = made.add("Mul", x, shifted(x, step))
        step *= 2
    made.add("Identity", x, output=0)
    return True


def _reversed_sequences(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    """``ReverseSequence``: of every sequence of a batch the first elements, as many as its length says."""
    shape = made.shapes[0]
    if shape is None:
        return False
    time, batch = made.attributes.get("time_axis", 0), made.attributes.get("batch_axis", 1)
    place = np.arange(shape[time]).reshape([-1 if axis == time else 1 for axis in range(len(shape))])
    rows = _integers([shape[batch] if axis == batch else 1 for axis in range(len(shape))])
    lengths = made.add("Reshape", made.add("Cast", made.node.input[1], to=7), rows)
    mirrored = made.add("Sub", made.add("Sub", lengths, np.ones((), np.int64)), place)
    source = made.add("Where", made.add("Less", place, lengths), mirrored, place)
    made.add("GatherElements", made.node.input[0], made.add("Expand", source, _integers(shape)), output=0, axis=time)
    return True


def _maximum_and_place(made: Composition, constants: Mapping[str, np.ndarray]) -> bool:
    """``MaxPool`` that says where the maxima are: windows side by side, the largest of each, and where that one was."""
    given, shape = made.attributes, made.shapes[0]
    if len([name for name in made.node.output if name]) < 2 or shape is None:
        return False
    rank = len(shape) - 2
    kernel, strides = given["kernel_shape"], given.get("strides", [1] * rank)
    dilations, pads = given.get("dilations", [1] * rank), given.get("pads", [0] * 2 * rank)
    if given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or given.get("ceil_mode", 0):
        return False
    size = [
        (n + pads[i] + pads[i + rank] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i, n in enumerate(shape[2:])
    ]
    count, taps, pixels = math.prod(size), math.prod(kernel), math.prod(shape[2:])
    if shape[0] * shape[1] * count * taps > MOST_TAPS:
        return False
    places = [
        (np.arange(size[i])[:, None] * strides[i] + np.arange(kernel[i])[None] * dilations[i] - pads[i])
        for i in range(rank)
    ]
    order = [1] * rank  # elements from a pixel to the next in every axis
    for i in reversed(range(rank - 1)):
        order[i] = order[i + 1] * shape[i + 3]
    columns = [math.prod(shape[2 : 2 + i]) for i in range(rank)] if given.get("storage_order", 0) else order
    index, told = (np.zeros((*size, *kernel), np.int64) for _ in range(2))
    inside = np.ones((*size, *kernel), bool)
    for i, place in enumerate(places):
        spread = place.reshape([size[i] if a == i else kernel[i] if a == i + rank else 1 for a in range(2 * rank)])
        index, told = index + spread * order[i], told + spread * columns[i]
        inside &= (spread >= 0) & (spread < shape[i + 2])
    index = np.where(inside, index, pixels).reshape(count, taps)
    flat = made.add("Reshape", made.node.input[0], _integers([shape[0], shape[1], pixels]))
    kind = made.dtype()
    lowest = -np.inf if kind.kind == "f" else np.iinfo(kind).min
    around = np.full((shape[0], shape[1], 1), lowest, kind)
    windows = made.add("Gather", made.add("Concat", flat, around, axis=2), index, axis=2)
    values = made.add("ReduceMax", windows, _integers([3]), keepdims=0)
    made.add("Reshape", values, _integers([*shape[:2], *size]), output=0)
    which = made.add("ArgMax", windows, axis=3, keepdims=0)
    at = made.add("Add", which, np.arange(count) * taps)
    place_of = made.add("Gather", told.reshape(-1), at, axis=0)
    planes = (np.arange(shape[0] * shape[1]) * pixels).reshape(shape[0], shape[1], 1)
    made.add("Reshape", made.add("Add", place_of, planes), _integers([*shape[:2], *size]), output=1)
    return True


COMPOSED: Mapping[str, Callable[[Composition, Mapping[str, np.ndarray]], bool]] = {
    "LpNormalization": _norm,
    "CumProd": _cumulative_product,
    "ReverseSequence": _reversed_sequences,
    "MaxPool": _maximum_and_place,
}
"""What writes an operator with others, given the constants; False where it cannot."""
