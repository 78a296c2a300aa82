"""How many threads a user may ask for."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["MOST", "checked"]

MOST = 128
"""Threads of the pools in libraries."""


def checked(count: Any, name: str = "threads") -> int:
    """A number of threads that a user gives.

    Args:
        count: An integer from 1 to :data:`MOST`, of any type that is one.
        name: The argument, for the message.

    Raises:
        TypeError: Not an integer.
        ValueError: Out of this range.

    Example:
        >>> checked(2)
        2
    """
    try:
        number = operator.index(count)
    except TypeError:
        number = None
    if number is None or isinstance(count, bool):
        raise TypeError(f"{name} must be an integer from 1 to {MOST}, got {count!r}")
    if not 1 <= number <= MOST:
        raise ValueError(f"{name} must be an integer from 1 to {MOST}, got {count!r}")
    return number
