"""The command that measures the zoo, with programs in place of exports; and the page about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks.zoo import __main__ as command
from benchmarks.zoo.page import zoo

WRITE = "import json, pathlib, sys; folder = pathlib.Path(sys.argv[2]); row = {'name': sys.argv[1], 'stage': 'export'}"
SAVE = "(folder / 'result.json').write_text(json.dumps(row))"


def program(*lines: str) -> tuple[str, ...]:
    return sys.executable, "-c", "; ".join([WRITE, *lines])


@pytest.mark.parametrize(
    ("lines", "result", "error"),
    [
        ((f"row['result'] = 'ok'; {SAVE}",), "ok", ""),
        ((SAVE, "import os; print('last words', flush=True); os.abort()"), "crashed", "exit status -6: last words"),
        (("raise SystemExit('no result')",), "crashed", "exit status 1: no result"),
        ((SAVE, "import time; time.sleep(60)"), "slow", "not done in 1 s, at: export"),
    ],
)
def test_however_a_process_ends_it_is_a_row(
    lines: tuple[str, ...], result: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "COMMAND", program(*lines))
    row = command.run_apart("espcn", 1 if result == "slow" else 60)
    assert (row["name"], row["result"], row["kind"]) == ("espcn", result, "super-resolution")
    assert row.get("error", "").startswith(error)


def test_what_the_file_has_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def fake(name: str, timeout: float, how: Any) -> dict[str, Any]:
        done.append(name)
        return {"name": name, "kind": "sound", "result": "refused" if name == "m5" else "ok"}

    monkeypatch.setattr(command, "run_apart", fake)
    output = str(tmp_path / "zoo.json")
    assert command.main(["--only", "espcn", "--output", output]) == 0
    assert command.main(["--only", "espcn,m5", "--output", output]) == 1
    assert done == ["espcn", "m5"]
    assert set(json.loads(Path(output).read_text())["rows"]) == {"espcn", "m5"}
    assert command.main(["--only", "espcn", "--output", output, "--again"]) == 0
    assert done == ["espcn", "m5", "espcn"]
    with pytest.raises(SystemExit):
        command.main(["--only", "nothing", "--output", output])


def test_the_page_has_every_network() -> None:
    rows = {
        "a": {"name": "a", "kind": "text", "result": "ok", "seconds": 3.2, "bytes": 12345, "aim": 2.0, "rival": "int8",
              "ratios": {"onnxruntime fp32": 3.456, "onnxruntime int8": 2.1}},
        "b": {"name": "b", "kind": "sound", "result": "refused", "error": "node 'x':\n operator Foo"},
    }  # fmt: skip
    data = {"machine": {"cores": 2, "cpu": "Some CPU"}, "when": "2026-01-01", "rows": rows}
    nodes = {"counts": {"passed": 5, "left out": 2, "refused": 1}, "refused": {"Foo": 1}, "other": {}}
    text = zoo(data, nodes)
    assert "| **a** | ok | 3 | 12 | 3.46 | 2.10 | 2 int8 |" in text
    assert "- `b`, refused: node 'x': operator Foo" in text
    assert "Of 6 tests that onnxruntime passes" in text
    assert "Of 2 networks: 1 compiled and verified; 1 refused with a reason." in text
