"""Printing names that others have chosen: layers, nodes and files are text, never markup or orders to the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["make_console", "plain", "printable", "reporter"]


def printable(text: object) -> str:
    r"""Text without characters that a terminal obeys or hides; they come as Python writes them. Lines stay.

    >>> print(printable("conv\x1b[2J\u202e"))
    conv\x1b[2J\u202e
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


def reporter(log: logging.Logger) -> Callable[[str], None]:
    """Where lines of progress go unless a caller says: to the log, or to standard error where somebody looks at it.

    Args:
        log: Takes the lines at level INFO where it is on, as it is where a program has set up logging so.
    """

    def say(line: str) -> None:
        if log.isEnabledFor(logging.INFO):
            log.info("%s", line, stacklevel=2)
        elif sys.stderr.isatty() or "ipykernel" in sys.modules:
            print(printable(line), file=sys.stderr, flush=True)

    return say


def plain(text: object) -> Text:
    """Text for places of ``rich`` that would read markup whatever the console says, such as a status."""
    from rich.text import Text

    return Text(printable(text))


def make_console(width: int | None = None, **options: Any) -> Console:
    """A ``rich`` console on which every string, also in tables and titles, is what it is.

    Args:
        width: Columns where the output is no terminal and so has no width of its own.
        options: Passed on to ``rich.console.Console``.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """
    from rich.console import Console

    class Plain(Console):
        """Prints strings without characters that do something."""

        def render_str(self, text: str, **more: Any) -> Text:
            return super().render_str(printable(text), **more)

    options = {"markup": False, "emoji": False, "highlight": False, **options}
    console = Plain(**options)
    return console if console.is_terminal or width is None else Plain(width=width, **options)
