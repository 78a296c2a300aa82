"""Numbers that a network computes or is given, and that say where memory is read: kept inside of it.

ONNX forbids indices that are out of range, and integer divisions by zero; onnxruntime stops then, at run time. Compiled
code has no way to stop, and must not read memory of others or end the process. So indices are clamped, updates that
point nowhere are left out (:mod:`.scatter`), and a division by zero leaves its dividend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules.errors import ModelError
from tvm_schedules.frontend.constant_folding import fixed_shape

if TYPE_CHECKING:
    import onnx

__all__ = ["guard"]


def guard(model: onnx.ModelProto, types: dict[str, onnx.TypeProto]) -> onnx.ModelProto:
    """Puts the bounds' operators before every node that needs them.

    Args:
        model: The model; it is not changed.
        types: Types of its values.

    Raises:
        ModelError: A constant index is out of range; names the node.
    """
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    guards = _Guards(types, constants)
    for node in result.graph.node:
        standard = node.domain in ("", "ai.onnx")
        if standard and node.op_type in _OPERATORS:
            _OPERATORS[node.op_type](guards, node)
        guards.nodes.append(node)
    del result.graph.node[:]
    result.graph.node.extend(guards.nodes)
    result.graph.initializer.extend(guards.initializers)
    return result


class _Guards:
    """Writes nodes; the first methods are for one operator each."""

    def __init__(self, types: dict[str, Any], constants: dict[str, np.ndarray]) -> None:
        self.types, self.constants = types, constants
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def gather(self, node: Any) -> None:
        self._clamp(node, 1, self._extent(node))

    def gather_nd(self, node: Any) -> None:
        data, indices = self._shape(node, 0), self._shape(node, 1)
        first = next((int(a.i) for a in node.attribute if a.name == "batch_dims"), 0)
        if data is None or indices is None:
            self._clamp(node, 1, None)
        elif indices and 0 <= first <= len(data) - indices[-1]:  # otherwise the front end refuses it
            self._clamp(node, 1, np.array(data[first : first + indices[-1]]))

    def roi_align(self, node: Any) -> None:
        data = self._shape(node, 0)
        self._clamp(node, 2, None if data is None else np.array(data[0]), wraps=False)

    def one_hot(self, node: Any) -> None:
        """Comparison with 0, 1, ...: an index that is out of range gives a row without a one, as ONNX says."""
        from onnx import helper

        indices, depth = self._shape(node, 0), self.constants.get(node.input[1])
        if indices is None or depth is None:
            return
        kind = self.types[node.input[0]].tensor_type.elem_type
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        count = int(depth.ravel()[0])
        axis = next((int(a.i) for a in node.attribute if a.name == "axis"), -1) % (len(indices) + 1)
        wide = (*indices[:axis], 1, *indices[axis:])
        numbers = np.arange(count).astype(dtype).reshape([count if i == axis else 1 for i in range(len(wide))])
        at = self._add("Reshape", node, node.input[0], self._constant(node, np.array(wide, np.int64)))
        if np.dtype(dtype).kind != "u":
            wrapped = self._add("Add", node, at, self._constant(node, np.array(count, dtype)))
            negative = self._add("Less", node, at, self._constant(node, np.array(0, dtype)))
            at = self._add("Where", node, negative, wrapped, at)
        hit = self._add("Equal", node, at, self._constant(node, numbers))
        off, on = (
            self._add("Gather", node, node.input[2], self._constant(node, np.array(i, np.int64))) for i in range(2)
        )
        self._becomes(node, "Where", [hit, on, off])

    def divide(self, node: Any) -> None:
        """Integers: a divisor 0 becomes 1, and -1, which overflows for the smallest number, a change of sign."""
        divisor = self._divisor(node)
        if divisor is None:
            return
        safe, minus = divisor
        if minus is None:
            node.input[1] = safe
            return
        x = node.input[0]
        quotient = self._add("Div", node, x, safe)
        zero = self._constant(node, np.zeros((), self._dtype(node)))
        self._becomes(node, "Where", [minus, self._add("Sub", node, zero, x), quotient])

    def remainder(self, node: Any) -> None:
        divisor = self._divisor(node)
        if divisor is not None:
            node.input[1] = divisor[0]

    def _divisor(self, node: Any) -> tuple[str, str | None] | None:
        """The divisor of integers with 1 for 0 and -1, and where it is -1; None where that is not needed."""
        dtype = self._dtype(node)
        known = self.constants.get(node.input[1])
        if dtype is None or dtype.kind not in "iu" or (known is not None and not np.isin(known, (0, -1)).any()):
            return None
        one, minus = self._constant(node, np.ones((), dtype)), None
        bad = self._add("Equal", node, node.input[1], self._constant(node, np.zeros((), dtype)))
        if dtype.kind == "i":
            minus = self._add("Equal", node, node.input[1], self._constant(node, np.full((), -1, dtype)))
            bad = self._add("Or", node, bad, minus)
        return self._add("Where", node, bad, one, node.input[1]), minus

    # -- parts --------------------------------------------------------------------------------------------------------
    def _dtype(self, node: Any) -> np.dtype[Any] | None:
        from onnx import helper

        kind = self.types.get(node.input[0])
        return None if kind is None else np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))

    def _shape(self, node: Any, index: int) -> tuple[int, ...] | None:
        name = node.input[index]
        return self.constants[name].shape if name in self.constants else fixed_shape(self.types.get(name))

    def _extent(self, node: Any) -> np.ndarray | None:
        data = self._shape(node, 0)
        axis = next((int(a.i) for a in node.attribute if a.name == "axis"), 0)
        return None if data is None or not -len(data) <= axis < len(data) else np.array(data[axis])

    def _clamp(self, node: Any, index: int, extent: np.ndarray | None, wraps: bool = True) -> None:
        """Puts an input of indices into ``[-extent, extent)``, or ``[0, extent)`` where negative ones do not wrap."""
        from onnx import helper

        name = node.input[index]
        if extent is None or not (name in self.constants or name in self.types):
            raise ModelError(f"node {_name(node)!r}: the shape of what {node.op_type} reads is not known")
        low = -extent if wraps else 0 * extent
        if name in self.constants:
            known = self.constants[name]
            if ((known < low) | (known >= extent)).any():
                raise ModelError(
                    f"node {_name(node)!r}: {node.op_type} has constant indices between {known.min()} and "
                    f"{known.max()}; they must be in [{low.max()}, {extent.min()})"
                )
            return
        dtype = helper.tensor_dtype_to_np_dtype(self.types[name].tensor_type.elem_type)
        high = self._add("Min", node, name, self._constant(node, (extent - 1).astype(dtype)))
        node.input[index] = self._add("Max", node, high, self._constant(node, low.astype(dtype)))

    def _new(self, node: Any) -> str:
        return f"{node.output[0]}/guard{len(self.nodes)}_{len(self.initializers)}"

    def _constant(self, node: Any, array: np.ndarray) -> str:
        from onnx import numpy_helper

        name = self._new(node)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def _add(self, op: str, node: Any, *inputs: str) -> str:
        from onnx import helper

        name = self._new(node)
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"{_name(node)}/{op}"))
        return name

    @staticmethod
    def _becomes(node: Any, op: str, inputs: list[str]) -> None:
        node.op_type = op
        del node.attribute[:], node.input[:]
        node.input.extend(inputs)


_OPERATORS: dict[str, Callable[[_Guards, Any], None]] = {
    "Gather": _Guards.gather,
    "GatherElements": _Guards.gather,
    "GatherND": _Guards.gather_nd,
    "RoiAlign": _Guards.roi_align,
    "OneHot": _Guards.one_hot,
    "Div": _Guards.divide,
    "Mod": _Guards.remainder,
}


def _name(node: Any) -> str:
    return str(node.name or node.output[0])
