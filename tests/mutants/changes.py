"""The changes: one operator or constant of a source file at a time."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the source between two positions (of bytes) is replaced.

    ``text`` is its line without the indent, ``function`` the name of the innermost function around it, or empty;
    ``twin`` counts changes of the line that read alike before this one.
    """

    path: str
    line: int
    text: str
    function: str
    old: str
    new: str
    start: int
    end: int
    twin: int = 0

    @property
    def change(self) -> str:
        return f"{self.old} -> {self.new}" + (f" #{self.twin + 1}" if self.twin else "")

    def applied(self, data: bytes) -> bytes:
        """The file's bytes with the change."""
        return data[: self.start] + f"({self.new})".encode() + data[self.end :]


_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def _changed(node: ast.AST) -> Iterator[ast.AST]:
    """The changes of one node."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            if type(operator) in _SWAPS:
                other = copy.deepcopy(node)
                other.ops[i] = _SWAPS[type(operator)]()  # type: ignore[call-overload]
                yield other
    elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in _SWAPS:
        other = copy.deepcopy(node)
        other.op = _SWAPS[type(node.op)]()  # type: ignore[assignment]
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def _left_alone(node: ast.AST) -> Iterator[ast.AST | None]:
    """Parts of a node that say something to a reader, or that any value would do for."""
    yield from (getattr(node, name, None) for name in ("annotation", "returns"))
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):  # messages
        yield node
    elif isinstance(node, ast.arguments):  # defaults are the documented interface, not its code
        yield from (*node.defaults, *node.kw_defaults)
    elif isinstance(node, ast.ClassDef) and any("dataclass" in ast.dump(part) for part in node.decorator_list):
        yield from node.decorator_list
        yield from (field.value for field in node.body if isinstance(field, ast.AnnAssign))
    elif isinstance(node, ast.keyword) and node.arg in ("strict", "stacklevel", "maxsize"):
        yield node
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "reshape":
        for size in node.args:  # any negative number is an open size for numpy
            if isinstance(size, ast.UnaryOp) and isinstance(size.op, ast.USub):
                yield size.operand
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        yield from node.decorator_list


def mutants(path: str, source: str) -> list[Mutant]:
    """All changes of a source file, in order; messages, annotations, defaults and decorators are left alone.

    Args:
        path: Relative to the root of the repository.
        source: Its text.
    """
    data, tree = source.encode(), ast.parse(source)
    lines, starts = source.splitlines(), [0]
    for text in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    skipped: set[ast.AST] = set()
    functions: dict[ast.AST, str] = {}
    for node in ast.walk(tree):  # outer functions come before those in them
        for part in _left_alone(node):
            if part is not None:
                skipped.update(ast.walk(part))
        if isinstance(node, ast.FunctionDef):
            functions.update((inner, node.name) for part in node.body for inner in ast.walk(part))
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.expr) or node in skipped or node.end_lineno is None or node.end_col_offset is None:
            continue
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        old = " ".join(data[start:end].decode().split())
        text, function = lines[node.lineno - 1].strip(), functions.get(node, "")
        found += [
            Mutant(path, node.lineno, text, function, old, ast.unparse(new), start, end) for new in _changed(node)
        ]
    found.sort(key=lambda mutant: (mutant.start, mutant.end, mutant.new))
    seen: Counter[tuple[int, str]] = Counter()
    for index, mutant in enumerate(found):
        found[index] = replace(mutant, twin=seen[mutant.line, mutant.change])
        seen[mutant.line, mutant.change] += 1
    return found
