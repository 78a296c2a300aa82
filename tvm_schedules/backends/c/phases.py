"""Which tensors a kernel may write in the phases that strided layers read, so that nobody has to copy them."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_schedules.backends.c.kernels.common.row_groups import row_groups
from tvm_schedules.backends.c.sampling import OPERATOR as SAMPLE
from tvm_schedules.backends.c.sampling import Samples
from tvm_schedules.ir.graph import Fused, GlobalPool, Graph, Linear, Node, Windowed
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.layouts import Key, in_planes, input_key

__all__ = ["read_in_phases"]


def read_in_phases(graph: Graph, samples: Samples) -> dict[str, Key]:
    """The tensors of bytes that everybody reads in the same phases, and these.

    Those of a sum are not among them: a sum takes the place of what was added, in which phases, with their larger
    padding, have no room, and a copy over it (:func:`~tvm_schedules.backends.c.places.copy_over`) takes less memory.
    Nor are those of a layer that computes several channels at a time, from lists that these share.

    Args:
        graph: As it is lowered.
        samples: What is made of the first phase only.
    """
    readers, found = graph.consumers(), {}
    for node in graph.nodes:
        if not isinstance(node, Fused) or isinstance(node, Linear | GlobalPool) or not in_planes(graph, node):
            continue
        name = node.outputs[0]
        if node.residual or name in graph.outputs or graph.values[name].dtype != "uint8" or _shares(node):
            continue
        key = _key(graph, samples, name, readers.get(name, []))
        if key is not None:
            found[name] = key
    return found


def _shares(node: Fused) -> bool:
    """Whether a layer computes channels from lists that they share."""
    weight = node.weight if isinstance(node, Windowed) else None
    return isinstance(weight, TernaryTensor) and row_groups(weight.codes[0].reshape(weight.channels, -1)) is not None


def _key(graph: Graph, samples: Samples, name: str, readers: Sequence[Node]) -> Key | None:
    """The phases in which all readers of a tensor read it; None where there are none."""
    keys, steps = set(), set()
    for node in readers:
        if node.op == SAMPLE:
            steps.add(samples[node.outputs[0]][1])
        elif node.inputs.count(name) == 1 and node.inputs[0] == name and in_planes(graph, node):
            keys.add(input_key(graph, node))
        else:
            return None
    key = keys.pop() if len(keys) == 1 else None
    return key if key is not None and key.phase != (1, 1, 1) and steps <= {key.phase} else None
