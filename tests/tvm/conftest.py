from __future__ import annotations

import sys
import types
from collections.abc import Callable

import pytest

from . import fake


@pytest.fixture
def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put the small compiler in the real one's place; call it to make libraries that are wrong by ``error``."""

    def install(error: float = 0.0) -> None:
        compiler = types.ModuleType("tvm_schedules.compile")
        compiler.compile_model = lambda model, target, progress=None: fake.compile_model(model, target, progress, error)  # type: ignore[attr-defined]
        constants = types.ModuleType("tvm_schedules.constants")
        constants.expand = fake.expand  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tvm_schedules.compile", compiler)
        monkeypatch.setitem(sys.modules, "tvm_schedules.constants", constants)

    install()
    return install
