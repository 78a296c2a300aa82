"""A hint at the name or the number that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["check_choice", "check_share", "meant"]


def meant(given: object, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: ``; did you mean 'twn'?``, or nothing where none is near.

    Args:
        given: What came; what is no text has no neighbors.
        known: The names that there are.

    >>> meant("tnw", ["twn", "ttq"]), meant("sparsity", ["twn", "ttq"])
    ("; did you mean 'twn'?", '')
    """
    if not isinstance(given, str):
        return ""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is none of a few.

    Args:
        name: The argument's.
        value: What came.
        allowed: What it may be: names, and None where that is one.

    Raises:
        ValueError: It is something else.

    >>> check_choice("mode", "mx", ("max", "min"))
    Traceback (most recent call last):
    ValueError: mode must be 'max' or 'min', got 'mx'; did you mean 'max'?
    """
    if value in allowed:
        return
    *first, last = map(repr, allowed)
    names = [one for one in allowed if isinstance(one, str)]
    raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {value!r}{meant(value, names)}")


def check_share(name: str, value: float, interval: str = "[0, 1]") -> None:
    """Refuse what is no share.

    Args:
        name: The argument's.
        value: What came.
        interval: ``[0, 1]``, or with a round bracket on a side where the end does not belong to it.

    Raises:
        ValueError: It is not within.

    >>> check_share("amount", 80)
    Traceback (most recent call last):
    ValueError: amount must be in [0, 1], got 80; 80 % is 0.8
    """
    within = (value > 0 if interval[0] == "(" else value >= 0) and (value < 1 if interval[-1] == ")" else value <= 1)
    if not within:
        hint = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
        raise ValueError(f"{name} must be in {interval}, got {value}{hint}")
