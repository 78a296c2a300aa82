from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tvm_schedules import fake
from tvm_schedules.artifact import process

USUAL = process.START


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the small compiler in the real one's place; call it to make libraries that are wrong by ``error``."""

    def install(error: float = 0.0) -> None:
        fake.install(monkeypatch.setitem, error)
        there = f"from tests.tvm_schedules import fake; fake.install(dict.__setitem__, {error}); "
        where = USUAL.index("from tvm_schedules")
        monkeypatch.setattr(process, "START", USUAL[:where] + there + USUAL[where:])

    install()
    return install
