"""Links that work both on a code host and in the site.

Documents link to each other and to files of the repository by relative paths, as a code host shows them. In the site
some of these files are pages of their own and the others are not there, so that a link becomes one to the page, or one
to the file on the code host.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HOST = "https://github.com/tern-lightning/tern-lightning"
TUTORIALS = ROOT / "examples" / "tutorials"
METHODS = ROOT / "tern_lightning" / "quantizers"
"""Modules that have a page: one of each method."""
FRONT = {"README.md": "index.md"}
"""Documents that have no page because a page of the site takes their place."""
COPIES = {
    "CONTRIBUTING.md": "generated/pages/contributing.md",
    "CHANGELOG.md": "generated/pages/changelog.md",
    "examples/edge/README.md": "generated/pages/edge.md",
    "examples/cpp/README.md": "generated/pages/cpp.md",
    "examples/c/README.md": "generated/pages/c.md",
}
"""Documents outside of ``docs`` and the pages that are made of them."""
PAGES = FRONT | COPIES

_LINK = re.compile(r"(!?\[[^\]]*\]\()(?!https?:|mailto:|#|/)([^)#\s]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"^( *)(`{3,}|~{3,}|:{3,})")


def site_links(text: str, source: Path, page: Path) -> str:
    """Rewrite the relative links of a document.

    Args:
        text: Markdown.
        source: The file that it is from, which its links are relative to.
        page: The page in ``docs`` that it becomes.

    Returns:
        The text with links to pages of the site, or to the code host. Images stay files.
    """

    def link(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / match[2]))
        if target.is_relative_to(ROOT):
            return f"{match[1]}{_where(target, page, image=match[0].startswith('!'))}{match[3]}"
        return match[0]

    lines, fence = [], ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and not fence and mark[2][0] != ":":
            fence = mark[2]
        elif mark and mark[2] == fence:
            fence = ""
        elif not fence:
            line = _LINK.sub(link, line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _where(target: Path, page: Path, image: bool) -> str:
    """A path from a page to another one, or the address of a file that is not part of the site."""
    name = target.relative_to(ROOT).as_posix()
    if target.parent == TUTORIALS and target.suffix == ".py":
        return os.path.relpath(DOCS / "tutorials" / target.stem, page.parent) + ".rst"
    if target.parent == METHODS and target.stem not in ("__init__", "base"):
        return os.path.relpath(DOCS / "generated" / "methods" / f"{target.stem}.md", page.parent)
    for candidate in (name, f"{name}/README.md"):
        if candidate in PAGES:
            return os.path.relpath(DOCS / PAGES[candidate], page.parent)
    if image or target.is_relative_to(DOCS):
        return os.path.relpath(target, page.parent)
    return f"{HOST}/{'tree' if target.is_dir() else 'blob'}/main/{name}"


def write_changed(path: Path, text: str) -> None:
    """Write a file, unless it holds the text already: Sphinx reads again what is newer than its last build."""
    if not path.is_file() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def copy_documents() -> None:
    """Make the pages of :data:`COPIES`."""
    for name, page in COPIES.items():
        source = ROOT / name
        write_changed(DOCS / page, site_links(source.read_text(), source, DOCS / page))
