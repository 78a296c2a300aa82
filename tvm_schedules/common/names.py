"""Names of an ONNX file in generated text: the only ways in which they get there.

A file from others may call a node anything, a piece of a program too, and what is generated is compiled and run. So
names are not searched for what is dangerous; they are made of what is allowed, whatever they were.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["anonymous", "comment", "identifier", "prefix"]

LONGEST_NAME = 160
"""Characters of a comment."""

_HEADERS = re.compile(
    "assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdarg|stdbool|stddef|stdint"
    "|stdio|stdlib|string|tgmath|time|wchar|wctype"
)
"""Headers of C's library that a file of the same name would hide."""


def comment(text: str) -> str:
    r"""What may stand in a comment: letters, digits, spaces and a few signs of ASCII; everything else becomes ``_``.

    Without ``*``, ``\``, ``?`` and line breaks, nothing ends a comment of C, C++, OpenCL, CUDA, Metal or CMake early.

    >>> comment("layer1/conv: 3 of 4"), comment("a*" + chr(92) + chr(10) + "/ x();")
    ('layer1/conv: 3 of 4', 'a___/ x()_')
    """
    plain = re.sub(r"[^A-Za-z0-9_ .,:+%()\[\]/-]", "_", text)
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 3]}..."


def identifier(name: str, side: str, taken: Collection[str] = ()) -> str:
    """An identifier for an input or an output that nobody has yet.

    It starts with ``side``, as nothing else in generated code does: no keyword, no macro, no table of a layer.

    Args:
        name: The tensor's name.
        side: ``input`` or ``output``.
        taken: Identifiers that are in use.

    >>> identifier("x.1", "input"), identifier("input", "input"), identifier("y", "output", {"output_y"})
    ('input_x_1', 'input', 'output_y_')
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)[:48]
    if not re.fullmatch(rf"{side}(_\w*)?", plain, re.ASCII):
        plain = f"{side}_{plain}"
    while plain in taken:
        plain += "_"
    return plain


def prefix(text: str) -> str:
    """A name that a user gives to a network, as it stands in the names of its files, functions and macros.

    Unlike names of a file it is the user's own, so that it is refused where it cannot be used as it is.

    Raises:
        ValueError: It is no identifier of at most 32 characters, or begins what generated code uses itself.

    >>> prefix("wake_word")
    'wake_word'
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,31}", text, re.ASCII):
        raise ValueError(f"prefix must be a letter and at most 31 letters, digits and _, got {text!r}")
    if _HEADERS.fullmatch(text.lower()) or text.lower().startswith("tern"):
        raise ValueError(f"prefix must not begin with 'tern' or be a header of C's library, got {text!r}")
    return text


def anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose tensors are called ``v0``, ``v1``, ..., for a compiler that makes symbols of names.

    The order of inputs, outputs and nodes stays. Nodes, comments and inferred types lose their text.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    names: dict[str, str] = {"": ""}

    def rename(name: str) -> str:
        return names.setdefault(name, f"v{len(names) - 1}")

    def visit(graph: Any) -> None:
        graph.name, graph.doc_string = "g", ""
        del graph.value_info[:]
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.name, value.doc_string = rename(value.name), ""
        for node in graph.node:
            node.name, node.doc_string = "", ""
            for side in (node.input, node.output):
                renamed = [rename(name) for name in side]
                del side[:]
                side.extend(renamed)
            for attribute in node.attribute:
                for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                    visit(inner)

    visit(result.graph)
    return result
