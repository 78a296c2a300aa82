"""ONNX operators without a kernel: through TVM's front end, fused, and scheduled by the back end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_schedules import compat
from tvm_schedules.errors import ModelError, UnsupportedOperatorError

if TYPE_CHECKING:
    import onnx

    from tvm_schedules.targets.registry import TargetSpec

__all__ = ["FallbackCall", "FallbackProgram", "Schedule", "lower_fallback"]

Tensor = tuple[tuple[int, ...], str]
"""Shape and dtype."""


@dataclass
class FallbackCall:
    """One call: ``function(*args)``, args are buffer names in the order of the function's pointers."""

    function: str
    args: list[str]


@dataclass
class FallbackProgram:
    """A sub-model as a list of calls.

    Attributes:
        functions: What the calls name, scheduled by the back end: for CPUs private PrimFuncs with raw pointers that
            return an int32 0, for graphics processors launches of one loop nest each.
        calls: The calls in execution order.
        temporaries: Shape and dtype of the buffers between calls.
        constants: Buffers known at compile time.
        aliases: Outputs that are another buffer unchanged (an input, a constant, another output); all other
            reshapes are resolved.
        inputs: The sub-model's inputs by their ONNX names.
        outputs: The sub-model's outputs by their ONNX names.
    """

    functions: dict[str, Any] = field(default_factory=dict)
    calls: list[FallbackCall] = field(default_factory=list)
    temporaries: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


Schedule = Callable[[FallbackProgram, dict[str, Any], "TargetSpec"], None]
"""A back end's part: gives a program the functions that it calls, made of PrimFuncs of blocks by their names, and may
replace its calls by others."""


def lower_fallback(model: onnx.ModelProto, target: TargetSpec, prefix: str, schedule: Schedule) -> FallbackProgram:
    """Lowers an ONNX model of ordinary operators.

    Args:
        model: Static shapes, opset 13 to 26, checked by ``onnx.checker``; constants of at least 8 bits.
        target: Machine to schedule for.
        prefix: Put before every name that is made here (functions, temporaries, constants).
        schedule: The back end's schedules.

    Returns:
        The program; every name in it is an ONNX input or output, or starts with ``prefix``.

    Raises:
        UnsupportedOperatorError: An operator that cannot be lowered; names the node, the operator and what to do.
        ShapeError: An input has an open dimension.
        ModelError: No nodes' results are asked for, or the front end refuses the model.
    """
    try:
        walk = _walked(model, target, prefix)
    except ModelError:
        raise
    except _NoLoweringError as error:
        raise UnsupportedOperatorError(
            f"{_blame(model, str(error), target)} has no lowering for a CPU; {_REMEDY}"
        ) from (error)
    except Exception as error:
        blamed = _blame(model, str(error), target, data_dependent=True)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
        raise UnsupportedOperatorError(f"{blamed} cannot be compiled ({reason}); {_REMEDY}") from error
    for name, function in walk.used.items():
        unavailable = compat.runtime_calls(function)
        if unavailable:
            blamed = _blame(model, name, target)
            raise UnsupportedOperatorError(
                f"{blamed} needs functions of TVM's full runtime ({', '.join(unavailable)}); {_REMEDY}"
            )
    schedule(walk.program, walk.used, target)
    return walk.program


_REMEDY = "express it with other operators in the network's forward, or leave it outside of the exported part"
_DATA_DEPENDENT = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "AllClassNMS", "TopK"})


class _NoLoweringError(Exception):
    """A Relax operator, by name, that is still there after lowering."""


def _walked(model: onnx.ModelProto, target: TargetSpec, prefix: str) -> _Walk:
    """The program of a model, whose functions have no schedules yet."""
    from tvm_schedules.fallback.legalize import legalization_map
    from tvm_schedules.fallback.relax_import import read

    module, inputs, outputs = read(model)
    # Where LLVM does not make the code, operators are written as for any CPU and scheduled for the target afterward.
    llvm = target.tvm.get("kind") == "llvm"
    target_json = compat.make_target(target.tvm if llvm else {"kind": "llvm"})
    lowered = compat.legalize_and_fuse(module, legalization_map(target.vector_bytes, llvm), target_json)
    walk = _Walk(lowered, FallbackProgram(inputs=inputs), prefix, outputs)
    walk.run()
    return walk


def _blame(model: onnx.ModelProto, text: str, target: TargetSpec, data_dependent: bool = False) -> str:
    """The first node that ``text`` mentions, else the first that does not lower alone, else the model.

    Args:
        model: What was lowered.
        text: The reason.
        target: What for.
        data_dependent: Whether results whose shapes depend on data are the likely reason.
    """
    words = text.lower().replace("_", "")
    nodes = [] if data_dependent else [n for n in model.graph.node if n.op_type.lower() in words]
    nodes = nodes or [n for n in model.graph.node if n.op_type in _DATA_DEPENDENT]
    node = nodes[0] if nodes else _culprit(model, target)
    if node is None:
        return f"a part of the model (TVM's {text.splitlines()[0][:80] if text else 'operator'})"
    return f"node {node.name or node.output[0]!r}: operator {node.op_type}"


def _culprit(model: onnx.ModelProto, target: TargetSpec) -> onnx.NodeProto | None:
    """The first node that does not lower as a model of its own."""
    import onnx

    from tvm_schedules.fallback.fold_shapes import value_types

    types = value_types(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        inputs = [name for name in dict.fromkeys(node.input) if name]
        if not all(name in types for name in (*inputs, *filter(None, node.output))):
            continue
        ends = [onnx.helper.make_value_info(name, types[name]) for name in inputs if name not in constants]
        results = [onnx.helper.make_value_info(name, types[name]) for name in node.output if name]
        stored = [constants[name] for name in inputs if name in constants]
        graph = onnx.helper.make_graph([node], "node", ends, results, stored)
        try:
            _walked(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=10), target, "alone_")
        except Exception:
            return node
    return None


class _Walk:
    """Follows ``main``'s bindings and turns each into calls, aliases and constants."""

    def __init__(self, module: Any, program: FallbackProgram, prefix: str, outputs: list[str]) -> None:
        self.module, self.program, self.prefix, self.output_names = module, program, prefix, outputs
        self.used: dict[str, Any] = {}
        self.buffers: dict[
            int, Any
        ] = {}  # a Relax variable's hash (its address) -> buffer name, or a list of them for a tuple
        self.types: dict[str, Tensor] = {}
        self.constant_names: dict[tuple[Any, ...], str] = {}

    def run(self) -> None:
        """Fills the program."""
        main = self.module["main"]
        for parameter, name in zip(main.params, self.program.inputs, strict=True):
            self.buffers[hash(parameter)] = name
            self.types[name] = self.program.inputs[name]
        for block in main.body.blocks:
            for binding in block.bindings:
                self.buffers[hash(binding.var)] = self._value(binding.value, str(binding.var.name))
        self._finish(_flat(self._value(main.body.body, "result")))

    def _value(self, value: Any, hint: str) -> Any:
        if hash(value) in self.buffers:
            return self.buffers[hash(value)]
        kind = compat.relax_kind(value)
        if kind == "constant":
            return self._constant(value.value.numpy())
        if kind == "tuple":
            return [self._value(item, hint) for item in value.fields]
        if kind == "item":
            return self._value(value.tuple_value, hint)[int(value.index)]
        if kind == "call_tir":
            return self._call(value, hint)
        if kind == "reshape":
            return self._alias(self._value(value.args[0], hint), _tensor(value.ty), hint)
        raise _NoLoweringError(kind)

    def _new(self, hint: str, tensor: Tensor) -> str:
        name = f"{self.prefix}{hint}"
        while name in self.types:
            name += "_"
        self.types[name] = tensor
        return name

    def _call(self, call: Any, hint: str) -> Any:
        gv, arguments = call.args[0], call.args[1]
        names = [self._value(argument, hint) for argument in arguments.fields]
        tensors = [_tensor(ty) for ty in compat.tensor_types(call.ty)]
        results = [self._new(hint, tensor) for tensor in tensors]
        for result in results:
            self.program.temporaries[result] = self.types[result]
        if any(0 not in shape for shape, _ in tensors):
            function = f"{self.prefix}{gv.name_hint}"
            self.used[function] = self.module[gv]
            self.program.calls.append(FallbackCall(function, [*names, *results]))
        return results if compat.is_tuple_type(call.ty) else results[0]

    def _alias(self, source: str, tensor: Tensor, hint: str) -> str:
        if source in self.program.constants:
            return self._constant(self.program.constants[source].reshape(tensor[0]))
        name = self._new(hint, tensor)
        self.program.aliases[name] = self.program.aliases.get(source, source)
        return name

    def _constant(self, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.shape, str(array.dtype), array.tobytes())
        if key not in self.constant_names:
            name = self._new(f"constant{len(self.constant_names)}", (array.shape, str(array.dtype)))
            self.constant_names[key] = name
            self.program.constants[name] = array
        return self.constant_names[key]

    def _finish(self, results: list[str]) -> None:
        """Gives results their ONNX names: a temporary is renamed, everything else becomes an alias."""
        program, renamed = self.program, dict[str, str]()
        for output, result in zip(self.output_names, results, strict=True):
            program.outputs[output] = self.types[result]
            source = program.aliases.get(result, result)
            source = renamed.get(source, source)
            if source in program.temporaries:
                del program.temporaries[source]
                renamed[source] = output
            else:
                program.aliases[output] = source
        for call in program.calls:
            sources = [program.aliases.get(a, a) for a in call.args]
            call.args = [renamed.get(source, source) for source in sources]
        program.aliases = {k: renamed.get(v, v) for k, v in program.aliases.items() if k in program.outputs}
        kept = {*program.aliases.values(), *(a for call in program.calls for a in call.args)}
        program.constants = {k: v for k, v in program.constants.items() if k in kept}


def _flat(value: Any) -> list[str]:
    return [name for item in value for name in _flat(item)] if isinstance(value, list) else [value]


def _tensor(ty: Any) -> Tensor:
    return tuple(int(dim) for dim in ty.shape.values), str(ty.dtype)
