"""ONNX' own tests of operators, judged: what onnxruntime computes right, we compute right, or refuse by name."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Arrays = list[np.ndarray]
RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Differences that ONNX' own runner takes, of single operators in another order of sums."""


def cases(modules: Sequence[str] = ()) -> dict[str, Any]:
    """The tests of operators by name, ``onnx.backend.test.case.test_case.TestCase``.

    Args:
        modules: Files of ``onnx.backend.test.case.node``, which are fewer and so sooner made; none is all.
    """
    import importlib

    from onnx.backend.test.case import node

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if not modules:
            return {case.name: case for case in node.collect_testcases(None)}
        for module in modules:
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
        return {case.name: case for case in node._NodeTestCases}


def runs(case: Any) -> Iterator[tuple[Arrays, Arrays]]:
    """The inputs and outputs of a test as arrays.

    Raises:
        ValueError: Some are no tensors (sequences, optional values, text).
    """
    from onnx import TensorProto, numpy_helper

    def array(value: Any) -> np.ndarray:
        if isinstance(value, TensorProto):
            value = numpy_helper.to_array(value)
        if isinstance(value, list) or value is None:
            raise ValueError("no tensor")
        made = np.asarray(value)
        if made.dtype.kind in "OSU":
            raise ValueError("text")
        return made

    for inputs, outputs in case.data_sets:
        yield [array(value) for value in inputs], [array(value) for value in outputs]


def reference(case: Any) -> list[Arrays] | None:
    """onnxruntime's outputs; None where it cannot run the test, or gives something else than it wants."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    found = []
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in session.get_inputs()]
        for inputs, outputs in runs(case):
            made = session.run(None, dict(zip(names, inputs, strict=True)))
            if differs(made, outputs) is not None:
                return None
            found.append([np.asarray(one) for one in made])
    except Exception:
        return None
    return found


def differs(actual: Sequence[Any], expected: Sequence[np.ndarray]) -> str | None:
    """How outputs differ, or None."""
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        a = np.asarray(a)
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {index} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        if a.dtype.kind not in "biufc":
            a, b = a.astype(np.float32), b.astype(np.float32)
        scale = float(np.abs(b[np.isfinite(b)].astype(np.float64)).max(initial=0)) if b.dtype.kind == "f" else 0.0
        half = 16 if b.dtype == np.float16 else 1
        if not np.allclose(a, b, rtol=half * RELATIVE, atol=ABSOLUTE + half * 1e-5 * scale, equal_nan=True):
            with np.errstate(all="ignore"):
                return f"output {index} differs by {np.abs(a.astype(np.float64) - b.astype(np.float64)).max():.3g}"
    return None


def with_constants(model: Any, inputs: Arrays) -> tuple[Any, Arrays]:
    """The model with every input but the first as a constant, as networks have them, and the inputs that are left."""
    import onnx
    from onnx import numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.ir_version = max(made.ir_version, 4)  # before that, initializers had to be inputs too
    for value, array in list(zip(model.graph.input, inputs, strict=True))[1:]:
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), value.name)
        tensor.data_type = value.type.tensor_type.elem_type
        made.graph.initializer.append(tensor)
    del made.graph.input[1:]
    return made, inputs[:1]


def judge(case: Any, make: Callable[[Any], Callable[..., Any]]) -> tuple[str, str]:
    """Compile and run a test.

    Args:
        case: The test.
        make: Compiles a model and makes it callable.

    Returns:
        The verdict and a reason. ``left out``: onnxruntime does not pass it either, or it has no tensors; ``passed``;
        ``constant``: passed with all inputs but the first as constants; ``refused``: by an error of this package that
        names the operator or a tensor of it; ``unnamed``: one that does not; ``wrong``; ``failed``: another error.
    """
    from tvm_schedules.errors import TernError

    expected = reference(case)
    if expected is None:
        return "left out", ""
    given = list(runs(case))
    reasons = []
    for constant in (False, True):
        if constant and (len(given) > 1 or len(case.model.graph.input) < 2):
            break
        model, feeds = (case.model, [inputs for inputs, _ in given])
        try:
            if constant:
                model, feeds = (lambda made: (made[0], [made[1]]))(with_constants(case.model, feeds[0]))
            run = make(model)
            with np.errstate(all="ignore"):
                for inputs, wanted in zip(feeds, expected, strict=True):
                    result = run(*inputs)
                    difference = differs(result if isinstance(result, tuple) else (result,), wanted)
                    if difference is not None:
                        return "wrong", difference + (" (constants)" if constant else "")
            return ("constant", reasons[0]) if constant else ("passed", "")
        except TernError as error:
            reasons.append(" ".join(str(error).split()))
        except Exception as error:
            return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
    names = set(mentionable(case.model.graph))
    named = all(any(name in reason for name in names) for reason in reasons)
    return "refused" if named else "unnamed", reasons[-1]


def mentionable(graph: Any) -> Iterator[str]:
    """What a refusal may name: operators of a graph and of the graphs in its nodes, and quoted names of tensors."""
    for node in graph.node:
        yield node.op_type
        yield from (f"'{name}'" for name in (*node.input, *node.output) if name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from mentionable(attribute.g)


def in_memory(model: Any) -> Callable[..., Any]:
    """Compile a model for this machine without an artifact."""
    from tvm_schedules import pipeline
    from tvm_schedules.frontend import onnx_model
    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.targets.registry import resolve

    with contextlib.redirect_stdout(None):
        checked = read_model(model)
        onnx_model.fix_shapes(checked, None)
        return pipeline.run_in_memory(pipeline.read_graph(checked), resolve("host"))
