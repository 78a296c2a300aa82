"""Versions of this distribution, which ``pyproject.toml`` states, and of the packages that it works with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__", "versions"]


def versions(*names: str) -> dict[str, str]:
    """Versions of the packages that are installed, by their names in registries; others are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


__version__ = versions("tern-lightning").get("tern-lightning", "0+unknown")  # a source tree that is not installed
