"""Is the library right? onnxruntime runs the standard ONNX file, and the library's outputs have to agree.

Pass criterion, for every output over all samples, with ``relative = max|y - ref| / max|ref|``:

* network in float: ``relative <= 1e-3``; sums are only taken in another order, measured values lie near 1e-6.
* network with quantized activations: ``relative <= 0.05`` and cosine ``>= 0.999``, or no element further than one step
  from the reference where the output itself is a quantized tensor. Integer sums are exact on both sides, but a value on
  the edge between two steps may round either way, and such a step travels on through the layers that follow. A deep
  network can amplify it beyond these bounds; then the library passes if it is no further from the reference than twice
  the distance between onnxruntime's own two ways to compute the file, with and without its 8-bit kernels, or if every
  8-bit tensor in it is right given those before it (:func:`tvm_schedules.verify.layerwise.only_amplified`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_schedules.errors import VerificationError
from tvm_schedules.frontend import onnx_model as onnxtools
from tvm_schedules.frontend.plain_operators import with_plain_operators
from tvm_schedules.verify.reference import reference_outputs

Array = npt.NDArray[Any]
Runner = Callable[..., Any]

FLOAT_RELATIVE = 1e-3
HALF_ULPS = 16
"""Steps of a half-precision number that are as far as float32's bound in networks that compute in half precision."""
QUANTIZED_RELATIVE = 0.05
QUANTIZED_COSINE = 0.999


@dataclass(frozen=True)
class OutputReport:
    """How one output compares with the reference over all samples.

    Attributes:
        name: Output's name.
        max_abs: Largest absolute difference.
        relative: ``max_abs`` divided by the largest absolute value of the reference.
        cosine: Cosine of the angle between the two, in [-1, 1].
        steps: ``max_abs`` in quantization steps where the output is a quantized tensor, else None.
        top1: Share of rows (last axis) whose largest element is at the same place, None where the last axis has one
            element.
        passed: Whether the pass criterion of this module holds.
    """

    name: str
    max_abs: float
    relative: float
    cosine: float
    steps: float | None
    top1: float | None
    passed: bool


@dataclass(frozen=True)
class Report:
    """Result of a verification.

    Attributes:
        outputs: One entry per output.
        runs: Number of times that the network was run.
        where: What was run, for example ``library`` or ``host build of the same graph``.
        quantized: Whether the network has quantized activations.
        first_difference: On failure the first tensor that differs, where it was looked for.
        limit: Largest relative difference without quantized activations.
        layers: Number of 8-bit tensors that were found right one by one, where outputs differ by amplified roundings.
    """

    outputs: tuple[OutputReport, ...]
    runs: int
    where: str
    quantized: bool
    first_difference: str | None = None
    limit: float = FLOAT_RELATIVE
    layers: int | None = None

    @property
    def passed(self) -> bool:
        """Whether every output passed, or every tensor before them."""
        return self.layers is not None or all(output.passed for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """The fields and what follows from them, in JSON types."""
        return {**asdict(self), "outputs": [asdict(output) for output in self.outputs], "passed": self.passed}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The inverse of :meth:`to_dict`."""
        outputs = tuple(OutputReport(**entry) for entry in data["outputs"])
        return cls(**{key: value for key, value in data.items() if key not in ("outputs", "passed")}, outputs=outputs)

    def text(self) -> str:
        """One line per output."""
        lines = []
        for entry in self.outputs:
            steps = f", {entry.steps:.0f} steps" if entry.steps is not None else ""
            top1 = f", top-1 agreement {entry.top1:.1%}" if entry.top1 is not None else ""
            verdict = "ok" if entry.passed else "amplified" if self.layers else "MISMATCH"
            lines.append(
                f"{verdict} {entry.name}: max abs {entry.max_abs:.3g} (relative "
                f"{entry.relative:.3g}{steps}), cosine {entry.cosine:.6f}{top1}, {self.runs} runs, {self.where}"
            )
        if self.layers is not None:
            lines.append(
                f"each of the {self.layers} 8-bit tensors is within one step of onnxruntime's, given those before it: "
                "the network makes single steps grow"
            )
        if self.first_difference is not None:
            lines.append(f"first difference: {self.first_difference}")
        return "\n".join(lines)

    def check(self) -> Report:
        """Return the report itself.

        Raises:
            VerificationError: An output failed.
        """
        if not self.passed:
            limit = (
                f"relative <= {QUANTIZED_RELATIVE} and cosine >= {QUANTIZED_COSINE}, or one step"
                if self.quantized
                else f"relative <= {self.limit:.3g}"
            )
            raise VerificationError(f"the library does not agree with onnxruntime (limit: {limit})\n{self.text()}")
        return self


def compare(
    name: str,
    actual: Array,
    expected: Array,
    step: float | None = None,
    quantized: bool = False,
    limit: float = FLOAT_RELATIVE,
) -> OutputReport:
    """Compare an output with its reference; the first axis may stack several runs.

    Args:
        name: The output's name, for the report.
        actual: The library's values.
        expected: The reference's values, same shape.
        step: The quantization step of the output, None when it is not a quantized tensor.
        quantized: Whether the network has quantized activations.
        limit: Largest relative difference where it has none.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise VerificationError(
            f"output {name!r} is {actual.dtype}{list(actual.shape)}, "
            f"onnxruntime's is {expected.dtype}{list(expected.shape)}"
        )
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    # The same infinity or NaN on both sides is agreement; on one side only it is an infinite difference.
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
    max_abs = float(difference.max(initial=0.0))
    scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
    relative = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else float("inf"))
    steps = max_abs / step if step else None
    top1 = None
    if a.ndim and a.shape[-1] > 1:
        top1 = float((a.argmax(-1) == b.argmax(-1)).mean())
    cosine = _cosine(a, b)
    if quantized:
        passed = (relative <= QUANTIZED_RELATIVE and cosine >= QUANTIZED_COSINE) or (
            steps is not None and steps <= 1.001
        )
    else:
        passed = relative <= limit
    return OutputReport(name, max_abs, relative, cosine, steps, top1, bool(passed))


def _cosine(a: Array, b: Array) -> float:
    if np.array_equal(a, b, equal_nan=True):
        return 1.0
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / length if length > 0 and np.isfinite(length) else 0.0


def compare_runs(
    model: Any,
    actual: Sequence[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
    where: str,
    runs: Sequence[Mapping[str, Array]] | None = None,
) -> Report:
    """Compare all outputs of all runs of a network.

    Args:
        model: The network.
        actual: The library's outputs.
        expected: The reference's outputs.
        where: What was run, for the report.
        runs: The inputs, for a second reference where a quantized network is outside of the fixed bounds.
    """
    quantized = onnxtools.quantized_tensors(with_plain_operators(model))
    limit = float_limit(model)
    reports = []
    for index, value in enumerate(model.graph.output):
        step = quantized[value.name][0] if value.name in quantized else None
        left, right = (np.stack([run[index] for run in runs]) for runs in (actual, expected))
        reports.append(compare(value.name, left, right, step, bool(quantized), limit))
    if quantized and runs is not None and not all(report.passed for report in reports):
        reports = _within_spread(model, reports, expected, runs)
    return Report(tuple(reports), len(actual), where, bool(quantized), limit=limit)


def float_limit(model: Any) -> float:
    """The largest relative difference for networks without quantized activations.

    Half precision has 11 bits, bfloat16 8: whoever adds in another order, or rounds less often, is some steps off.
    """
    import onnx

    kinds = onnx.TensorProto
    types = {tensor.data_type for tensor in model.graph.initializer}
    types |= {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    types |= {a.i for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"}
    bits = 8 if kinds.BFLOAT16 in types else 11 if kinds.FLOAT16 in types else 24
    return max(FLOAT_RELATIVE, float(HALF_ULPS * 2.0 ** (1 - bits)))


def _within_spread(
    model: Any, reports: list[OutputReport], expected: Sequence[Sequence[Array]], runs: Sequence[Mapping[str, Array]]
) -> list[OutputReport]:
    """Pass outputs that are no further off than twice what onnxruntime's own two ways to compute the file differ."""
    try:
        other = reference_outputs(model, runs, optimized=True)
    except Exception:  # the second way may not exist for this file; then the fixed bounds stand
        return reports
    found = []
    for index, report in enumerate(reports):
        left, right = (np.stack([run[index] for run in outputs]) for outputs in (other, expected))
        spread = compare(report.name, left, right, None, True)
        near = report.relative <= 2 * spread.relative and 1 - report.cosine <= 2 * (1 - spread.cosine)
        found.append(replace(report, passed=report.passed or near))
    return found


def run_all(runner: Runner, runs: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
    """A loaded model's outputs for every run."""
    results = []
    for run in runs:
        result = runner(*run.values())
        results.append(list(result) if isinstance(result, tuple) else [result])
    return results


def first_difference(
    model: Any, runs: Sequence[Mapping[str, Array]], make_runner: Callable[[Any], Runner]
) -> str | None:
    """Find the first inner tensor that differs, by one more compilation with inner tensors as outputs.

    Args:
        model: The network that failed.
        runs: Samples; only the first is used.
        make_runner: Compiles a model and makes it callable.

    Returns:
        The tensor's name and how it differs, or None when no inner tensor does or the probe cannot be compiled.
    """
    import onnx

    quantized = onnxtools.quantized_tensors(model)
    constants = onnxtools.constant_arrays(model)
    known = {value.name for value in model.graph.output}
    inner = [
        (name, node)
        for node in model.graph.node
        for name in node.output[:1]
        if name and name not in constants and name not in known and (name in quantized if quantized else True)
    ]
    if not inner:
        return None
    probe = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value for value in probe.graph.value_info}
    inner = [(name, node) for name, node in inner if name in types]
    probe.graph.output.extend(types[name] for name, _ in inner)
    try:
        actual = run_all(make_runner(probe), runs[:1])
        report = compare_runs(probe, actual, reference_outputs(probe, runs[:1]), "")
    except Exception:  # a diagnosis must never hide the failure that it is about
        return None
    by_name = {entry.name: entry for entry in report.outputs}
    for name, node in inner:
        entry = by_name[name]
        if not entry.passed or (entry.steps is not None and entry.steps > 1.001):
            how = f"{entry.steps:.0f} steps" if entry.steps is not None else f"relative {entry.relative:.3g}"
            return f"{name!r} (node {node.name or node.op_type!r}), {how}"
    return None
