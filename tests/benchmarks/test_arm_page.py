"""The page of counted instructions: which engine is the best, and what is reached."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import arm_page
from benchmarks.measured_pages import read


def ours(what: str, engine: str, count: int, zeros: float | None = 0.8, target: str = "a72") -> dict[str, Any]:
    return {
        "what": what,
        "zeros": zeros,
        "target": target,
        "engine": engine,
        "instructions": {"all": count},
        "cycles": None,
    }


def peer(what: str, engine: str, count: int, target: str = "a72") -> dict[str, Any]:
    return {"what": what, "target": target, "engine": engine, "instructions": count, "cycles": None}


def test_layers_are_compared_with_their_copies_and_with_the_best_engine() -> None:
    rows = [
        ours("conv3x3", "tern", 1),
        ours("conv3x3", "tern whole", 391_000),
        ours("conv3x3", "onnxruntime", 3_000_000),
    ]
    peers = {"rows": [peer("conv3x3", "a", 960_000), peer("conv3x3", "b", 900_400), peer("conv3x3", "a", 1, "a76")]}
    (line,) = arm_page.lines({"rows": rows}, peers, "a72")
    assert line.cells() == [arm_page.WORK["conv3x3"], "80 %", "391", "", "b 900", "2.30", "2.3, reached"]


@pytest.mark.parametrize(("count", "reached"), [(434, True), (446, False)])
def test_aims_are_compared_with_as_many_digits_as_they_have(count: int, reached: bool) -> None:
    rows = [ours("conv3x3", "tern whole", count)]
    (line,) = arm_page.lines({"rows": rows}, {"rows": [peer("conv3x3", "a", 1000)]}, "a72")
    assert line.reached is reached


def test_some_layers_are_compared_alone_and_dense_ones_with_the_same_peers() -> None:
    rows = [
        ours(what, engine, count, None)
        for what in ("depthwise", "dense3x3")
        for engine, count in (("tern", 180), ("tern whole", 300))
    ]
    peers = {"rows": [peer("depthwise", "a", 199), peer("conv3x3", "b", 330)]}
    assert [line.ratio for line in arm_page.lines({"rows": rows}, peers, "a72")] == [199 / 180, 1.1]


def test_onnxruntime_of_the_same_run_counts_and_work_without_peers_has_no_ratio() -> None:
    rows = [ours("resnet20", "tern", 100), ours("resnet20", "onnxruntime", 700), ours("mobilenetv2", "tern", 50)]
    first, second = arm_page.lines({"rows": rows}, {"rows": [peer("resnet20", "a", 800)]}, "a72")
    assert (first.ratio, first.reached, first.best["engine"]) == (7.0, True, "onnxruntime int8")
    assert (second.ratio, second.reached) == (None, None)


def test_the_page_names_the_best_engine_of_every_core() -> None:
    text = "\n".join(arm_page.page(read("arm"), read("arm-peers"), read("arm-32")))
    for name in arm_page.CORES.values():
        assert f"## {name}" in text
    assert "ncnn int8 7,049" in text
    assert "the ratio that was to be reached; " in " ".join(text.split())
