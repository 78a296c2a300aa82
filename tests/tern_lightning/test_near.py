"""A name that is not known comes with one that is near."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tern_lightning
from tern_lightning import (
    ActivationQuantization,
    PruningSchedule,
    Rule,
    Schedule,
    TernaryCallback,
)
from tern_lightning.exporter.options import ExportOptions

CASES: dict[str, Callable[[], Any]] = {
    "twn": lambda: TernaryCallback("tnw"),
    "per_channel": lambda: TernaryCallback("twn", options={"per_chanel": True}),
    "factor": lambda: Rule("x", method="twn", options={"facter": 1.0}),
    "cubic": lambda: Schedule("cubix"),
    "global": lambda: PruningSchedule(0.5, scope="globl"),
    "block": lambda: PruningSchedule(0.5, pattern="blok"),
    "samples": lambda: tern_lightning.export(None, "x", sampels=None),
    "uint8": lambda: ExportOptions(activations="uint88"),
}


@pytest.mark.parametrize("name", CASES)
def test_hint(name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"did you mean '{name}'\?$"):
        CASES[name]()


def test_a_preset_and_an_observer() -> None:
    with pytest.raises(ValueError, match="sws-cifar10"):
        tern_lightning.preset("sws-cifar1")
    with pytest.raises(Exception, match="did you mean 'minmax'"):
        ActivationQuantization(observer="minmx").on_fit_start(None, None)
