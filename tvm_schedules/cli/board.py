"""``tern-board``: the board's side of remote benchmarks."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import socket
from collections.abc import Sequence

from tvm_schedules.cli.common import add_version, run
from tvm_schedules.common.console import printable
from tvm_schedules.errors import BoardError
from tvm_schedules.remote.protocol import IDLE_SECONDS, SESSION_SECONDS


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="tern-board", description="Run benchmarks of another machine on this one; needs TVM's runtime alone."
    )
    add_version(made)
    commands = made.add_subparsers(dest="command", required=True)
    serve = commands.add_parser(
        "serve",
        help="wait for tern-bench --rpc",
        description="Wait for tern-bench --rpc (or anything that speaks TVM's RPC), one session after another. Who can "
        "connect can run any code here with your rights: use it on networks that you trust, or through ssh -L.",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, for this machine)"
    )
    serve.add_argument("--port", type=int, default=9090, help="port, 0 for any that is free (default: 9090)")
    serve.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="let in only this address or network; repeatable",
    )
    serve.add_argument("--key", default="board", help="name that clients ask for (default: board)")
    serve.add_argument("--tracker", metavar="HOST:PORT", help="be listed at a tracker (python -m tvm.exec.rpc_tracker)")
    serve.add_argument(
        "--limit",
        type=float,
        default=SESSION_SECONDS,
        metavar="SECONDS",
        help="end a session after this time, whatever it does (default: %(default).0f)",
    )
    serve.add_argument(
        "--idle",
        type=float,
        default=IDLE_SECONDS,
        metavar="SECONDS",
        help="end a session in which nothing happens for so long, as its client may be frozen (default: %(default).0f)",
    )
    serve.add_argument("--threads", type=int, help="threads that TVM uses at most (default: all cores)")
    return made


def _name(host: str) -> str:
    """How another machine calls the address that the server listens at."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _say(line: str) -> None:
    """Print at once, also into a file."""
    print(printable(line), flush=True)


def _serve(options: argparse.Namespace) -> int:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's threads would sit beside the engines'

    from tvm_schedules.backends.cpu import threads

    if options.threads is not None:
        try:
            threads.set_default(options.threads)
        except ValueError as error:
            raise BoardError(str(error)) from None

    from tvm_schedules.board import server
    from tvm_schedules.remote import protocol

    tracker = None if options.tracker is None else protocol.parse_address(options.tracker)
    local = server.is_loopback(options.host)
    if tracker is not None and local and not server.is_loopback(tracker[0]):
        raise BoardError(f"the tracker {options.tracker} would send clients to {options.host}; give --host as well")
    where = (options.host, options.port, options.key, options.allow, tracker)
    made = server.Server(server.Settings(*where, options.limit, options.idle), _say)
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"
    try:
        import tvm  # noqa: F401 - once, here: sessions are forks of this process
    except ModuleNotFoundError:
        raise BoardError("TVM's runtime is not installed; pip install 'tern-lightning[board]'") from None
    from tvm_schedules.engines import system

    machine = system.machine()
    _say(f"{machine['cpu']}, {machine['cores']} cores, {threads.default_threads()} threads")
    _say(f"serving at {_name(made.address[0])}:{made.address[1]}, key {options.key}; end with Ctrl-C")
    who = "users of this machine" if local else ", ".join(options.allow) or "EVERY machine that can reach this address"
    _say(f"warning: {who} can now run any code here as user {getpass.getuser()}")
    if not local and not options.allow:
        _say("warning: name the machines that may connect with --allow ADDRESS")
    server.end_on_signals()
    with contextlib.closing(made), contextlib.suppress(KeyboardInterrupt):
        made.serve_forever()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``tern-board``; returns the exit status."""
    options = parser().parse_args(arguments)
    return run(lambda: _serve(options))


if __name__ == "__main__":
    raise SystemExit(main())
