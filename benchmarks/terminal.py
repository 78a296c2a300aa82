"""What commands print, of committed measurements: ``python -m benchmarks.terminal`` writes what pages show.

``docs/_static/demo.svg`` is the end of ``make demo`` as a picture of a terminal, and the page about boards has the
tables of ``tern-bench``. Both are printed by the code that prints them for a user, from ``measured/digits.json``.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from benchmarks.measured_pages import read
from tvm_schedules.common.files import write_file

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "_static" / "demo.svg"
BOARDS = ROOT / "docs" / "boards" / "index.md"
BEGIN = "```text\nAMD"
END = "\n```"
LAYERS = 3


def demo() -> str:
    """The end of ``make demo`` as SVG, without fonts from other sites."""
    from rich.console import Console

    from examples import digits_report

    console = Console(record=True, file=io.StringIO(), width=96, highlight=False)
    digits_report.show(read("digits"), Path("runs/digits"), console)
    text = console.export_svg(title="make demo", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)


def bench() -> str:
    """The tables of ``tern-bench`` with its slowest layers, as text."""
    from rich.console import Console

    from tvm_schedules.bench import report

    console = Console(file=io.StringIO(), width=140, highlight=False)
    for part in report.parts(read("digits")["bench"], LAYERS):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def with_bench(page: str) -> str:
    """A page whose sample is what :func:`bench` prints."""
    start = page.index(BEGIN)
    head, tail = page[:start], page[page.index(END, start) :]
    return f"{head}{BEGIN.removesuffix('AMD')}{bench()}{tail}"


def main() -> int:
    """Write the picture and the sample."""
    write_file(PICTURE, demo())
    write_file(BOARDS, with_bench(BOARDS.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
