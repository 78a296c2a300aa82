"""Public names: the stub is the one list, and what it says is what the packages give."""

import ast
import importlib
from pathlib import Path

import pytest

from tern_lightning._lazy import attach, stub_imports

PACKAGES = ("tern_lightning", "tern_lightning.callbacks", "tern_lightning.exporter")


def stub(package):
    return Path(importlib.import_module(package).__file__).with_suffix(".pyi")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_what_its_module_has(package):
    module, found = importlib.import_module(package), stub_imports(stub(package))
    assert module.__all__ == sorted(found)
    for name, home in found.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert name in dir(module)


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_every_name(package):
    """``from a import b`` is private in a stub; ``import b as b`` and ``import *`` make names public (PEP 484)."""
    imports = [node for node in ast.parse(stub(package).read_text()).body if isinstance(node, ast.ImportFrom)]
    assert imports
    found = {}
    for node in imports:
        (alias,) = node.names  # one name in a line, as the package reads it
        assert alias.name == "*" or alias.asname == alias.name, ast.unparse(node)
        names = importlib.import_module(node.module).__all__ if alias.name == "*" else [alias.name]
        found.update(dict.fromkeys(names, node.module))
    assert stub_imports(stub(package)) == found


def test_the_package_has_the_names_of_its_callbacks():
    import tern_lightning
    import tern_lightning.callbacks

    assert set(tern_lightning.callbacks.__all__) < set(tern_lightning.__all__)


def test_a_missing_package_is_explained(tmp_path, monkeypatch):
    package = tmp_path / "needy"
    package.mkdir()
    package.joinpath("__init__.py").write_text("")
    package.joinpath("__init__.pyi").write_text("from needy.inside import thing as thing\n")
    package.joinpath("inside.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'lightning'\", name='lightning')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    get, _, names = attach("needy", str(package / "__init__.py"))
    assert names == ["thing"]
    with pytest.raises(ModuleNotFoundError, match=r"pip install .*tern-lightning"):
        get("thing")
    with pytest.raises(AttributeError, match="module 'needy' has no attribute 'other'"):
        get("other")
