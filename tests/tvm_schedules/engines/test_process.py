"""An engine's process: what is said when it cannot start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_schedules.engines.process import Engine, Worker
from tvm_schedules.errors import BenchError


def test_a_failing_engine_is_named(tmp_path: Path) -> None:
    engine = Engine("broken", "onnxruntime", str(tmp_path / "bad.onnx"), 7)
    with pytest.raises(BenchError, match="broken failed: "):
        Worker(engine, tmp_path, 1, [])


def test_an_engine_that_says_no_json_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho hello\n")
    python.chmod(0o755)
    with pytest.raises(BenchError, match="the answer of odd"):
        Worker(Engine("odd", "openvino", "", 0, python=str(python)), tmp_path, 1, [])


def test_an_engine_that_ends_without_a_word_says_why_on_its_error_stream(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no module called snake >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(BenchError, match="silent failed: no module called snake"):
        Worker(Engine("silent", "openvino", "", 0, python=str(python)), tmp_path, 1, [])
