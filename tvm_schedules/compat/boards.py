"""Remote procedure calls: both sides of a board."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["connect_rpc", "is_busy", "is_remote_failure", "is_timeout", "load_rpc", "serve_rpc"]


def serve_rpc(descriptor: int, functions: dict[str, Callable[..., Any]]) -> None:
    """Serves TVM's RPC on a connected socket, with these global functions, until the client is gone."""
    import tvm
    import tvm_ffi

    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)
    tvm.get_global_func("rpc.ServerLoop")(descriptor)


def load_rpc() -> None:
    """Load what :func:`connect_rpc` needs, which takes seconds, so that a time limit is not spent on it."""
    from tvm import rpc

    assert rpc.connect


def connect_rpc(host: str, port: int, key: str, timeout: float) -> Any:
    """A ``tvm.rpc`` session; the server ends it after ``timeout`` seconds, 0 for never."""
    from tvm import rpc

    return rpc.connect(host, port, key, session_timeout=timeout)


def is_remote_failure(error: BaseException) -> bool:
    """Whether a function failed on the other side of an RPC connection, which itself is in order."""
    from tvm import error as errors

    return isinstance(error, errors.RPCError)


def is_busy(error: BaseException) -> bool:
    """Whether a server answered :data:`~tvm_schedules.remote.protocol.BUSY`, which TVM takes for a name in use."""
    return "already have key" in str(error)


def is_timeout(error: BaseException) -> bool:
    """Whether a connection was silent for longer than its sockets' time."""
    return "temporarily unavailable" in str(error) or "timed out" in str(error)
