"""What the operators without a kernel of ours need: Relax, fused functions and their blocks."""

from __future__ import annotations

from typing import Any

__all__ = [
    "buffer_shape",
    "dtype_name",
    "first_outputs",
    "import_onnx",
    "is_tuple_type",
    "known_onnx_operators",
    "legalize_and_fuse",
    "lower_blocks",
    "output_tensors",
    "raw_pointers",
    "relax_kind",
    "runtime_calls",
    "tensor_types",
]


def buffer_shape(buffer: Any) -> tuple[int, ...]:
    """Shape of a PrimFunc's buffer parameter."""
    return tuple(int(dim) for dim in buffer.shape)


def dtype_name(value: Any) -> str:
    """Element type of a buffer, of an expression or of a type as a string, lanes included."""
    return str(value.dtype)


def lower_blocks(function: Any, name: str) -> Any:
    """Turns a scheduled PrimFunc of blocks into one of plain loops over flat buffers."""
    import tvm
    from tvm import s_tir, tirx

    passes = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
    ]
    return tvm.transform.Sequential(passes)(tvm.IRModule({name: function}))[name]


def raw_pointers(function: Any) -> Any:
    """Turns a block-free PrimFunc over buffers into the private form of :func:`private_function`."""
    import tvm
    from tvm import tirx

    pointers = [
        tirx.Var(buffer.name, tvm.ir.PointerType(tvm.ir.PrimType(dtype_name(buffer)))) for buffer in function.params
    ]
    declarations = [tirx.DeclBuffer(b, data=p) for b, p in zip(function.params, pointers, strict=True)]
    body = tirx.SeqStmt([*declarations, function.body])
    for key in ("device_type", "device_id"):
        body = tirx.AttrStmt("default", key, tirx.IntImm("int32", int(key == "device_type")), body)
    body = tirx.SeqStmt([body, tirx.Return(tirx.IntImm("int32", 0))])
    attrs = tvm.ir.make_node("ir.DictAttrs", **{"tirx.noalias": True, "s_tir": True})
    return tirx.PrimFunc(pointers, body, tvm.ir.PrimType("int32"), attrs)


def import_onnx(model: Any) -> Any:
    """TVM's ONNX front end: a Relax module of ``main``; its prints and warnings are kept from the user's terminal."""
    import contextlib
    import io
    import warnings

    from tvm.relax.frontend.onnx import from_onnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return from_onnx(model)


def output_tensors(module: Any) -> list[tuple[tuple[int, ...], str] | None]:
    """Shape and element type of each output of ``main``; None where it is no tensor, or not of a fixed shape."""
    found: list[tuple[tuple[int, ...], str] | None] = []
    for ty in tensor_types(module["main"].body.body.ty):
        dims = getattr(getattr(ty, "shape", None), "values", None)
        try:
            found.append((tuple(int(dim) for dim in dims), dtype_name(ty)) if dims is not None else None)
        except TypeError:  # a dimension that is computed
            found.append(None)
    return found


def first_outputs(module: Any, count: int) -> Any:
    """The module with the first outputs of ``main`` only; other functions of it stay."""
    import tvm
    from tvm import relax

    main = module["main"]
    *blocks, last = main.body.blocks
    *bindings, result = last.bindings
    if not is_tuple_type(result.var.ty):
        return module
    kept = relax.BlockBuilder().normalize(relax.Tuple(list(result.value.fields)[:count]))
    var = relax.Var("outputs", kept.ty)
    body = relax.SeqExpr([*blocks, relax.DataflowBlock([*bindings, relax.VarBinding(var, kept)])], var)
    functions = {variable: function for variable, function in module.functions.items() if variable.name_hint != "main"}
    return tvm.IRModule({**functions, "main": relax.Function(main.params, body, kept.ty, attrs=main.attrs)})


def known_onnx_operators() -> frozenset[str]:
    """Operator types that TVM's ONNX front end converts."""
    from tvm.relax.frontend.onnx import onnx_frontend

    return frozenset(onnx_frontend._get_convert_map())


def _takes_that_clip(module: Any) -> Any:
    """Elements at indices are taken by the mode ``clip``, where it was ``fast``.

    Constants are folded with TVM's own code for an operator, which warns of the mode ``fast`` wherever it meets it.
    """
    import tvm
    from tvm import relax

    class Clip(relax.PyExprMutator):
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            if relax_kind(call) != "take" or str(call.attrs.mode) != "fast":
                return call
            return relax.op.take(*call.args, axis=call.attrs.axis, mode="clip")

    mutator = tvm.relax.expr_functor.mutator(Clip)(module)
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            mutator.builder_.update_func(variable, mutator.visit_expr(function))
    return mutator.builder_.get()


def legalize_and_fuse(module: Any, legalizers: dict[str, Any], target: Any) -> Any:
    """Relax operators -> fused PrimFuncs and ``call_tir``; constants are folded before and after."""
    import tvm
    from tvm import relax

    passes = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.FoldConstant(),
        relax.transform.LegalizeOps(legalizers, enable_warning=False),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(_takes_that_clip(module))


def relax_kind(expr: Any) -> str:
    """What a Relax binding's value is: constant, tuple, item, reshape, call_tir, or the operator's or class's name."""
    from tvm import relax

    if hasattr(expr, "value") and hasattr(expr.value, "numpy"):
        return "constant"
    if isinstance(expr, relax.Tuple):
        return "tuple"
    if isinstance(expr, relax.TupleGetItem):
        return "item"
    if hasattr(expr, "op"):
        return str(getattr(expr.op, "name", type(expr.op).__name__)).removeprefix("relax.")
    return type(expr).__name__


def is_tuple_type(ty: Any) -> bool:
    """Whether a Relax type is a tuple."""
    from tvm import relax

    return isinstance(ty, relax.TupleType)


def tensor_types(ty: Any) -> list[Any]:
    """The tensors of a Relax type, one or a tuple of them."""
    return list(ty.fields) if is_tuple_type(ty) else [ty]


def runtime_calls(function: Any) -> list[str]:
    """Names of the TVM runtime functions (packed calls) that a PrimFunc calls."""
    import re

    return sorted(set(re.findall(r'call_(?:packed|cpacked)(?:_lowered)?\("([^"]+)"', function.script())))
