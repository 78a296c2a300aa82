"""Public names of a package, listed once in its stub and loaded when they are first used.

Type checkers and editors read ``__init__.pyi`` instead of ``__init__.py``. At run time :func:`attach` reads the same
imports from it, so that importing the package loads neither torch nor Lightning.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The functions ``__getattr__`` and ``__dir__`` and the list ``__all__`` of a package.

    Args:
        package: The package's ``__name__``.
        file: Its ``__file__``, beside which ``__init__.pyi`` is.
    """
    modules = stub_imports(os.path.splitext(file)[0] + ".pyi")

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            raise _explained(error) from error
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get, names, sorted(modules)


def stub_imports(path: str) -> dict[str, str]:
    """The module of every name that a stub imports; ``import *`` stands for all public names of another package.

    The stub has one name in a line: ``from module import name as name``. So it is read in a fraction of a millisecond.
    """
    found: dict[str, str] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith("from "):
                _, module, _, name = line.split()[:4]
                names = importlib.import_module(module).__all__ if name == "*" else [name]
                found.update(dict.fromkeys(names, module))
    return found


def _explained(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The same error with a sentence about what to install, where an extra of this package brings it."""
    from importlib.util import find_spec

    from tvm_schedules.errors import EXTRAS, install_hint

    if error.name not in EXTRAS:
        return error
    text = install_hint(error)
    if error.name == "lightning" and find_spec("pytorch_lightning") is not None:
        text += ". 'pytorch_lightning' alone does not have it: the callbacks are those of lightning.pytorch.Trainer"
    return ModuleNotFoundError(text, name=error.name)
