"""How many examples property tests try: few and always the same ones, or very many new ones."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

USUAL = 50
"""Examples of a test in the profile ``usual``, which is the default: the same ones in every run."""
SEARCH = int(os.environ.get("EXAMPLES", 10_000))
"""Examples in the profile ``search`` (``make test-search``), from new seeds in every run."""


def register() -> None:
    """Make both profiles known and load the one that ``HYPOTHESIS_PROFILE`` names.

    How long something takes is no property: on a machine that does other work too, anything takes long.
    """
    common: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("usual", max_examples=USUAL, derandomize=True, **common)
    settings.register_profile("search", max_examples=SEARCH, derandomize=False, print_blob=True, **common)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


def examples(usual: int, **options: Any) -> settings:
    """Settings of a test that tries ``usual`` examples in the default profile, and as many times more in a search."""
    return settings(max_examples=max(1, usual * settings().max_examples // USUAL), **options)
