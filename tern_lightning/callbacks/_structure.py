"""Which structure of zeros a target gains from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_schedules.targets import gpu
from tvm_schedules.targets.registry import known, resolve


@dataclass(frozen=True)
class Structure:
    """How weights are pruned for a target.

    Attributes:
        pattern: ``element`` or ``block``.
        group: Output and input channels of a block.
        why: What is said of it.
    """

    pattern: str
    group: tuple[int, int]
    why: str


PAIRS = Structure(
    "block",
    (2, 1),
    "pairs of output channels lose their weights together, as these lost fewer points than single weights in the same "
    "time (docs/benchmarks/front.md)",
)
"""On CPUs, whose kernels read a pixel once for channels that share their zeros."""

PAIRS_IN_C = Structure(
    "block",
    (2, 1),
    "pairs of output channels lose their weights together, as C adds up a pixel once for both and stores the places "
    "once (docs/benchmarks/mcu.md)",
)
"""In C for microcontrollers."""

ELEMENTS = Structure(
    "element", (1, 1), "single weights are pruned, as nothing was measured of shared zeros on graphics processors"
)


def structure_for(target: str) -> Structure:
    """The structure that pays on a target, by measurement.

    Args:
        target: A name of ``tern-export --tvm-target``, or a TVM target as JSON.

    Raises:
        TargetError: There is no such target.

    Example:
        >>> structure_for("pi4").group, structure_for("c").group
        ((2, 1), (2, 1))
    """
    text = target.strip()
    if text not in known():
        text = resolve(text).tvm["kind"]
    if text in gpu.known():
        return ELEMENTS
    return PAIRS_IN_C if text == "c" else PAIRS


def said_of(target: str, pruned: Sequence[tuple[str, tuple[int, int]]]) -> str | None:
    """What a run for a target should know of the structure that pays there; None where it has just that.

    Args:
        target: A name of ``tern-export --tvm-target``, or a TVM target as JSON.
        pruned: Pattern and group of every callback of the run that prunes.

    Raises:
        TargetError: There is no such target.
    """
    best = structure_for(target)
    if pruned and all(one == (best.pattern, best.group) for one in pruned):
        return None
    remedy = f"PruningSchedule(0.8, target={target!r})"
    if not pruned:
        return f"zeros are what makes a network faster on {target}, and nothing is pruned: with {remedy} {best.why}"
    return f"for {target} another structure was measured to pay than the one that is pruned: with {remedy} {best.why}"
