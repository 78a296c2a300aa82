"""Keeps the file loadable by onnxruntime with its default options.

Between 8-bit activations onnxruntime 1.31 replaces a convolution by QLinearConv, also where the weight is 2-bit,
and then refuses its own graph, because QLinearConv has no 2-bit weights. A bias that is added by a node of its own
stands in the way of that replacement and changes nothing else.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from tern_lightning.exporter.graph import add_constant, constant

__all__ = ["separate_biases"]


def separate_biases(graph: ir.Graph) -> None:
    """Give every convolution that reads a 2-bit weight directly its bias as an Add after it, of zeros if it has none.

    The Add is named ``<node>/bias``, the convolution's own output ``<output>/sum``.
    """
    for node in list(graph):
        weight = _two_bit_shape(node) if node.op_type == "Conv" else None
        if weight is None:
            continue
        output = node.outputs[0]
        shape = [1, weight[0], *[1] * (len(weight) - 2)]
        given = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        values = np.zeros(shape, np.float32) if given is None else np.asarray(given, np.float32).reshape(shape)
        if len(node.inputs) > 2:
            node.resize_inputs(2)
        bias = add_constant(graph, f"{node.name}/bias_values".replace("/", "."), values)
        name, output.name = output.name, f"{output.name}/sum"
        add = ir.node("Add", [output, bias], name=f"{node.name}/bias")
        add.outputs[0].name = name
        add.outputs[0].shape, add.outputs[0].type = output.shape, output.type
        readers = list(output.uses())
        node.append(add)
        for user, index in readers:
            if user is not add:
                user.replace_input_with(index, add.outputs[0])
        for index, value in enumerate(graph.outputs):
            if value is output:
                graph.outputs[index] = add.outputs[0]


def _two_bit_shape(node: ir.Node) -> list[int] | None:
    """The shape of a node's weight if it is 2-bit and has one term; None otherwise."""
    weight = node.inputs[1]
    producer = weight.producer() if weight is not None else None
    codes = producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else None
    if codes is None or codes.dtype != ir.DataType.INT2 or codes.shape is None:
        return None
    return [int(size) for size in codes.shape]  # type: ignore[arg-type]
