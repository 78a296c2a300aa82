from __future__ import annotations

import random
import sys

import numpy as np
import pytest

from tests import properties

properties.register()


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Start every test from the same random state, whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
