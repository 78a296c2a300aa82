"""Functions, their calls and the module that they become."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tvm_schedules.compat.emitter import Emitter

__all__ = [
    "attribute",
    "build_module",
    "call_private",
    "global_var",
    "has_jobs",
    "kernel_function",
    "main_function",
    "make_target",
    "pointer",
    "private_function",
    "shares_jobs",
    "tensor",
    "threads",
]

JOBS, THREADS = "tern.jobs", "tern.threads"
"""Attributes of a kernel's function: how many jobs there are, and whether threads share them."""

RANGES, LAST = 1 << 30, 1 << 15
"""As in ``native/threads.c``: a task of a loop that is taken is its first job + LAST * the one after its last."""

MOST_JOBS = LAST - 1


def make_target(spec: dict[str, Any]) -> Any:
    """Makes a ``tvm.target.Target`` from its JSON form."""
    import tvm

    return tvm.target.Target(dict(spec))


def tensor(array: np.ndarray, device: Any = None) -> Any:
    """Copies a numpy array into a TVM tensor, on the CPU unless another device is given."""
    import tvm

    return tvm.runtime.tensor(array, device)


def attribute(function: Any, key: str) -> Any:
    """A PrimFunc's attribute, None where it has none of that name."""
    attrs = function.attrs
    return attrs[key] if attrs is not None and key in attrs else None


def global_var(name: str) -> Any:
    """Makes a ``GlobalVar``."""
    import tvm

    return tvm.ir.GlobalVar(name)


def pointer(buffer: Any, offset: int = 0) -> Any:
    """The address of an element of a buffer."""
    from tvm.script.ir_builder import tirx as builder

    return builder.address_of(buffer[offset]) if offset else buffer.data


def private_function(args: Sequence[tuple[str, str]], body: Callable[..., None], job: bool = False) -> Any:
    """Makes a private PrimFunc of raw pointers: ``body(emitter, *pointers)`` writes it.

    Args:
        args: Names and element types of the pointers.
        body: Called with the emitter and the parameters; writes the statements.
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
        e.align_stack()
        body(e, *pointers)

    function = private_function(args, write, job=True)
    count = emitters[0].count
    return function.with_attr({JOBS: count, THREADS: int(emitters[0].parallel and count > 1)})


def call_private(
    variable: Any, function: Any, pointers: Sequence[Any], loop: str = "parallel", least: float = 0.0
) -> None:
    """Emits a call of a private function inside :func:`main_function`, or the jobs of a kernel.

    Args:
        variable: The ``GlobalVar`` of the function.
        function: The PrimFunc to call.
        pointers: The arguments of the call.
        loop: Over the jobs, where threads are to share them: ``parallel`` wakes threads, ``serial`` keeps to one, and
            others are what :func:`threads` returns.
        least: Part of the jobs that is worth being taken by itself, from 0 to 1.
    """
    import tvm
    from tvm.script.ir_builder import tirx as builder

    def call(*job: Any) -> None:
        _check(tvm.ir.Call(variable, [*job, *pointers], ret_ty=tvm.ir.PrimType("int32")))

    if not has_jobs(function):
        call()
        return
    count, split = int(attribute(function, JOBS)), shares_jobs(function)
    if loop == "taken":
        unit = -(-count // MOST_JOBS) if split else count
        jobs = -(-count // unit)
        builder.evaluate(tvm.tirx.call_extern("int32", "tern_jobs", jobs, max(1, math.ceil(least * jobs))))
        with builder.parallel(0, RANGES) as task:
            first, last = task % LAST * unit, task // LAST * unit
            with builder.serial(first, last if count % unit == 0 else tvm.tirx.Min(last, count)) as job:
                call(job)
    elif loop == "shared":
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


def _check(status: Any) -> None:
    """Has the function that is being written fail with what it calls."""
    import tvm
    from tvm.script.ir_builder import tirx as builder

    with builder.If(tvm.tirx.NE(status, tvm.tirx.IntImm("int32", 0))), builder.Then():
        builder.evaluate(tvm.tirx.tvm_throw_last_error())


@contextmanager
def threads(own: bool) -> Iterator[str]:
    """What is written in this context runs in all threads of the pool, which is started once for it.

    Args:
        own: Whether the library will have the threads of ``native/threads.c``, whose loops take ranges of jobs, or
            TVM's, which all have a part of a loop and wait for each other at its end.

    Yields:
        The ``loop`` for :func:`call_private`.
    """
    import tvm
    from tvm.script.ir_builder import tirx as builder

    if not own:
        with builder.attr("default", "pragma_parallel_launch_point", 1):
            yield "shared"
        return
    yield "taken"
    _check(tvm.tirx.call_extern("int32", "tern_run"))


def has_jobs(function: Any) -> bool:
    """Whether a private function is one of :func:`kernel_function`."""
    return attribute(function, JOBS) is not None


def shares_jobs(function: Any) -> bool:
    """Whether threads share the jobs of a function of :func:`kernel_function`."""
    return bool(attribute(function, THREADS))


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
