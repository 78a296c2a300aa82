"""Puts measured figures and tables of the code into documents: ``python docs/sitetools/fill.py``.

A document says what stands at a place, in a comment before it: ``<!--=glyphs["twn"].lost-->1.06<!--/-->``. So it reads
the same in a checkout, on a code host and in the site. ``--check`` says which documents are out of date, which a test
asks too.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import jinja2

from benchmarks.measured_pages import update
from sitetools import figures, methods, operators
from sitetools.links import DOCS, ROOT

_PLACE = re.compile(r"(<!--=(.*?)-->)(.*?)(<!--/-->)", re.DOTALL)
_HEAD = re.compile(r"(?m)^ {0,3}<!--=[^\n]*-->[^\n]+$")
_EXPRESSIONS = jinja2.Environment(undefined=jinja2.StrictUndefined)


def tables() -> dict[str, Callable[[], str]]:
    """What makes each table, by the name that documents have for it."""
    return {"methods": methods.overview, "published": methods.published, **operators.tables()}


@cache
def values() -> dict[str, Any]:
    """Everything that documents may name."""
    return {**figures.figures(), "table": {name: make().strip("\n") for name, make in tables().items()}}


def fill(text: str, known: Mapping[str, Any]) -> str:
    r"""A document with today's figures and tables.

    Args:
        text: Markdown.
        known: What expressions may name.

    Raises:
        ValueError: An expression is no expression, names nothing that is known, or stands at the start of a line,
            where Markdown takes the line for HTML.

    >>> fill("loses <!--=twn.lost-->1<!--/--> points", {"twn": {"lost": "1.06"}})
    'loses <!--=twn.lost-->1.06<!--/--> points'
    >>> fill("<!--=rows-->\n<!--/-->", {"rows": "| a |\n|---|"})
    '<!--=rows-->\n\n| a |\n|---|\n\n<!--/-->'
    """

    def put(match: re.Match[str]) -> str:
        try:
            found = str(_EXPRESSIONS.compile_expression(match[2], undefined_to_none=False)(**known))
        except jinja2.TemplateError as error:
            raise ValueError(f"{match[1]}: {error}") from error
        block = "\n\n" if match[3][:1] == "\n" else ""
        return f"{match[1]}{block}{found}{block}{match[4]}"

    made = _PLACE.sub(put, text)
    at_start = _HEAD.search(made)
    if at_start:
        raise ValueError(f"a figure must not be the first word of a line: {at_start[0]}")
    return made


def documents() -> list[Path]:
    """The documents that have such places."""
    own = [path for path in sorted(DOCS.rglob("*.md")) if not {"generated", "_build"} & set(path.parts)]
    return [path for path in own if "<!--=" in path.read_text()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the documents, or check them; 1 where they are out of date."""
    parser = argparse.ArgumentParser(prog="python docs/sitetools/fill.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, say which documents are out of date")
    options = parser.parse_args(arguments)
    made = {path: fill(path.read_text(), values()) for path in documents()}
    return update(made, ROOT, options.check)


if __name__ == "__main__":
    sys.exit(main())
