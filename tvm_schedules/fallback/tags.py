"""What the legalizer knows about an operator and a schedule needs: written as one attribute of the PrimFunc.

A PrimFunc says *what* is computed; a tag adds what it was called, so that a template need not recognize it by its
loops.
"""

from __future__ import annotations

import json
from typing import Any

from tvm_schedules.compat import attribute

__all__ = ["KEY", "OPAQUE", "tag_of"]

KEY = "tern.operator"
# TVM's TOpPattern kOpaque: FuseOps leaves the function alone, so that a template may replace its body.
OPAQUE = 8


def tag_of(function: Any) -> dict[str, Any] | None:
    """The tag of a PrimFunc: ``{"kind": ..., ...}``, None for functions that TVM fused or made itself."""
    text = attribute(function, KEY)
    return None if text is None else json.loads(str(text))
