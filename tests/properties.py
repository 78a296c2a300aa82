"""How many examples property tests try: few and always the same ones, or very many new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings

USUAL = 50
"""Examples of a test in the profile ``usual``, which is the default: the same ones in every run."""
SEARCH = int(os.environ.get("EXAMPLES", 10_000))
"""Examples in the profile ``search`` (``make test-search``), from new seeds in every run."""

DATA = 20
"""In a search, inputs that a compiled network is tried with; compiling costs as much as running it very often."""


def register() -> None:
    """Make the profiles known and load the one that ``HYPOTHESIS_PROFILE`` names.

    ``first`` is ``usual`` without a search for a smaller example where a test fails: whether it does is all that is
    asked where the code is changed on purpose.

    How long something takes is no property: on a machine that does other work too, anything takes long.
    """
    common: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("usual", max_examples=USUAL, derandomize=True, **common)
    settings.register_profile(
        "first", max_examples=USUAL, derandomize=True, phases=(Phase.explicit, Phase.generate), **common
    )
    settings.register_profile("search", max_examples=SEARCH, derandomize=False, print_blob=True, **common)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


def examples(usual: int, **options: Any) -> settings:
    """Settings of a test that tries ``usual`` examples in the default profile, and as many times more in a search."""
    return settings(max_examples=max(1, usual * settings().max_examples // USUAL), **options)


def compilations(usual: int, **options: Any) -> settings:
    """As :func:`examples`, for a test that compiles a network in each.

    A search compiles so many that there are as many examples as elsewhere: :func:`more_data` or :func:`turns`
    give each :data:`DATA` inputs.
    """
    search = settings().max_examples // DATA if settings().max_examples > USUAL else 0
    return settings(max_examples=max(1, usual, search), **options)


def turns() -> int:
    """With how many inputs a compiled network is tried: one, and :data:`DATA` in a search."""
    return DATA if os.environ.get("HYPOTHESIS_PROFILE") == "search" else 1


def more_data(arrays: Sequence[np.ndarray], fixed: Sequence[int] = ()) -> Iterator[list[np.ndarray]]:
    """The inputs of a network and, in a search, others of the same shapes: new numbers, small ones, equal ones, zeros.

    Args:
        arrays: Inputs; their ranges are kept.
        fixed: Places of inputs that stay as they are.
    """
    yield list(arrays)
    random = np.random.default_rng(sum(array.size for array in arrays))
    for number in range(1, turns()):
        others = []
        for place, array in enumerate(arrays):
            fresh = random.permutation(array.ravel()).reshape(array.shape)
            if number % 5 == 1:
                fresh = np.full_like(array, fresh.ravel()[0] if array.size else 0)
            elif array.dtype.kind == "f":
                fresh = (fresh * (0.0 if number == 2 else random.choice([1, -1, 0.5, 0.01]))).astype(array.dtype)
            others.append(array if place in fixed else fresh)
        yield others
