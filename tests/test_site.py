"""What the documentation site is made of: links of documents, and the list of public names."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from sitetools import links, site_check  # noqa: E402


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/running.md", "[a](papers.md#x)", "[a](papers.md#x)"),
        ("docs/running.md", "[a](../examples/edge/README.md)", "[a](generated/pages/edge.md)"),
        ("docs/boards/index.md", "[a](../../examples/edge)", "[a](../generated/pages/edge.md)"),
        ("docs/running.md", "[a](../examples/edge/check.py)", f"[a]({links.HOST}/blob/main/examples/edge/check.py)"),
        ("docs/running.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/start.md", "[a](../examples/tutorials/prune.py)", "[a](tutorials/prune.rst)"),
        ("docs/running.md", "[a](../tests)", f"[a]({links.HOST}/tree/main/tests)"),
        ("docs/benchmarks/x.md", "![a](../../benchmarks/b.svg)", "![a](../../benchmarks/b.svg)"),
        ("docs/running.md", "[a](https://example.org/x) [b](#c)", "[a](https://example.org/x) [b](#c)"),
        ("docs/running.md", "```\n[a](../tests)\n```", "```\n[a](../tests)\n```"),
        ("docs/running.md", ":::{note}\n[a](../tests)\n:::", f":::{{note}}\n[a]({links.HOST}/tree/main/tests)\n:::"),
    ],
)
def test_links_of_documents_in_the_site(source: str, text: str, expected: str) -> None:
    assert links.site_links(text, ROOT / source, ROOT / source) == expected + "\n"


def test_links_of_a_document_that_becomes_a_page_elsewhere() -> None:
    page = DOCS / links.COPIES["CONTRIBUTING.md"]
    assert links.site_links("[a](docs/papers.md)", ROOT / "CONTRIBUTING.md", page) == "[a](../../papers.md)\n"
    assert links.site_links("[a](examples/edge)", ROOT / "CONTRIBUTING.md", page) == "[a](edge.md)\n"
    assert links.site_links("[a](README.md)", ROOT / "CONTRIBUTING.md", page) == "[a](../../index.md)\n"
    methods = DOCS / "methods.md"
    own, base = ("[a](../tern_lightning/quantizers/twn.py)", "[a](../tern_lightning/quantizers/base.py)")
    assert links.site_links(own, methods, methods) == "[a](generated/methods/twn.md)\n"
    assert links.HOST in links.site_links(base, methods, methods)


def test_links_of_built_pages_are_followed(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "picture.svg").write_text("<svg/>")
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="api/net.html#Net">1</a> <a href="#top">2</a> <a href="https://example.org/x">3</a>'
        '<img src="picture.svg"> <a href="api/net.html#net">4</a> <a href="gone.html">5</a> <a href="#gone">6</a>'
    )
    (tmp_path / "api" / "net.html").write_text(
        '<p id="Net"><a href="../index.html#top">7</a><img src="picture.svg"></p>'
    )
    assert site_check.broken(tmp_path) == [
        "api/net.html: picture.svg",
        "index.html: #gone",
        "index.html: api/net.html#net",
        "index.html: gone.html",
    ]


def test_documents_that_become_pages_exist() -> None:
    assert [name for name in links.PAGES if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "package",
    [
        "tern_lightning",
        "tern_lightning.functional",
        "tern_lightning.metrics",
        "tern_lightning.quantizers",
        "tvm_schedules",
    ],
)
def test_every_public_name_is_in_the_reference(package: str) -> None:
    text = "".join(path.read_text() for path in sorted((DOCS / "api").glob("*.md")))
    sections = re.split(r"\.\. currentmodule:: (\S+)\n", text)
    listed = {name for at in range(1, len(sections), 2) if sections[at] == package for name in sections[at + 1].split()}
    public = {name for name in importlib.import_module(package).__all__ if not name.startswith("__")}
    assert public - listed == set()


def test_every_method_has_a_title_and_a_formula() -> None:
    pytest.importorskip("torch")
    from sitetools import methods

    from tern_lightning.quantizers import get_quantizer, quantizer_names

    assert set(methods.NAMES) == set(quantizer_names())
    for name in quantizer_names():
        assert methods.formulas(type(get_quantizer(name))), name
        assert "math:" in methods.page(name), name


def test_pages_of_methods_show_options_presets_and_measurements() -> None:
    pytest.importorskip("torch")
    from sitetools import methods

    text = methods.page("sws")
    assert "autoclass:: tern_lightning.quantizers.sws.SWS" in text
    assert "`rel4-imagenet`" in text
    row = next(row for row in json.loads(methods.MEASURED.read_text())["rows"] if row["name"] == "sws")
    assert f"{row['accuracy']:.2f} % correct" in text
    assert methods.overview().count("\n") == 2 + len(methods.NAMES)
    assert "- ResNet-34 on ImageNet: 70.95 % (float 73.31 %)" in text
    table = methods.published()
    assert "| `sws-imagenet` | ResNet-34, ImageNet: 70.95 % | 73.31 % |" in table.replace("\N{NO-BREAK SPACE}", " ")
    assert "| `ttq-cifar10` | ResNet-56, CIFAR-10: +0.36 points | | abstract |" in table
    assert "`twn`" in table.splitlines()[-1]
    assert "| `twn` |" not in table


def test_the_operators_of_c_are_those_that_it_knows() -> None:
    """Both ways: what its back end has is accepted and in the table, and nothing else is."""
    pytest.importorskip("tvm")
    from sitetools import operators

    from tvm_schedules.backends.c.operators import known

    kernels = {"Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Flatten"}
    own = {name for name in known() if ":" not in name} | kernels | {"QuantizeLinear", "DequantizeLinear"}
    found = operators.supported("c")
    assert {name for name, forms in found.items() if any(forms)} == own
    assert found["Softmax"] == (True, True)
    assert found["Sqrt"] == (True, True)
    assert found["ArgMax"] == (True, False)
    assert found["Gather"] == found["Attention"] == (True, True)


def test_graphics_processors_have_the_operators_of_the_cpu_but_recurrent_ones() -> None:
    pytest.importorskip("tvm")
    from sitetools import operators

    asked = operators.supported("opencl", ["GRU", "LSTM", "RNN", "LogSoftmax"])
    assert asked == {"GRU": (False, False), "LSTM": (False, False), "RNN": (False, False), "LogSoftmax": (True, True)}


def test_kernels_are_listed() -> None:
    from sitetools import operators

    assert set(operators.kernels("cpu")) >= {"sparse", "dense", "linear", "repack"}


@pytest.mark.slow
def test_the_operators_of_the_cpu_are_those_that_it_takes() -> None:
    """What is listed is compiled and agrees with onnxruntime; what is listed as refused is refused."""
    pytest.importorskip("tvm")
    pytest.importorskip("onnxruntime")
    from sitetools import operators

    from benchmarks.zoo.operators import ACCEPTED, tests_of, verdict

    asked = json.loads(operators.ASKED.read_text())
    wrong = [one for one, name in asked["accepted"].items() if verdict(name)[0] not in ACCEPTED]
    assert wrong == []
    assert [one for one, name in asked["refused"].items() if verdict(name)[0] != "refused"] == []
    assert asked["accepted"].keys() | asked["refused"].keys() <= tests_of().keys()
    assert len(asked["accepted"]) > 100
