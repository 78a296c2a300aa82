"""The blocks of TVM's schedules: which there are, which of them reduce, and putting them into their readers."""

from __future__ import annotations

from typing import Any

__all__ = ["inline", "is_reduction", "leaf_blocks"]


def leaf_blocks(sch: Any) -> list[Any]:
    """The blocks directly under the root, in order."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def is_reduction(sch: Any, block: Any) -> bool:
    """Whether a block has an axis that is not spatial."""
    return any(int(var.iter_type) != 0 for var in sch.get(block).iter_vars)


def inline(sch: Any, blocks: list[Any]) -> None:
    """Inlines every spatial block that has a consumer and allows it."""
    for block in blocks:
        if is_reduction(sch, block) or not sch.get_consumers(block):
            continue
        try:
            sch.compute_inline(block)
        except Exception:  # opaque accesses, several writers: such a block stays a loop of its own
            continue
