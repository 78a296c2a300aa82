"""TVM's interface for kernels with thread bindings; the counterpart of :mod:`tvm_schedules.compat`."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from typing import Any

from tvm_schedules.compat import Emitter, buffer_shape, dtype_name, make_target
from tvm_schedules.compat.blocks import inline, leaf_blocks

__all__ = ["Argument", "GpuEmitter", "Kernel", "Scheduled", "generate", "loop_nests", "prim_func", "signature"]


@dataclass(frozen=True)
class Argument:
    """A buffer argument: its name in the source, element type and number of elements."""

    name: str
    dtype: str
    size: int


@dataclass
class Kernel:
    """A kernel to generate code for.

    Attributes:
        arguments: Buffers, in the order in which a step names them.
        grid: Work groups in x, y, z.
        threads: Number of threads of a group.
        body: ``body(emitter, group, thread, *buffers)`` writes it; ``group`` holds the three indices of the group.
    """

    arguments: list[Argument]
    grid: tuple[int, int, int]
    threads: int
    body: Callable[..., None] = field(repr=False)


@dataclass
class Scheduled:
    """A TVM function with thread bindings.

    Attributes:
        function: The PrimFunc with its bindings.
        arguments: The buffers that it takes.
        shapes: The shapes of these buffers.
        grid: Work groups in x, y, z.
        threads: Number of threads of a group.
    """

    function: Any
    arguments: list[Argument]
    shapes: list[tuple[int, ...]]
    grid: tuple[int, int, int]
    threads: int


class GpuEmitter(Emitter):
    """The emitter of the CPU kernels, with what threads of a group share."""

    def local(self, count: int, dtype: str) -> Any:
        """Scratch of one thread, which compilers keep in registers where all indices are constants."""
        return self.b.alloc_buffer((count,), dtype, scope="local")

    def shared(self, count: int, dtype: str) -> Any:
        """Memory of a work group."""
        return self.b.alloc_buffer((count,), dtype, scope="shared")

    def barrier(self) -> None:
        """Waits for the threads of the group."""
        self.b.evaluate(self.b.tvm_storage_sync("shared"))

    def extern(self, dtype: str, name: str, *args: Any) -> Any:
        """A function of the preamble."""
        return self.t.call_pure_extern(dtype, name, *(self.expr(a) for a in args))

    def keep(self, value: Any, dtype: str) -> Any:
        """Computes a value once: stores it and returns the load of it."""
        place = self.local(1, dtype)
        self.store(place, 0, value)
        return self.load(place, 0)

    def both(self, *conditions: Any) -> Any:
        """Whether all conditions hold; later ones are not evaluated where an earlier one fails."""
        result = conditions[0]
        for condition in conditions[1:]:
            result = self.t.And(result, condition)
        return result

    def either(self, a: Any, b: Any, condition: Any) -> Any:
        """``condition ? a : b`` where only the chosen side is evaluated."""
        return self.t.if_then_else(condition, a, b)


def prim_func(name: str, kernel: Kernel | Scheduled, flat: bool = False) -> Any:
    """Makes the PrimFunc of a kernel, named ``name``; ``flat`` folds the third axis of the grid into the second."""
    if isinstance(kernel, Scheduled):
        return kernel.function.with_attr("global_symbol", name)
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as builder

    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        builder.func_name(name)
        builder.func_attr({"global_symbol": name, "tirx.noalias": True})
        buffers = [builder.arg(a.name, builder.buffer((a.size,), a.dtype)) for a in kernel.arguments]
        gx, gy, gz = kernel.grid
        with ExitStack() as stack:

            def axis(tag: str, extent: int) -> Any:
                return stack.enter_context(builder.launch_thread(tag, extent))

            x, y = axis("blockIdx.x", gx), axis("blockIdx.y", gy * gz if flat else gy)
            if flat:
                y, z = (y % gy, y // gy) if gz > 1 else (y, 0)
            else:
                z = axis("blockIdx.z", gz)
            kernel.body(GpuEmitter(), (x, y, z), axis("threadIdx.x", kernel.threads), *buffers)
    return ib.get()


def generate(functions: dict[str, Any], target: dict[str, Any]) -> str:
    """Source code of PrimFuncs with thread bindings.

    Args:
        functions: By their global symbol.
        target: TVM's JSON; ``kind`` is opencl, cuda, metal or webgpu.

    Returns:
        The source; the kernel of the function ``f`` is called ``f_kernel``.
    """
    import tvm
    import tvm_ffi

    kind = str(target["kind"])
    if kind == "cuda":
        # The source is all that is wanted; compiling it is for .nvrtc, with the architectures that the target names.
        tvm_ffi.register_global_func("tvm_callback_cuda_compile", lambda code, *_: b"source", override=True)
    host = make_target({"kind": "llvm"})
    made = tvm.target.Target({k: v for k, v in target.items() if k != "sm"}, host=host)
    with made:
        built = tvm.tirx.build(tvm.IRModule(functions), target=made)
    return str(next(m for m in built.imports if m.kind in (kind, "c")).inspect_source())


def signature(source: str, name: str) -> list[str]:
    """The names of a kernel's arguments in the order of the source, which is not the PrimFunc's."""
    if f"fn {name}(" in source:  # WGSL: bindings before the function
        before = source[source.rindex("// Function:", 0, source.index(f"fn {name}(")) : source.index(f"fn {name}(")]
        return [n.removesuffix("_ptr") for n in re.findall(r"var<storage, \w+> (\w+)", before)]
    found = re.search(rf"\b{re.escape(name)}\s*\((.*?)\)\s*[;{{]", source, re.DOTALL)
    if found is None:
        raise ValueError(f"no kernel {name!r} in the generated source")
    parts = [part.split("[[") for part in found[1].split(",")]
    pointers = [part[0] for part in parts if len(part) == 1 or "buffer" in part[1]]
    return [re.findall(r"\w+", part)[-1].removesuffix("_ptr") for part in pointers]


THREADS = 64


def loop_nests(function: Any) -> tuple[list[str], list[Scheduled]]:
    """Takes a PrimFunc of blocks apart.

    Returns:
        The names of its parameters, and one function with thread bindings for each loop nest that is left after
        inlining, in order; their buffers have the names of the parameters or of buffers between them.
    """
    import tvm
    import tvm_ffi
    from tvm import s_tir, tirx

    function = function.with_attr("global_symbol", "main").without_attr("op_pattern")
    sch = s_tir.Schedule(tvm.IRModule({"main": function}))
    inline(sch, leaf_blocks(sch))
    whole = sch.mod["main"]
    root = whole.body.block
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    names = {buffer: f"buffer{i}" for i, buffer in enumerate([*whole.params, *root.alloc_buffers])}
    found = []
    for nest in nests:
        used = set(tirx.analysis.undefined_vars(nest, []))
        buffers = [b for b in names if b in used]
        block = s_tir.SBlock([], [], [], "root", nest)
        attrs = tvm.ir.make_node("ir.DictAttrs", **{"tirx.noalias": True, "s_tir": True, "global_symbol": "main"})
        single = tirx.PrimFunc(buffers, s_tir.SBlockRealize([], True, block), None, attrs)
        # Names of their own, by which the generated source's arguments are found.
        renamed = {b: tirx.Var(names[b], b.ty) for b in buffers}
        single = tvm_ffi.structural_map(single, (tirx.Var, lambda v, to=renamed: to.get(v, v)))
        made, grid, threads = _bind(single)
        shapes = [buffer_shape(b) for b in buffers]
        arguments = [Argument(names[b], dtype_name(b), prod(s)) for b, s in zip(buffers, shapes, strict=True)]
        found.append(Scheduled(made, arguments, shapes, grid, threads))
    return [names[b] for b in whole.params], found


def _bind(function: Any) -> tuple[Any, tuple[int, int, int], int]:
    """Spreads the spatial loops of a function of one nest over threads; what is of another form runs in one thread."""
    import tvm
    from tvm import s_tir, tirx

    sch = s_tir.Schedule(tvm.IRModule({"main": function}))
    blocks = leaf_blocks(sch)
    block = blocks[0]
    loops = sch.get_loops(block)
    kinds = [int(var.iter_type) for var in sch.get(block).iter_vars]
    spatial = [loop for loop, kind in zip(loops, kinds, strict=False) if kind == 0]
    if len(blocks) == 1 and len(kinds) == len(loops) and spatial:
        total = prod(int(sch.get(loop).extent) for loop in spatial)
        sch.reorder(*spatial, *(loop for loop, kind in zip(loops, kinds, strict=True) if kind != 0))
        outer, inner = sch.split(sch.fuse(*spatial) if len(spatial) > 1 else spatial[0], [None, THREADS])
        groups, threads = -(-total // THREADS), THREADS
    else:
        outer = sch.add_unit_loop(loops[0] if loops else block)
        inner = sch.add_unit_loop(loops[0] if loops else block)
        groups, threads = 1, 1
    sch.bind(outer, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    module = sch.mod
    if not any(dtype_name(b) == "int64" for b in function.params):
        module = tirx.transform.ForceNarrowIndexToInt32()(module)  # which refuses functions that hold int64 data
    return module["main"], (groups, 1, 1), threads
