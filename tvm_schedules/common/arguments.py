"""Arguments of public functions and classes, held against their annotations before anything is done with them."""

from __future__ import annotations

import ast
import collections.abc
import functools
import inspect
import math
import numbers
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union

from tvm_schedules.common.near import check_choice, meant

__all__ = ["check_arguments", "other_names"]

F = TypeVar("F", bound=Callable[..., Any])
Hint = Callable[[str, Any], str | None]
"""What to say of an argument, by its name and value, besides that there is none such or that it is of a wrong type."""

_NUMBERS: dict[Any, tuple[type, str, str]] = {
    int: (numbers.Integral, "an int", "ints"),
    float: (numbers.Real, "a number", "numbers"),
    str: (str, "a string", "strings"),
}
_VIEWS = collections.abc.KeysView | collections.abc.ValuesView
_NO_LISTS = (str, bytes, bytearray)
"""Sequences in Python, and never what is meant where a list is."""


@typing.overload
def check_arguments(target: F) -> F: ...
@typing.overload
def check_arguments(*, hint: Hint) -> Callable[[F], F]: ...
def check_arguments(target: F | None = None, *, hint: Hint | None = None) -> F | Callable[[F], F]:
    """Let a function, or the constructor of a class, refuse arguments that are not of the types of their annotations.

    An int is taken where a float is wanted, and numbers of numpy where those of Python are, which they become; a bool
    is no int, a string no list, and NaN no number. Annotations are read at the first call; a name that is imported
    for type checkers only is known as soon as its module is loaded. The signature stays visible.

    Args:
        target: The function or class.
        hint: Says more about an argument, by its name and value, or gives None.

    Raises:
        TypeError: When it is called with an argument of another type, without one that is needed, or with one that
            there is not.
        ValueError: When it is called with NaN, or with a name that is none of those allowed.

    >>> @check_arguments
    ... def prune(amount: float, every: int = 50): ...
    >>> prune(0.5, every="9")
    Traceback (most recent call last):
    TypeError: every must be an int, got '9'
    >>> prune(amuont=0.5)
    Traceback (most recent call last):
    TypeError: prune has no argument 'amuont'; did you mean 'amount'? Its arguments are amount, every
    """
    if target is None:
        return lambda function: _wrapped(function, hint)
    return _wrapped(target, hint)


def other_names(name: str, *others: str) -> Hint:
    """A hint for :func:`check_arguments` at an argument that people know by other names.

    >>> other_names("amount", "sparsity")("sparsity", 0.8)
    'it is amount=0.8 here'
    """
    return lambda given, value: f"it is {name}={_shown(value)} here" if given in others else None


def _wrapped(target: Any, hint: Hint | None) -> Any:
    function = getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009 - mypy
    name = target.__name__

    annotations: dict[str, Any] = {}

    @functools.cache
    def signature() -> inspect.Signature:
        return inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        if None in annotations.values() or not annotations:
            annotations.update(_annotations(inspect.unwrap(function)))
        try:
            given = signature().bind(*args, **keywords)
        except TypeError as error:
            raise TypeError(_unbound(name, list(signature().parameters), keywords, error, hint)) from None
        for key, value in given.arguments.items():
            kind, annotation = signature().parameters[key].kind, annotations.get(key)
            if annotation is not None and kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                given.arguments[key] = _taken(key, value, annotation, hint)
        return function(*given.args, **given.kwargs)

    if not isinstance(target, type):
        return call
    target.__init__ = call  # type: ignore[misc]
    return target


def _unbound(name: str, known: list[str], given: Mapping[str, Any], error: Exception, hint: Hint | None) -> str:
    """What to say of arguments that are not as a function has them."""
    there = [key for key in known if key not in ("self", "cls")]
    wrong = next((key for key in given if key not in there), None)
    if wrong is None:
        return f"{name}: {error}; its arguments are {', '.join(there)}"
    more = hint(wrong, given[wrong]) if hint is not None else None
    said = f"; HINT: {more}." if more else meant(wrong, there) or "."
    return f"{name} has no argument {wrong!r}{said} Its arguments are {', '.join(there)}"


def _taken(name: str, value: Any, annotation: Any, hint: Hint | None) -> Any:
    """The value as the function gets it."""
    plain = _plain(value, annotation)
    if _fits(plain, annotation):
        return plain
    more = hint(name, value) if hint is not None else None
    end = f"; HINT: {more}" if more else ""
    choices = _choices(annotation)
    if choices and isinstance(value, str):
        try:
            check_choice(name, value, choices)
        except ValueError as error:
            raise ValueError(f"{error}{end}") from None
    wrong = ValueError if isinstance(plain, float) and math.isnan(plain) else TypeError
    raise wrong(f"{name} must be {_words(annotation)}, got {_shown(plain)}{end}")


def _plain(value: Any, annotation: Any) -> Any:
    """A value of the annotation's type where another one says the same.

    Numbers of numpy become those of Python; its arrays, iterators and views of dictionaries lists; lists tuples, and
    other mappings dictionaries.
    """
    wanted = [typing.get_origin(one) or one for one in _members(annotation)]
    array = type(value).__module__ == "numpy" and hasattr(value, "tolist")
    if array and value.shape == () and not {bool, *_NUMBERS}.isdisjoint(wanted):
        return value.item()
    if _fits(value, annotation):
        return value
    if collections.abc.Sequence in wanted and (array or isinstance(value, collections.abc.Iterator | _VIEWS)):
        return value.tolist() if array else list(value)
    if tuple in wanted and isinstance(value, list):
        return tuple(value)
    if dict in wanted and isinstance(value, Mapping) and not isinstance(value, dict):
        return dict(value)
    return value


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for one in typing.get_args(annotation) for inner in _members(one))
    if isinstance(annotation, TypeVar):
        return _members(annotation.__bound__ if annotation.__bound__ is not None else Any)
    return (annotation,)


def _choices(annotation: Any) -> list[Any]:
    """The values that an annotation allows where they can be counted, and else none."""
    found: list[Any] = []
    for one in _members(annotation):
        if typing.get_origin(one) is not Literal and one is not type(None):
            return []
        found += typing.get_args(one) or [None]
    return found


def _fits(value: Any, annotation: Any) -> bool:
    members = _members(annotation)
    if len(members) > 1:
        return any(_fits(value, one) for one in members)
    (one,) = members
    if one is Any or one is inspect.Parameter.empty:
        return True
    if one is None or one is type(None):
        return value is None
    if one is bool:
        return isinstance(value, bool)
    if one in _NUMBERS:
        return isinstance(value, _NUMBERS[one][0]) and not isinstance(value, bool) and value == value
    origin, inner = typing.get_origin(one), typing.get_args(one)
    if origin is Literal:
        return any(value is each or (type(value) is type(each) and value == each) for each in inner)
    if origin is None:
        return not isinstance(one, type) or getattr(one, "_is_protocol", False) or isinstance(value, one)
    return _fits_generic(value, origin, inner)


def _fits_generic(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if origin is type:
        return isinstance(value, type) and issubclass(value, inner[0])
    if origin is collections.abc.Callable:
        return callable(value)
    if getattr(origin, "_is_protocol", False):
        return True
    if not isinstance(value, origin) or (isinstance(value, _NO_LISTS) and issubclass(str, origin)):
        return False
    if origin is tuple and inner[-1] is not ...:
        return len(value) == len(inner) and all(map(_fits, value, inner))
    if issubclass(origin, Mapping):
        return all(_fits(key, inner[0]) and _fits(each, inner[1]) for key, each in value.items())
    if issubclass(origin, collections.abc.Sequence):
        return all(_fits(each, inner[0]) for each in value)
    return True  # what is in it may be seen only once, as that of an iterator, or is none of ours, as that of a path


def _words(annotation: Any) -> str:
    """What an annotation allows, for people: ``a list of ints, 'auto' or None``."""
    members = list(_members(annotation))
    if int in members and float in members:
        members.remove(int)
    members.sort(key=lambda one: one is type(None))
    *first, last = dict.fromkeys(word for one in members for word in _word(one))
    return f"{', '.join(first)} or {last}" if first else last


def _word(one: Any) -> list[str]:
    origin, inner = typing.get_origin(one), typing.get_args(one)
    if one in _NUMBERS:
        return [_NUMBERS[one][1]]
    if one in (bool, type(None)):
        return ["True", "False"] if one is bool else ["None"]
    if origin is Literal:
        return [repr(each) for each in inner]
    if origin is collections.abc.Callable:
        return ["a function"]
    if origin is tuple and inner[-1] is not ...:
        alike = f"{len(inner)} {_several(inner[0])}" if len(set(inner)) == 1 else ", ".join(map(_words, inner))
        return [f"a tuple of {alike}"]
    if origin is type:
        return [f"a subclass of {inner[0].__name__}"]
    if origin is os.PathLike:
        return ["a path"]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        values = "" if inner[1] is Any else f" and {_several(inner[1])} as values"
        return [f"a dictionary with {_several(inner[0])} as keys{values}"]
    if isinstance(origin, type) and issubclass(origin, collections.abc.Sequence):
        return ["a list" if inner[0] is Any else f"a list of {_several(inner[0])}"]
    name = getattr(origin or one, "__name__", str(one))
    return [f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"]


def _several(annotation: Any) -> str:
    """The plural of what :func:`_word` says."""
    if annotation in _NUMBERS:
        return _NUMBERS[annotation][2]
    if isinstance(annotation, type):
        return annotation.__name__
    text = _words(annotation)
    return f"lists{text.removeprefix('a list')}" if text.startswith("a list") else f"items, each of them {text}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"something of the type {type(value).__name__}"


def _annotations(function: Any) -> dict[str, Any]:
    """The types of a function's arguments; None of those that are not known."""
    names, later = dict(vars(sys.modules[function.__module__])), _for_type_checkers(function.__module__)
    stated = function.__annotations__.items()
    return {name: _evaluated(one, names, later) if isinstance(one, str) else one for name, one in stated}


def _evaluated(annotation: str, names: dict[str, Any], later: Mapping[str, tuple[str, str]]) -> Any:
    """The type that an annotation says.

    None where it is of a module that nobody has loaded: there is no object of it, and nothing is loaded for this alone.
    """
    for _ in range(len(later) + 1):
        try:
            return eval(annotation, names)
        except NameError as error:
            name = str(error.name)
            module, attribute = later.get(name, ("", ""))
            if not hasattr(sys.modules.get(module), attribute):
                return None
            names[name] = getattr(sys.modules[module], attribute)
    return None


def _for_type_checkers(module: str) -> dict[str, tuple[str, str]]:
    """The names that a module imports under ``if TYPE_CHECKING``: the module of each, and what it is called there."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # there is no source, as in a notebook
        return {}
    blocks = [one for one in tree.body if isinstance(one, ast.If) and "TYPE_CHECKING" in ast.dump(one.test)]
    imports = [one for block in blocks for one in block.body if isinstance(one, ast.ImportFrom)]
    return {alias.asname or alias.name: (str(one.module), alias.name) for one in imports for alias in one.names}
