"""Layer by layer: is every 8-bit tensor of a network right, given the 8-bit tensors that it is computed from?

Comparing whole networks mixes an error of one layer with what the following layers make of it. Here the library's own
tensors are fed to onnxruntime at every quantized tensor, so that each layer, from quantized inputs to quantized output,
is compared alone: it may differ by one step where a value lies on the edge between two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.verify.outputs import compare
from tvm_schedules.verify.reference import reference_session

Array = npt.NDArray[Any]

__all__ = ["LayerReport", "compare_layers", "cut", "expose", "only_amplified"]

FEW = 0.01
"""Share of a tensor's elements that may lie on the edge between two steps."""
TIES = 4
"""Elements that may in any tensor, however small."""


@dataclass(frozen=True)
class LayerReport:
    """How one 8-bit tensor compares with onnxruntime's, computed from the library's tensors before it.

    Attributes:
        name: The name of the tensor.
        steps: Largest difference in quantization steps.
        share: Fraction of elements that differ.
        elements: Number of elements over all runs.
    """

    name: str
    steps: int
    share: float
    elements: int

    @property
    def right(self) -> bool:
        """Whether the difference is that of values on the edge between two steps."""
        return self.steps <= 1 and self.share * self.elements <= max(TIES, FEW * self.elements)


def _quantized(model: Any) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]


def expose(model: Any) -> Any:
    """A copy of the model in which every QuantizeLinear's output is an output of the network too."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(probe)
    types = {value.name: value for value in [*inferred.graph.value_info, *inferred.graph.output]}
    present = {value.name for value in probe.graph.output}
    probe.graph.output.extend(types[name] for name in _quantized(model) if name not in present)
    return probe


def cut(model: Any) -> Any:
    """A copy in which every quantized tensor is an input for its readers, and ``<name>/computed`` an output."""
    probe = expose(model)
    quantized = set(_quantized(model))
    entries = [value for value in probe.graph.output if value.name in quantized]
    probe.graph.input.extend(entries)
    for node in probe.graph.node:
        if node.op_type == "QuantizeLinear":
            node.output[0] = f"{node.output[0]}/computed"
    outputs = []
    for value in probe.graph.output:
        copy = type(value)()
        copy.CopyFrom(value)
        copy.name = f"{value.name}/computed" if value.name in quantized else value.name
        outputs.append(copy)
    del probe.graph.output[:]
    probe.graph.output.extend(outputs)
    del probe.graph.value_info[:]
    return probe


def only_amplified(
    model: Any,
    runs: Sequence[Mapping[str, Array]],
    outputs: Sequence[Sequence[Array]],
    make_runner: Callable[[Any], Callable[..., Any]],
) -> int | None:
    """Whether a library whose outputs differ is right all the same: single steps grow on their way through a network.

    Every 8-bit tensor must be within one step of onnxruntime's, given the 8-bit tensors before it, with few of a
    tensor's elements different. What was compiled for that must give the library's own outputs.

    Args:
        model: ``onnx.ModelProto``.
        runs: Inputs by name, one mapping a run.
        outputs: The library's outputs for them.
        make_runner: Compiles a model and makes it callable, numpy in, numpy out.

    Returns:
        The number of 8-bit tensors that were compared, None where the library may be wrong.
    """
    made: list[Any] = []

    def make(probe: Any) -> Callable[..., Any]:
        runner = make_runner(probe)

        def run(*arrays: Array) -> Any:
            result = runner(*arrays)
            made.append(result if isinstance(result, tuple) else (result,))
            return result

        return run

    try:
        layers = compare_layers(model, runs, make)
    except Exception:  # what may excuse a difference must not hide it
        return None
    if not layers or not all(layer.right for layer in layers):
        return None
    pairs = [pair for own, again in zip(outputs, made, strict=True) for pair in zip(own, again, strict=False)]
    same = all(compare("", again, own, quantized=True).passed for own, again in pairs)
    return len(layers) if same else None


def compare_layers(
    model: Any, runs: Sequence[Mapping[str, Array]], make_runner: Callable[[Any], Callable[..., Any]]
) -> list[LayerReport]:
    """Compares all 8-bit tensors of a network.

    Args:
        model: ``onnx.ModelProto`` with QuantizeLinear nodes.
        runs: Inputs by name, one mapping a run.
        make_runner: Compiles a model and makes it callable, numpy in, numpy out.

    Returns:
        One entry for each quantized tensor, in the order of the graph; empty for a network in float.
    """
    names = _quantized(model)
    if not names:
        return []
    probe = expose(model)
    order = [value.name for value in probe.graph.output]
    runner, session = make_runner(probe), reference_session(cut(model))
    steps = dict.fromkeys(names, 0)
    differing = dict.fromkeys(names, 0)
    total = dict.fromkeys(names, 0)
    for run in runs:
        result = runner(*run.values())
        own = dict(zip(order, result if isinstance(result, tuple) else (result,), strict=True))
        wanted = session.run([f"{name}/computed" for name in names], {**run, **{name: own[name] for name in names}})
        for name, want in zip(names, wanted, strict=True):
            distance = np.abs(own[name].astype(np.int32) - want.astype(np.int32))
            steps[name] = max(steps[name], int(distance.max(initial=0)))
            differing[name] += int(np.count_nonzero(distance))
            total[name] += distance.size
    return [LayerReport(name, steps[name], differing[name] / max(1, total[name]), total[name]) for name in names]
