"""Whether the first axis of a module's inputs and outputs counts samples: the module itself can say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tern_lightning.exporter.verify import run_module
from tvm_schedules.verify.batch_axis import choices, independent

__all__ = ["counting"]

Array = NDArray[np.generic]


def counting(module: nn.Module, batches: Sequence[Sequence[Array]], names: Sequence[str]) -> frozenset[str] | None:
    """Names of the inputs whose first axes count samples, as the first axes of all outputs then do.

    The module runs on twice as many samples as it is exported for.

    Args:
        module: The module, in evaluation mode.
        batches: Inputs of the shapes that it is exported for.
        names: Names of the inputs, in their order.

    Returns:
        The names, none where samples depend on each other; None where the module runs on no other number of them.
    """
    three = [*batches[:3], *([np.roll(array, shift) for array in batches[0]] for shift in (1, 2))][:3]
    runs = [dict(zip(names, batch, strict=True)) for batch in three]
    first = run_module(module, three[0])
    known = True
    for found in choices([{"name": name, "shape": array.shape} for name, array in runs[0].items()], first):
        same = [{**runs[0], **{name: run[name] for name in found}} for run in runs]
        try:
            expected = [first, run_module(module, list(same[1].values()))]
            if independent(lambda run: run_module(module, list(run.values())), found, same, expected):
                return found
        except Exception:  # shapes inside of the module are fixed ones, for example
            known = False
    return frozenset() if known else None
