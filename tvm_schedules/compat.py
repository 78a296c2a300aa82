"""Every touch of TVM's moving API; the rest of the package calls these names alone.

Written for TVM 0.27 (``tvm.tirx``, ``tvm.s_tir``, ``tvm.script.ir_builder``). TVM is imported inside the functions,
because ``import tvm`` takes seconds and a board runs a library with the runtime alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .layout import ALIGN

__all__ = ["Emitter", "build_module", "call_private", "main_function", "make_target", "private_function", "tensor"]

JOBS, THREADS = "tern.jobs", "tern.threads"
"""Attributes of a kernel's function: how many jobs there are, and whether threads share them."""
ON_STACK = {"disable_lower_builtin": True}
"""Keeps TVM from replacing a buffer by memory of its runtime's pool."""


def make_target(spec: dict[str, Any]) -> Any:
    """Makes a ``tvm.target.Target`` from its JSON form."""
    import tvm

    return tvm.target.Target(dict(spec))


def tensor(array: np.ndarray, device: Any = None) -> Any:
    """Copies a numpy array into a TVM tensor, on the CPU unless another device is given."""
    import tvm

    return tvm.runtime.tensor(array, device)


class Emitter:
    """What a kernel template uses to write TIR: a few short names over TVM's IR builder.

    Scalars are int32 unless said otherwise; a vector of ``n`` lanes is written ``dtype + "x" + n``.
    """

    def __init__(self, job: Any = None) -> None:
        from tvm import tirx
        from tvm.script.ir_builder import tirx as builder

        self.b = builder
        self.t = tirx
        self.job, self.count, self.parallel = job, 0, False

    # -- statements ---------------------------------------------------------------------------------------------------
    @contextmanager
    def loop(self, extent: Any, parallel: bool = False) -> Iterator[Any]:
        """A serial or a parallel loop from 0 to ``extent``; a loop of one round is no loop."""
        if isinstance(extent, int) and extent == 1 and not parallel:
            yield self.integer(0)
            return
        with self.b.parallel(0, extent) if parallel else self.b.serial(0, extent) as i:
            yield i

    @contextmanager
    def jobs(self, count: int, parallel: bool) -> Iterator[Any]:
        """The jobs of a kernel, which threads may share: once, around all that :func:`kernel_function` writes.

        The loop itself is in the main function, see :func:`call_private`.
        """
        self.count, self.parallel = count, parallel
        yield self.job

    def local(self, count: int, dtype: str) -> Any:
        """Scratch of ``count`` elements or vectors that lives in registers."""
        base, _, lanes = dtype.partition("x")
        return self.b.alloc_buffer((count * int(lanes or 1),), base, scope="local", annotations=ON_STACK)

    def scratch(self, count: int, dtype: str) -> Any:
        """Scratch memory of one thread, aligned to a cache line: on the stack up to 32 KiB, else from the pool."""
        size = np.dtype(dtype).itemsize
        if count * size > 1 << 15:
            return self.b.alloc_buffer((count,), dtype)
        # Elements of a line each, or the stack is aligned to 16 bytes and every vector crosses lines.
        lines = self.b.alloc_buffer((-(-count * size // ALIGN),), f"uint8x{ALIGN}", scope="local", annotations=ON_STACK)
        return self.view(lines.data, count, dtype)

    def view(self, pointer: Any, size: int, dtype: str) -> Any:
        """A flat buffer over a pointer argument."""
        return self.b.decl_buffer((size,), dtype, data=pointer)

    def part(self, buffer: Any, start: Any, size: int, dtype: str) -> Any:
        """What of a flat buffer begins at element ``start``; its address is computed here, once."""
        return self.view(self.b.bind(self.b.address_of(buffer[start])), size, dtype)

    def store(self, buffer: Any, index: Any, value: Any, lanes: int = 1, stride: int = 1) -> None:
        """``buffer[index : index + lanes * stride : stride] = value``."""
        self.b.buffer_store(buffer, value, [self.ramp(index, lanes, stride)])

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """``if condition:``."""
        with self.b.If(condition), self.b.Then():
            yield

    # -- expressions --------------------------------------------------------------------------------------------------
    def ramp(self, index: Any, lanes: int, stride: int = 1) -> Any:
        """Indices of a vector access."""
        return index if lanes == 1 else self.t.Ramp(self.expr(index), stride, lanes)

    def load(self, buffer: Any, index: Any, lanes: int = 1, stride: int = 1) -> Any:
        """``buffer[index : index + lanes * stride : stride]``."""
        return buffer[self.ramp(index, lanes, stride)]

    def expr(self, value: Any) -> Any:
        """An int32 expression of a Python integer; expressions stay as they are."""
        return self.integer(value) if isinstance(value, int) else value

    def integer(self, value: int) -> Any:
        """An int32 constant."""
        return self.t.IntImm("int32", value)

    def const(self, value: float, dtype: str) -> Any:
        """A constant, broadcast over the lanes of ``dtype``."""
        base, _, lanes = dtype.partition("x")
        scalar = self.t.const(value, base)
        return self.splat(scalar, int(lanes)) if lanes else scalar

    def splat(self, value: Any, lanes: int) -> Any:
        """One scalar in every lane."""
        return value if lanes == 1 else self.t.Broadcast(value, lanes)

    def cast(self, value: Any, dtype: str) -> Any:
        """Numeric conversion."""
        return value.astype(dtype)

    def bits(self, value: Any, dtype: str) -> Any:
        """The same bits read as another type."""
        return self.t.reinterpret(dtype, value)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a * b + c`` with one rounding."""
        return self.b.fma(a, b, c)

    def round(self, value: Any) -> Any:
        """To the nearest integer, ties to even."""
        return self.t.nearbyint(value)

    def max(self, a: Any, b: Any) -> Any:
        """Elementwise maximum."""
        return self.t.Max(a, b)

    def min(self, a: Any, b: Any) -> Any:
        """Elementwise minimum."""
        return self.t.Min(a, b)

    def nonzero(self, value: Any, dtype: str) -> Any:
        """Which lanes of a value of type ``dtype`` are not zero."""
        return self.t.NE(value, self.const(0, dtype))

    def shuffle(self, vectors: list[Any], order: list[int]) -> Any:
        """The elements ``order`` of the concatenated vectors."""
        return self.t.Shuffle(vectors, [self.integer(i) for i in order])

    def intrinsic(self, dtype: str, name: str, *args: Any) -> Any:
        """A pure LLVM intrinsic."""
        return self.t.call_llvm_pure_intrin(dtype, name, *args)

    def prefetch(self, buffer: Any, index: Any) -> None:
        """Fetches the cache line of an element, which need not be there, to the first-level cache."""
        read, first, data = (self.integer(i) for i in (0, 3, 1))
        address = self.b.address_of(buffer[index])
        self.b.evaluate(self.t.call_llvm_intrin("void", "llvm.prefetch", address, read, first, data))

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        """``condition ? a : b``, both sides computed."""
        return self.t.Select(condition, a, b)


def private_function(args: Sequence[tuple[str, str]], body: Callable[..., None], job: bool = False) -> Any:
    """Makes a private PrimFunc of raw pointers: ``body(emitter, *pointers)`` writes it.

    Args:
        args: Names and element types of the pointers.
        body: Writes the statements.
        job: Whether the number of a job comes before the pointers.

    Returns:
        A ``tvm.tirx.PrimFunc`` that returns int32 0 (a parallel loop needs a status to return).
    """
    import tvm
    from tvm import tirx
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as builder

    with IRBuilder() as ib, builder.prim_func(is_private=True, s_tir=True):
        number = builder.arg("job", builder.int32()) if job else None
        pointers = [builder.arg(name, builder.handle(dtype)) for name, dtype in args]
        builder.func_attr({"tirx.noalias": True})
        builder.func_ret(tvm.ir.PrimType("int32"))
        # Memory of the runtime's pool needs a device; MakePackedAPI gives one to exported functions alone.
        with builder.attr("default", "device_id", 0), builder.attr("default", "device_type", 1):
            body(Emitter(number), *pointers)
        builder.add_to_parent(tirx.Return(tirx.IntImm("int32", 0)))
    return ib.get()


def kernel_function(args: Sequence[tuple[str, str]], body: Callable[..., None]) -> Any:
    """Makes a private PrimFunc that does one job of a kernel: like :func:`private_function`, with the job's number.

    Args:
        args: Names and element types of the pointers.
        body: Writes the statements, all of them in :meth:`Emitter.jobs`.
    """
    emitters: list[Emitter] = []

    def write(e: Emitter, *pointers: Any) -> None:
        emitters.append(e)
        body(e, *pointers)

    function = private_function(args, write, job=True)
    return function.with_attr({JOBS: emitters[0].count, THREADS: int(emitters[0].parallel)})


def call_private(variable: Any, function: Any, pointers: Sequence[Any], loop: str = "parallel") -> None:
    """Emits a call of a private function inside :func:`main_function`, or the jobs of a kernel.

    Args:
        variable: The ``GlobalVar`` of the function.
        function: The function.
        pointers: Its arguments.
        loop: Over the jobs, where threads are to share them: ``parallel`` wakes threads, ``shared`` is for the inside
            of :func:`threads`, where all of them wait for each other at the end, ``serial`` keeps to one.
    """
    import tvm
    from tvm.script.ir_builder import tirx as builder

    def call(*job: Any) -> None:
        builder.evaluate(tvm.ir.Call(variable, [*job, *pointers], ret_ty=tvm.ir.PrimType("int32")))

    if not has_jobs(function):
        call()
        return
    count, split = int(attribute(function, JOBS)), bool(attribute(function, THREADS))
    if loop == "shared":
        barrier = builder.attr("default", "pragma_parallel_barrier_when_finish", 1)
        with barrier, builder.parallel(0, count if split else 1) as job:
            if split:
                call(job)
            else:
                with builder.serial(0, count) as turn:
                    call(turn)
    else:
        with builder.parallel(0, count) if split and loop == "parallel" else builder.serial(0, count) as job:
            call(job)


def threads() -> Any:
    """What is written in this context runs in all threads of the pool, which is started once for it."""
    from tvm.script.ir_builder import tirx as builder

    return builder.attr("default", "pragma_parallel_launch_point", 1)


def has_jobs(function: Any) -> bool:
    """Whether a private function is one of :func:`kernel_function`."""
    return attribute(function, JOBS) is not None


def main_function(
    name: str,
    buffers: Sequence[tuple[str, tuple[int, ...], str]],
    scalars: Sequence[str],
    body: Callable[..., None],
) -> Any:
    """Makes the exported PrimFunc of ``buffers`` (name, shape, dtype) and int32 ``scalars``."""
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as builder

    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        builder.func_name(name)
        builder.func_attr({"global_symbol": name})
        arguments = [builder.arg(n, builder.buffer(shape, dtype)) for n, shape, dtype in buffers]
        numbers = [builder.arg(n, builder.int32()) for n in scalars]
        body(Emitter(), *arguments, *numbers)
    return ib.get()


def build_module(functions: dict[str, Any], main: Any, target: dict[str, Any]) -> Any:
    """Compiles private functions and the main function into one runtime module.

    ``functions`` maps a ``GlobalVar``'s name to ``(GlobalVar, PrimFunc)``.
    """
    import tvm

    module = tvm.IRModule(dict(functions.values()))
    module[tvm.ir.GlobalVar(str(main.attrs["global_symbol"]))] = main
    # StorageRewrite would hoist a thread's scratch out of its loop and out of the scope of its device.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        return tvm.tirx.build(module, target=make_target(target))


# -- remaining operators (foreign.py, schedules/) ---------------------------------------------------------------
def buffer_shape(buffer: Any) -> tuple[int, ...]:
    """Shape of a PrimFunc's buffer parameter."""
    return tuple(int(dim) for dim in buffer.shape)


def dtype_name(value: Any) -> str:
    """Element type of a buffer, of an expression or of a type as a string, lanes included."""
    return str(value.dtype)


def attribute(function: Any, key: str) -> Any:
    """A PrimFunc's attribute, None where it has none of that name."""
    attrs = function.attrs
    return attrs[key] if attrs is not None and key in attrs else None


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


def global_var(name: str) -> Any:
    """Makes a ``GlobalVar``."""
    import tvm

    return tvm.ir.GlobalVar(name)


def pointer(buffer: Any, offset: int = 0) -> Any:
    """The address of an element of a buffer."""
    from tvm.script.ir_builder import tirx as builder

    return builder.address_of(buffer[offset]) if offset else buffer.data


def import_onnx(model: Any) -> Any:
    """TVM's ONNX front end: a Relax module of ``main``; its prints and warnings are kept from the user's terminal."""
    import contextlib
    import io
    import warnings

    from tvm.relax.frontend.onnx import from_onnx

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return from_onnx(model)


def known_onnx_operators() -> frozenset[str]:
    """Operator types that TVM's ONNX front end converts."""
    from tvm.relax.frontend.onnx import onnx_frontend

    return frozenset(onnx_frontend._get_convert_map())


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
        return tvm.transform.Sequential(passes)(module)


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


# -- boards (board/, bench/remote.py) ------------------------------------------------------------------------------
def serve_rpc(descriptor: int, functions: dict[str, Callable[..., Any]]) -> None:
    """Serves TVM's RPC on a connected socket, with these global functions, until the client is gone."""
    import tvm
    import tvm_ffi

    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)
    tvm.get_global_func("rpc.ServerLoop")(descriptor)


def connect_rpc(host: str, port: int, key: str, timeout: float) -> Any:
    """A ``tvm.rpc`` session; the server ends it after ``timeout`` seconds, 0 for never."""
    from tvm import rpc

    return rpc.connect(host, port, key, session_timeout=timeout)


def rpc_tracker(host: str, port: int) -> Any:
    """A connection to an RPC tracker, with ``summary()`` and ``request(key, session_timeout=)``."""
    from tvm import rpc

    return rpc.connect_tracker(host, port)


def is_remote_failure(error: BaseException) -> bool:
    """Whether a function failed on the other side of an RPC connection, which itself is in order."""
    from tvm import error as errors

    return isinstance(error, errors.RPCError)
