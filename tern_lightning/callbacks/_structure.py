"""Which structure of zeros a target gains from."""

from __future__ import annotations

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

_ELEMENTS = "single weights are pruned, as no kernel for {} gains from shared zeros"


def structure_for(target: str) -> Structure:
    """The structure that pays on a target, by measurement.

    Args:
        target: A name of ``tern-export --tvm-target``, or a TVM target as JSON.

    Raises:
        TargetError: There is no such target.

    Example:
        >>> structure_for("pi4").group, structure_for("c").group
        ((2, 1), (1, 1))
    """
    text = target.strip()
    if text not in known():
        text = resolve(text).tvm["kind"]
    if text == "c" or text in gpu.known():
        return Structure("element", (1, 1), _ELEMENTS.format("C source" if text == "c" else "graphics processors"))
    return PAIRS
