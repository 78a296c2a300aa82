"""Every touch of TVM's moving API; the rest of the package calls these names alone.

Written for TVM 0.27 (``tvm.tirx``, ``tvm.s_tir``, ``tvm.script.ir_builder``). TVM is imported inside the functions,
because ``import tvm`` takes seconds and a board runs a library with the runtime alone.
"""

from tvm_schedules.compat.boards import connect_rpc, is_busy, is_remote_failure, is_timeout, load_rpc, serve_rpc
from tvm_schedules.compat.emitter import Emitter
from tvm_schedules.compat.functions import (
    attribute,
    build_module,
    call_private,
    global_var,
    has_jobs,
    kernel_function,
    main_function,
    make_target,
    pointer,
    private_function,
    shares_jobs,
    tensor,
    threads,
)
from tvm_schedules.compat.operators import (
    buffer_shape,
    dtype_name,
    first_outputs,
    import_onnx,
    is_tuple_type,
    known_onnx_operators,
    legalize_and_fuse,
    lower_blocks,
    output_tensors,
    raw_pointers,
    relax_kind,
    runtime_calls,
    tensor_types,
)

__all__ = [
    "Emitter",
    "attribute",
    "buffer_shape",
    "build_module",
    "call_private",
    "connect_rpc",
    "dtype_name",
    "first_outputs",
    "global_var",
    "has_jobs",
    "import_onnx",
    "is_busy",
    "is_remote_failure",
    "is_timeout",
    "is_tuple_type",
    "kernel_function",
    "known_onnx_operators",
    "legalize_and_fuse",
    "load_rpc",
    "lower_blocks",
    "main_function",
    "make_target",
    "output_tensors",
    "pointer",
    "private_function",
    "raw_pointers",
    "relax_kind",
    "runtime_calls",
    "serve_rpc",
    "shares_jobs",
    "tensor",
    "tensor_types",
    "threads",
]
