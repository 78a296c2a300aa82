"""Do links inside the built site lead somewhere? ``python docs/sitetools/site_check.py docs/_build/html``.

Sphinx knows the references of its sources. This reads what came out: every link and picture of every page, those of
the theme, of the gallery and of generated pages too, with the place in the page that it names. Links to other sites
are left to ``make docs-links``.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page can be asked for, and what it asks for.

    Attributes:
        names: Places that a link can name.
        links: Addresses of links, pictures, scripts and style sheets.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what an element is called and where it leads."""
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.names.add(value)
            elif value and name in ("href", "src"):
                self.links.add(value)


def broken(site: Path) -> list[str]:
    """Every link inside a site that leads nowhere, as ``page: link``, sorted.

    Args:
        site: The folder of the built pages.
    """
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            where = urlsplit(link)
            if where.scheme or where.netloc:
                continue
            target = (path.parent / unquote(where.path)).resolve() if where.path else path
            other = pages.get(target)
            name = unquote(where.fragment)
            if not target.is_file() or (name and other is not None and name not in other.names):
                found.append(f"{path.relative_to(site.resolve())}: {link}")
    return sorted(found)


def main() -> int:
    """Print the links of the site in the first argument that lead nowhere; 1 if there are any."""
    site = Path(sys.argv[1])
    found = broken(site)
    print("\n".join(found) or f"all links inside {site} lead somewhere")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
