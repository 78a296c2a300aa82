"""Operators without a kernel in planes, as C over plain tensors: one small file each.

A file has ``OPERATORS``, the names of ONNX that it takes, and ``lower(site)``, which describes the call for a
:class:`~tvm_schedules.backends.c.site.Site` and brings its C with it. Files are found by themselves.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module

from tvm_schedules.backends.c.site import Site

__all__ = ["known", "lower"]


@cache
def known() -> dict[str, Callable[[Site], bool]]:
    """What lowers each operator, by its name in ONNX, sorted."""
    found: dict[str, Callable[[Site], bool]] = {}
    for entry in pkgutil.iter_modules(__path__):
        if entry.name != "site":
            module = import_module(f"{__name__}.{entry.name}")
            found |= dict.fromkeys(module.OPERATORS, module.lower)
    return dict(sorted(found.items()))


def lower(site: Site) -> bool:
    """Appends the steps of a node; False where its operator, or this form of it, has no code."""
    made = known().get(site.node.op)
    return made is not None and made(site)
