"""onnxruntime as the independent judge: run a model and compare what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tern_lightning.exporter.errors import ExportError, VerificationError

#: Largest difference to the module with float activations, as a share of the largest output.
FLOAT_TOLERANCE = 1e-4
#: Relative error of rounding one tensor to 8 bits: uniform noise of ``step / sqrt(12)`` with a step of ``peak / 255``
#: is 0.0011 of the peak, 2% of the root mean square of a tensor whose peak is 18 times that.
ROUNDING_TOLERANCE = 0.02


@dataclass(frozen=True)
class Comparison:
    """How far two sets of outputs are apart.

    Attributes:
        cosine: Smallest cosine similarity over the outputs, in [-1, 1].
        max_abs: Largest absolute difference, in units of the output.
        max_relative: ``max_abs`` divided by the largest absolute reference, worst over the outputs.
        relative_l2: Norm of the difference divided by the norm of the reference, worst over the outputs.
        top1: Share of rows of the first output with the same largest entry, in [0, 1]; None when it has no classes.
        tolerance: What ``measure`` was held against, infinite where it was not.
        measure: ``max_relative`` or ``relative_l2``.
        where: Of which tensor ``relative_l2`` is, in words, where it was looked for inside of the network as well;
            cosine and differences are those of the outputs all the same.
    """

    cosine: float
    max_abs: float
    max_relative: float
    relative_l2: float
    top1: float | None
    tolerance: float
    measure: str
    where: str = ""

    @property
    def passed(self) -> bool:
        """Whether the measure is within the tolerance (NaN is not)."""
        return bool(getattr(self, self.measure) <= self.tolerance)

    def __str__(self) -> str:
        top1 = "" if self.top1 is None else f", top-1 agreement {self.top1:.1%}"
        limit = "" if self.tolerance == float("inf") else f" (tolerance {self.tolerance:.3g})"
        where = f" at {self.where}" if self.where else ""
        return (
            f"cosine {self.cosine:.6f}, max abs {self.max_abs:.3g}{top1}, "
            f"{self.measure.replace('_', ' ')} {getattr(self, self.measure):.3g}{where}{limit}"
        )


def run_onnx(
    model: onnx.ModelProto, inputs: Sequence[NDArray[np.generic]], outputs: Sequence[str] | None = None
) -> list[NDArray[np.generic]]:
    """Run a model once; see :func:`run_batches`."""
    return next(run_batches(model, [inputs], outputs))


def run_batches(
    model: onnx.ModelProto,
    batches: Iterable[Sequence[NDArray[np.generic]]],
    outputs: Sequence[str] | None = None,
) -> Iterator[list[NDArray[np.generic]]]:
    """Run a model on the CPU, without any graph optimization, so that no fused kernel changes the arithmetic.

    Args:
        model: The network, of at most 2 GiB.
        batches: Arrays in the order of the graph's inputs, for every run.
        outputs: Names of tensors, of the graph's outputs or inside of it; None is all outputs.

    Raises:
        ExportError: onnxruntime does not load or run the model.
    """
    import onnxruntime

    if outputs is not None:
        model = _expose(model, outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [meta.name for meta in session.get_inputs()]
        for inputs in batches:
            feed = {name: np.ascontiguousarray(array) for name, array in zip(names, inputs, strict=True)}
            result = session.run(list(outputs) if outputs is not None else None, feed)
            yield [np.asarray(array) for array in result]
    except Exception as error:
        raise ExportError(f"onnxruntime does not run the network: {str(error).strip().splitlines()[0]}") from error


def _expose(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy whose outputs are ``names``; a graph input is passed on by an Identity."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = {value.name for value in copy.graph.input}
    for position, name in enumerate(names):
        if name in inputs:  # onnxruntime accepts no name that is both; rename the input, not the output
            renamed = f"{name}/fed"
            for node in copy.graph.node:
                node.input[:] = [renamed if entry == name else entry for entry in node.input]
            next(value for value in copy.graph.input if value.name == name).name = renamed
            copy.graph.node.append(onnx.helper.make_node("Identity", [renamed], [name], name=f"expose_{position}"))
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return copy


def compare(
    actual: Sequence[NDArray[np.generic]],
    expected: Sequence[NDArray[np.generic]],
    tolerance: float,
    measure: str,
) -> Comparison:
    """Compare outputs; arrays of other shapes than expected are an error.

    Raises:
        VerificationError: Number or shapes of the outputs differ.
    """
    shapes = [array.shape for array in actual], [array.shape for array in expected]
    if shapes[0] != shapes[1]:
        raise VerificationError(f"the exported network's outputs have shapes {shapes[0]}, the module's {shapes[1]}")
    rows = [
        _distances(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(actual, expected, strict=True)
    ]
    cosine, max_abs, max_relative, relative_l2 = zip(*rows, strict=True)
    first, reference = np.asarray(actual[0]), np.asarray(expected[0])
    top1 = None
    if first.ndim == 2 and first.shape[1] > 1:
        top1 = float((first.argmax(1) == reference.argmax(1)).mean())
    worst = float(np.min(cosine)), float(np.max(max_abs)), float(np.max(max_relative)), float(np.max(relative_l2))
    return Comparison(*worst, top1=top1, tolerance=tolerance, measure=measure)


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Cosine, largest difference, that relative to the largest reference, relative L2 error; 0/0 counts as equal."""
    if a.size == 0:
        return 1.0, 0.0, 0.0, 0.0
    difference = a - b
    norm, size = float(np.linalg.norm(b)), float(np.abs(b).max())
    product = float(np.linalg.norm(a)) * norm
    cosine = float((a * b).sum() / product) if product > 0 else float(np.array_equal(a, b))
    top = float(np.abs(difference).max())
    if norm == 0:
        return cosine, top, top, float(np.linalg.norm(difference))
    return cosine, top, top / size, float(np.linalg.norm(difference)) / norm
