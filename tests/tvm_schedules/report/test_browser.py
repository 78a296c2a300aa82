"""The page in a browser: it draws, sorts and unfolds, and nothing leaves it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tvm_schedules.report.documents import BENCH, HOSTILE, INSPECTION, bench, training
from tvm_schedules.report.page import write_page
from tvm_schedules.report.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (Debian: chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class Page:
    """A page that was opened from its file, and what went wrong on it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.complaints: list[str] = []
        self.tab = browser.new_page(**options)
        self.tab.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", self._note)
        self.tab.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.path = path
        self.tab.goto(path.as_uri())

    def _note(self, request: Any) -> None:
        if request.url != self.path.as_uri() and not request.url.startswith("data:"):
            self.complaints.append(f"asks for {request.url}")

    def names(self, caption: str) -> list[str]:
        """The first cells of a table's rows."""
        cells = self.tab.locator(f"div[aria-label='{caption}'] tbody tr:not(.more) > :first-child")
        return [text.strip() for text in cells.all_inner_texts()]

    def painted(self) -> list[bool]:
        """Of every chart, whether anything was drawn."""
        found: list[bool] = self.tab.evaluate(
            "() => [...document.querySelectorAll('canvas')].map((canvas) => canvas.getContext('2d')"
            ".getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value))"
        )
        return found


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return write_page([Run("net", INSPECTION, [BENCH], training())], tmp_path / "one.html")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    runs = [
        Run("slow", None, [bench(9.0)], training(accuracy=0.95)),
        Run("fast", None, [bench(1.0)], training(accuracy=0.90)),
        Run("beaten", None, [bench(9.5)], training(accuracy=0.80)),
        Run(HOSTILE, INSPECTION),
    ]
    return write_page(runs, tmp_path / "several.html")


def test_it_draws_everything_and_asks_for_nothing(browser: Any, one: Path) -> None:
    page = Page(browser, one)
    assert page.painted() == [True] * 4  # latency, bytes, training, layers
    assert page.tab.locator(".tile").count() == 7
    assert "3 times faster than onnxruntime int8" in page.tab.locator(".tiles").inner_text()
    assert page.complaints == []


def test_a_slower_network_is_called_slower(browser: Any, tmp_path: Path) -> None:
    slow = copy.deepcopy(BENCH)
    slow["results"][0]["engines"][1]["ratio"] = 0.5
    page = Page(browser, write_page([Run("net", INSPECTION, [slow])], tmp_path / "slow.html"))
    assert "2 times slower than onnxruntime int8, the fastest" in page.tab.locator(".tiles").inner_text()
    assert page.complaints == []


def test_a_budget_stands_beside_what_was_measured(browser: Any, tmp_path: Path) -> None:
    trained = training()
    trained["epochs"][-1]["values"] |= {"budget/host_ms": 0.9, "budget/host_ms/limit": 1.1}
    page = Page(browser, write_page([Run("net", INSPECTION, [BENCH], trained)], tmp_path / "budget.html"))
    assert page.tab.locator(".tile").count() == 8
    said = page.tab.locator(".tile", has_text="budget host_ms").inner_text()
    assert said.split("\n") == ["budget host_ms", "0.9", "estimated, of 1.1, 1 measured"]
    assert page.complaints == []


def test_tables_sort_by_every_column_with_mouse_and_keyboard(browser: Any, one: Path) -> None:
    page = Page(browser, one)
    assert page.names("Layers") == [HOSTILE, "b", "c"]
    heads = page.tab.locator("div[aria-label='Layers'] thead button")
    heads.filter(has_text="bytes").click()
    assert page.names("Layers") == ["b", "c", HOSTILE]  # 30, 11, 9
    heads.filter(has_text="bytes").press("Enter")
    assert page.names("Layers") == [HOSTILE, "c", "b"]
    heads.filter(has_text="µs").click()
    assert page.names("Layers") == ["b", HOSTILE, "c"]  # 7, 3 and unknown
    assert page.tab.locator("th[aria-sort]").all_inner_texts() == ["µs"]
    assert page.complaints == []


def test_a_layer_unfolds_to_its_facts_and_histogram(browser: Any, one: Path) -> None:
    page = Page(browser, one)
    button = page.tab.get_by_role("button", name="details of b")
    button.press("Enter")
    shown = page.tab.locator("tr.more:not([hidden])")
    assert "75 % zeros" in shown.inner_text()
    assert "twn" in shown.inner_text()
    shown.locator("canvas").nth(1).wait_for()
    assert page.painted() == [True] * 6
    button.click()
    assert shown.count() == 0
    assert page.complaints == []


def test_figures_are_there_as_tables_too(browser: Any, one: Path) -> None:
    page = Page(browser, one)
    latency = page.tab.locator("figure", has_text="Medians of interleaved rounds")
    latency.locator("summary").click()
    assert latency.locator("tbody tr").first.inner_text().split("\t")[:2] == ["tern", "1"]
    latency.locator("select").select_option(index=1)  # two threads
    assert latency.locator("tbody tr").first.inner_text().split("\t")[:2] == ["tern", "0.5"]
    assert page.complaints == []


def test_runs_are_compared_and_opened_one_by_one(browser: Any, several: Path) -> None:
    page = Page(browser, several)
    chart = page.tab.locator("figure", has_text="no other run beats")
    chart.locator("summary").click()
    rows = [text.split("\t") for text in chart.locator("tbody tr").all_inner_texts()]
    assert {row[0]: row[3] for row in rows} == {"slow": "yes", "fast": "yes", "beaten": ""}
    assert page.names("Runs") == ["slow", "fast", "beaten", HOSTILE]
    page.tab.get_by_role("tab").nth(3).click()
    assert page.tab.locator("h2").inner_text() == HOSTILE
    assert page.names("Layers") == [HOSTILE, "b", "c"]
    assert page.complaints == []


def test_runs_without_quality_or_cost_have_no_empty_chart(browser: Any, tmp_path: Path) -> None:
    path = write_page([Run("a", INSPECTION), Run("b", training=training())], tmp_path / "apart.html")
    page = Page(browser, path)
    assert page.tab.locator("figure", has_text="Quality over cost").count() == 0
    assert "into one folder" in page.tab.locator("p.notes").first.inner_text()
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colors(browser: Any, one: Path, scheme: str) -> None:
    page = Page(browser, one, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= 390
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.tab.evaluate(ground)
    page.tab.get_by_role("button", name="Dark colors" if scheme == "light" else "Light colors").click()
    assert page.tab.evaluate(ground) != before
    assert page.painted() == [True] * 4
    assert page.complaints == []
