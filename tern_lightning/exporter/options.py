"""The options of an export: checked where they are made, and passed on as one."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from tern_lightning.exporter.samples import Batch, Shapes
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import meant

if TYPE_CHECKING:
    from tern_lightning.nn.activation_quantizer import LayerRange
    from tern_lightning.ternary_tensor import TernaryTensor

Activations = Literal["uint8", "float32"]
DenseWeights = Literal["int8", "float32"]
P = ParamSpec("P")
First = TypeVar("First")
Second = TypeVar("Second")
Result = TypeVar("Result")


@check_arguments
@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """What an ONNX file of a module shall be like.

    Attributes:
        activations: ``"uint8"`` quantizes every tensor that feeds a layer with weights.
        dense_weights: Weights that are not ternary; None is int8 with 8-bit activations, float32 otherwise.
        ternary: Ternary weights by layer path, in place of those found in the module.
        ranges: Ranges of layer inputs by path; None takes those the module was trained with. Others are calibrated.
        samples: Batches of inputs for calibration and verification, of the shapes of the traced ones; None takes those.
        bits: Width of calibrated activations, 2 to 8.
        percentile: Percentile that calibration takes as the largest value, in (50, 100]; None takes the largest.
        allow_zero_layers: Accept ternary layers with only zeros.
        verify: Hold the file against the module. What ONNX itself demands is always checked.

    Raises:
        ValueError: A value is not among those allowed.
    """

    activations: Activations = "float32"
    dense_weights: DenseWeights | None = None
    ternary: Mapping[str, TernaryTensor] | None = None
    ranges: Mapping[str, LayerRange] | None = None
    samples: Sequence[Batch] | None = None
    bits: int = 8
    percentile: float | None = None
    allow_zero_layers: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        if self.percentile is not None and not 50 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (50, 100], got {self.percentile}")

    @property
    def dense_kind(self) -> DenseWeights:
        """Type of the weights that are not ternary."""
        return self.dense_weights or ("int8" if self.activations == "uint8" else "float32")


@check_arguments
@dataclass(frozen=True, kw_only=True)
class ExportOptions(OnnxOptions):
    """What :func:`tern_lightning.export` shall make, besides the fields of :class:`OnnxOptions`.

    Attributes:
        target: Name of a preset such as ``host``, ``arm`` or ``pi4``, or a TVM target as JSON.
        c_prefix: With the target ``c``, what the names of files, functions and macros begin with, so that several
            networks go into one program.
        samples: Real inputs for calibration, verification and the artifact: an array or tensor whose first axis runs
            over samples, a tuple of them for several inputs, a mapping of them or an .npz file, whose names are those
            of ``forward``'s parameters (of other names the order counts). None takes random numbers of
            ``input_shape``, or the module's ``example_input_array``.
        input_shape: Shape of the input with the batch, or a sequence of shapes.
        batch_size: Batch of the exported network when ``input_shape`` does not say it; None is that of ``samples``. The
            library takes any number of samples all the same, as long as they do not depend on each other. Several
            sizes are compiled beside each other, and calls run as many samples as fit by the largest; the first one is
            that of the ONNX file.
        lengths: Shorter sequences to compile the network for, beside those of the samples: calls are padded to the next
            length. Sequences run along the second axis of the first input, and of all others that are as long there.
        pad: What fills an input behind the end of its sequence, by the name of the argument; 0 where it is not said.
        onnx_only: Write ``output/model.onnx`` and compile nothing.
        verify: Hold the ONNX file against the module, and the library against the ONNX file.
        seed: Seed of random inputs.
        tune: Measure which kernels are best on the device, see :func:`tvm_schedules.build`.
        progress: Called with a line at every stage. Default: the lines go to the logger ``tern_lightning`` at level
            INFO, or to standard error where that is a terminal.
    """

    activations: Activations = "uint8"
    target: str = "host"
    c_prefix: str | None = None
    samples: Any = None
    input_shape: Shapes | None = None
    batch_size: int | Sequence[int] | None = 1
    lengths: Sequence[int] = ()
    pad: Mapping[str, float] | None = None
    onnx_only: bool = False
    seed: int = 0
    tune: Any = None
    progress: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c_prefix is not None and self.target != "c":
            raise ValueError(f"c_prefix is for target 'c', got target {self.target!r}")
        if not self.batch_sizes or (self.onnx_only and len(self.batch_sizes) > 1):
            allowed = "one size" if self.onnx_only else "one size or several"
            raise ValueError(f"batch_size must be {allowed}, got {self.batch_size!r}")
        if self.lengths and self.onnx_only:
            raise ValueError("lengths are compiled beside each other: they cannot be had with onnx_only")

    @property
    def whole_target(self) -> str:
        """The target as :func:`tvm_schedules.build` takes it, with the prefix."""
        return self.target if self.c_prefix is None else json.dumps({"kind": "c", "prefix": self.c_prefix})

    @property
    def batch_sizes(self) -> tuple[int | None, ...]:
        """The batch of the ONNX file, and the others that are compiled beside it."""
        return tuple(self.batch_size) if isinstance(self.batch_size, Sequence) else (self.batch_size,)


def keywords_of(
    options: Callable[P, Any],
) -> Callable[[Callable[[First, Second, Any], Result]], Callable[Concatenate[First, Second, P], Result]]:
    """Let a function of two arguments and options be called with the options' fields as keyword arguments.

    So the options are listed once, in their dataclass, and ``help`` and type checkers know them all the same.

    Args:
        options: The dataclass of the function's third argument.
    """

    def decorate(
        function: Callable[[First, Second, Any], Result],
    ) -> Callable[Concatenate[First, Second, P], Result]:
        own, fields = inspect.signature(function), inspect.signature(options)
        names = list(own.parameters)[:2]
        parameters = [*(own.parameters[name] for name in names), *fields.parameters.values()]
        signature = own.replace(parameters=parameters)

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Result:
            try:
                given = signature.bind(*args, **keywords).arguments
            except TypeError as error:
                wrong = [name for name in keywords if name not in signature.parameters]
                hint = meant(wrong[0], signature.parameters) if wrong else ""
                raise TypeError(f"{function.__name__}(): {error}{hint}") from None
            first, second = (given.pop(name) for name in names)
            return function(first, second, options(**given))  # type: ignore[call-arg]

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate
