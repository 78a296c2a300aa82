"""The page as text: nothing in a file becomes code, and nothing is fetched."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from tests.tvm_schedules.report.documents import BENCH, HOSTILE, INSPECTION, training
from tvm_schedules.report.page import EPOCHS, page
from tvm_schedules.report.run import Run


class Reader(html.parser.HTMLParser):
    """Collects elements, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] and self.elements[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_names_from_files_stay_text() -> None:
    run = Run(HOSTILE, INSPECTION, [BENCH], training())
    reader = read(page([run]))
    assert [tag for tag, _ in reader.elements].count("script") == 3
    assert "img" not in [tag for tag, _ in reader.elements]
    data = json.loads(reader.scripts[0])
    assert data["runs"][0]["name"] == HOSTILE
    assert data["runs"][0]["inspection"]["layers"][0]["name"] == HOSTILE


def test_the_page_needs_nothing_else() -> None:
    text = page([Run("a", INSPECTION, [BENCH], training())])
    reader = read(text)
    sources = [value for _, one in reader.elements for key, value in one.items() if key in ("src", "href")]
    assert sources == ["data:,"]
    (policy,) = [one["content"] or "" for tag, one in reader.elements if one.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert not re.search(r"https?://", policy)
    assert "sourceMappingURL" not in text
    assert len(text.encode()) < 400_000


def test_numbers_that_are_none_become_null_and_a_long_training_is_thinned() -> None:
    data = json.loads(read(page([Run("a", INSPECTION, [], training(epochs=1001))])).scripts[0])["runs"][0]
    assert data["inspection"]["details"]["verification"]["outputs"][0]["relative"] is None
    numbers = [epoch["epoch"] for epoch in data["training"]["epochs"]]
    assert (len(numbers), numbers[0], numbers[-1]) == (EPOCHS, 0, 1000)


def test_no_runs_are_no_page() -> None:
    with pytest.raises(ValueError, match="got none"):
        page([])
