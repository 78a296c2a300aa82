"""The form of JSON values that come from files: said once as a value of the same form, checked when a file is read.

A form is a type, ``[form]`` for a list, ``{name: form}`` for an object that may have other names too
(``"name?"`` may be missing), :class:`Every` for an object with any names, :class:`Maybe` for a form or null, or a
function that returns what is wrong with a value, or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Every", "Maybe", "check", "count", "positive", "real"]

LARGEST = 2**48
"""No count or size is larger."""


@dataclass(frozen=True)
class Every:
    """An object whose values have a form, whatever their names."""

    form: Any


@dataclass(frozen=True)
class Maybe:
    """A form, or null."""

    form: Any


def count(value: Any) -> str | None:
    """A whole number from zero to :data:`LARGEST`."""
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST
    return None if whole else "a whole number that is not negative"


def positive(value: Any) -> str | None:
    """A finite number above zero."""
    return None if real(value) is None and value > 0 else "a number above zero"


def real(value: Any) -> str | None:
    """A finite number."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return None if fits else "a finite number"


_NAMES = {str: "text", list: "a list", dict: "an object", bool: "true or false", int: "a whole number"}


def check(value: Any, form: Any, where: str = "") -> None:
    """Raise unless a value has a form.

    Args:
        value: What ``json.loads`` made.
        form: The form that it must have, as the module's text describes.
        where: The value's place, for messages.

    Raises:
        ValueError: The message names the place, what came and what is expected.

    >>> check({"shape": [1, -1]}, {"shape": [count]})
    Traceback (most recent call last):
    ValueError: shape[1] must be a whole number that is not negative, got -1
    """
    if isinstance(form, Maybe):
        if value is not None:
            check(value, form.form, where)
    elif isinstance(form, Every):
        for name, item in _object(value, where).items():
            check(item, form.form, _inside(where, name))
    elif isinstance(form, Mapping):
        found = _object(value, where)
        for name, inner in form.items():
            key = name.removesuffix("?")
            if key in found:
                check(found[key], inner, _inside(where, key))
            elif key == name:
                raise ValueError(f"{_inside(where, key)} is missing")
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise _wrong(where, "a list", value)
        for index, item in enumerate(value):
            check(item, form[0], f"{where}[{index}]")
    elif isinstance(form, type):
        if not isinstance(value, form) or (form is int and isinstance(value, bool)):
            raise _wrong(where, _NAMES.get(form, form.__name__), value)
    else:
        wanted = form(value)
        if wanted is not None:
            raise _wrong(where, wanted, value)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return value


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, wanted: str, value: Any) -> ValueError:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of many digits"
    return ValueError(f"{where or 'the value'} must be {wanted}, got {text if len(text) < 60 else text[:60] + '...'}")
