"""Names of the files that a network becomes as C."""

from __future__ import annotations

__all__ = ["HEADER", "SAMPLE", "SOURCE", "WEIGHTS"]

SOURCE, HEADER, WEIGHTS = "model.c", "model.h", "model_weights.h"
SAMPLE = "model_sample.h"
"""An input and its output, for a self-test on the device; only in artifacts that were verified."""
