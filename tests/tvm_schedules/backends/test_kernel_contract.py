"""Every kernel has the name and the parts that ``docs/kernel-names.md`` asks for."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tvm_schedules.backends import registry
from tvm_schedules.lowering.base import Lowering

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/kernel-names.md").read_text()


def lowering_of(package: str) -> type[Lowering]:
    """The one subclass of Lowering in the module ``lower`` of a back end."""
    module = importlib.import_module(f"{package}.lower")
    classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    (found,) = [one for one in classes if issubclass(one, Lowering)]
    return found


PACKAGES = [module.rpartition(".")[0] for module in registry.MODULES]
LOWERINGS = {package.rpartition(".")[2]: lowering_of(package) for package in PACKAGES}
FILES = [
    (side, path.stem)
    for side in LOWERINGS
    for path in sorted((ROOT / "tvm_schedules/backends" / side / "kernels").glob("*.py"))
    if path.stem != "__init__"
]


def rows(columns: int) -> list[list[str]]:
    """Rows of the page's tables with so many columns, without code marks and headings."""
    lines = [line.replace("`", "").strip("|").split("|") for line in PAGE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if len(line) == columns]


def words(part: str) -> str:
    found = [row[1] for row in rows(3) if row[0] == part]
    assert found, part
    return "|".join(found)


def grammar() -> str:
    operation, given, variant = words("operation"), words("input"), words("variant")
    return f"(({words('weights or reduction')})_)?({operation})(_({given}))?(_({variant}))?"


def module_of(side: str, name: str) -> ModuleType:
    return importlib.import_module(f"tvm_schedules.backends.{side}.kernels.{name}")


@pytest.mark.parametrize(("side", "name"), FILES)
def test_names_follow_the_grammar(side: str, name: str) -> None:
    assert re.fullmatch(grammar(), name)


@pytest.mark.parametrize("name", ["", "conv_panel_dot", "dot", "wide_conv", "conv_dense", "sparse_conv_7x7"])
def test_other_names_do_not(name: str) -> None:
    assert not re.fullmatch(grammar(), name)


@pytest.mark.parametrize(("side", "name"), FILES)
def test_kernels_keep_the_contract(side: str, name: str) -> None:
    module: Any = module_of(side, name)
    assert {"NAME", "Spec", "emit"} <= set(module.__all__)
    assert dataclasses.is_dataclass(module.Spec)
    assert module.Spec.__dataclass_params__.frozen
    assert "Bound by " in inspect.getdoc(module)
    assert inspect.getdoc(module.emit)
    emitters = LOWERINGS[side].emitters
    assert emitters[module.NAME] is module.emit
    if name.startswith("repack"):
        assert not hasattr(module, "lower")
    else:
        assert module in LOWERINGS[side].kernels
        assert list(inspect.signature(module.lower).parameters) == ["ctx", "node"]
        assert inspect.getdoc(module.lower).startswith("Takes ")


def test_the_page_lists_every_kernel() -> None:
    listed = {
        (side.strip(), kernel, name)
        for kernel, name, sides in rows(3)
        if re.fullmatch(grammar(), kernel)
        for side in sides.split(",")
    }
    assert listed == {(side, name, module_of(side, name).NAME) for side, name in FILES}
