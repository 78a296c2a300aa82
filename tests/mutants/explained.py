"""Changes that no test can notice, with the reason: ``explained.txt`` beside this file.

Four lines for each: file, text of the line, change, reason; an empty line between two. ``#`` starts a comment.
"""

from __future__ import annotations

from pathlib import Path

LIST = Path(__file__).with_name("explained.txt")


def explanations(path: Path = LIST) -> dict[tuple[str, str, str], str]:
    """Reasons by file, text of the line and change.

    Raises:
        ValueError: An entry has other than four lines.
    """
    found = {}
    for entry in path.read_text().split("\n\n"):
        lines = [line.strip() for line in entry.strip().splitlines() if not line.startswith("#")]
        if len(lines) not in (0, 4):
            raise ValueError(f"{path.name}: an entry has file, line, change and reason, not {lines}")
        if lines:
            found[lines[0], lines[1], lines[2]] = lines[3]
    return found
