"""Benchmarks on several boards in one call; a board that fails costs the others nothing, and itself only the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tvm_schedules.artifact import load_samples, store
from tvm_schedules.bench.machines import BoardMachine, PythonBoard
from tvm_schedules.bench.measure import Request, bench
from tvm_schedules.bench.plain import PlainBoard
from tvm_schedules.common.files import user_path
from tvm_schedules.errors import TernError
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.remote.client import Board
from tvm_schedules.remote.connection import Address
from tvm_schedules.verify import outputs as verify


def machine_on(board: Board) -> BoardMachine:
    """The best way to measure on a board: engines in processes where it has our Python server, else plain RPC."""
    return PythonBoard(board) if "python" in board.info else PlainBoard(board)


def verify_on(machine: BoardMachine, name: str, artifact: str | Path) -> verify.Report:
    """Run an artifact's stored samples on a board and compare with the stored outputs of onnxruntime.

    Raises:
        CpuFeatureError: The board cannot run the artifact.
        VerificationError: The outputs differ.
        BoardError: The board failed.
    """
    folder = user_path(artifact)
    inputs, expected = load_samples(folder)
    actual = machine.outputs(folder)
    names = [entry["name"] for entry in store.read_metadata(folder, check_hashes=False)["inputs"]]
    runs = [dict(zip(names, run, strict=True)) for run in inputs]
    proto = read_model(folder / store.MODEL)
    return verify.compare_runs(proto, actual, expected, f"library on {name}", runs).check()


def bench_boards(
    artifact: str | Path,
    addresses: Sequence[Address],
    request: Request = Request(),  # noqa: B008 - frozen
    progress: Callable[[str], None] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Verify and measure an artifact on every board, one after another.

    Args:
        artifact: Directory made by :func:`tvm_schedules.build` for the boards' CPU.
        addresses: The boards.
        request: What to measure beside it, and for how long.
        progress: Called with a line of text before each stage.
        keep: Called with everything so far whenever a result came.

    Returns:
        Plain data for JSON: ``boards``, for each ``board`` (its address), ``failed`` (why it ended early, or None),
        ``verification``, and what :func:`tvm_schedules.bench.bench` returns as far as it came.

    Raises:
        BenchError: What was asked for can be measured on no board.
        ArtifactError: The artifact is damaged.
    """
    request.check(artifact)
    say, save = progress or (lambda line: None), keep or (lambda result: None)
    everything: dict[str, Any] = {"boards": []}
    for address in addresses:
        entry: dict[str, Any] = {"board": str(address), "failed": None, "verification": None, "results": []}
        everything["boards"].append(entry)

        def update(result: dict[str, Any], entry: dict[str, Any] = entry) -> None:
            entry.update(result)
            save(everything)

        def show(line: str, name: str = str(address)) -> None:
            say(f"{name}: {line}")

        try:
            show("connect")
            with address.connect(say) as board:
                show("verify")
                machine = machine_on(board)
                entry["verification"] = verify_on(machine, board.name, artifact).to_dict()
                save(everything)
                entry.update(bench(artifact, request, machine, show, update))
        except TernError as error:
            entry["failed"] = str(error)
        save(everything)
    return everything
