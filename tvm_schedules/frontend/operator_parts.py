"""Nodes that are written in the place of one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Parts"]


class Parts:
    """The nodes in the place of one.

    Attributes:
        node: The ``onnx.NodeProto``.
        inputs: Names of its inputs, then empty ones.
        constants: The file's constant tensors, by name.
        single: Names of computed tensors that have one element.
        nodes: What was written.
    """

    def __init__(self, node: Any, constants: Mapping[str, npt.NDArray[Any]], single: Collection[str] = ()) -> None:
        self.node, self.constants, self.single = node, constants, single
        self.nodes: list[Any] = []
        self.inputs = [*node.input, *[""] * 12]

    def add(self, op: str, inputs: list[str], out: str | None = None, **attributes: Any) -> str:
        """Writes a node and returns the name of its output, a new one by default."""
        from onnx import helper

        out = out or f"{self.node.output[0]}/part{len(self.nodes)}"
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        same = sum(one.op_type == op for one in self.nodes)
        name = f"{self.node.name or self.node.output[0]}/{op}{same or ''}"
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, **attributes))
        return out

    def constant(self, value: Any) -> str:
        """Writes a constant tensor."""
        from onnx import numpy_helper

        return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(value)))

    def cast(self, name: str, to: Any, out: str | None = None) -> str:
        """Writes a cast to a type of numpy's."""
        from onnx import helper

        return self.add("Cast", [name], out, to=helper.np_dtype_to_tensor_dtype(np.dtype(to)))

    def axes(self, name: str) -> int:
        """How many axes with several elements a constant has, 0 for what is none."""
        found = self.constants.get(name)
        return 0 if found is None else sum(n != 1 for n in found.shape)

    def known(self, *names: str) -> bool:
        """Whether tensors are constants, of one element, or left out: it is known which elements are theirs."""
        return all(not name or name in self.constants or name in self.single for name in names)

    def attributes(self, *without: str) -> dict[str, Any]:
        """The node's attributes but for some."""
        from onnx import helper

        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute if a.name not in without}

    def real(self, first: int, axis: int = 0) -> str:
        """The real numbers of the input ``first``, whose scale and zero point are the next ones.

        Args:
            first: Number of the input.
            axis: Where a scale with several elements runs.
        """
        name, scale, zero = self.inputs[first : first + 3]
        axes = {"axis": axis} if self.axes(scale) > 0 else {}
        return self.add("DequantizeLinear", [name, scale, zero], None, **axes)
