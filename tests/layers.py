"""Reads which module of a package imports which, from the source: also inside functions, and also for types only."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
Imports = Mapping[str, set[str]]
"""Module -> the modules of the same packages that it imports."""


def modules(package: str, root: Path = ROOT) -> dict[str, Path]:
    """All modules of a package by their dotted names."""
    paths = sorted((root / package).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def _typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _statements(node: ast.AST, types: bool) -> Iterator[ast.Import | ast.ImportFrom | ast.Call]:
    for child in ast.iter_child_nodes(node):
        if not types and _typing_only(child):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom | ast.Call):
            yield child
        yield from _statements(child, types)


def named(text: str, module: str, is_package: bool, types: bool = True) -> set[str]:
    """The dotted names that a module's source imports: ``a.b`` of ``import a.b``, ``a.b.c`` of ``from a.b import c``.

    Args:
        text: The source.
        module: The module's own name, for relative imports.
        is_package: Whether it is an ``__init__``.
        types: Also what is imported under ``if TYPE_CHECKING``.
    """
    found = set()
    for node in _statements(ast.parse(text), types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {str(name) for name in found}


def graph(packages: Iterable[str], types: bool = True, root: Path = ROOT) -> dict[str, set[str]]:
    """The modules of packages and what they import of each other.

    Args:
        packages: Names of the packages.
        types: Also what is imported for types only.
        root: The directory that holds the packages.
    """
    files = {name: path for package in packages for name, path in modules(package, root).items()}
    found = {}
    for module, path in files.items():
        wanted = named(path.read_text(), module, path.name == "__init__.py", types)
        homes = {name if name in files else name.rpartition(".")[0] for name in wanted}
        found[module] = {home for home in homes if home in files and home != module}
    return found


def upward(imports: Imports, layers: Sequence[str]) -> set[tuple[str, str]]:
    """Imports of a higher layer by a lower one.

    Args:
        imports: Of one package.
        layers: Its folders and top-level modules, low to high; ``""`` is the package itself, its public names.

    Raises:
        ValueError: A folder or module has no layer.
    """
    unknown = {_unit(name) for name in imports} - {*layers}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no layer")
    floors = {name: layers.index(_unit(name)) for name in imports}
    return {(module, other) for module, others in imports.items() for other in others if floors[other] > floors[module]}


def _unit(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def circles(imports: Imports) -> list[set[str]]:
    """Sets of modules that import each other, directly or through others of the set: components of two or more."""
    order: list[str] = []
    seen: set[str] = set()
    for start in imports:  # depth first, each module after all that it imports
        stack = [(start, iter(sorted(imports[start])))] if start not in seen else []
        seen.add(start)
        while stack:
            module, rest = stack[-1]
            other = next(rest, None)
            if other is None:
                order.append(module)
                stack.pop()
            elif other not in seen:
                seen.add(other)
                stack.append((other, iter(sorted(imports[other]))))
    users: dict[str, set[str]] = {module: set() for module in imports}
    for module, others in imports.items():
        for other in others:
            users[other].add(module)
    found, left = [], set(imports)
    for start in reversed(order):
        component = reached(users, [start], left)
        left -= component
        if len(component) > 1:
            found.append(component)
    return found


def reached(imports: Imports, starts: Iterable[str], within: set[str] | None = None) -> set[str]:
    """The modules that ``starts`` import, directly or through others, and they themselves."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        module = waiting.pop()
        if module not in found and (within is None or module in within):
            found.add(module)
            waiting.extend(imports[module])
    return found
