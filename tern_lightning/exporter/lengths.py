"""The network for shorter sequences: traced anew for each length, with the ranges of the longest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.options import ExportOptions
from tern_lightning.exporter.samples import Batch

if TYPE_CHECKING:
    from torch import nn

    from tern_lightning.exporter.writer import OnnxExport

__all__ = ["check_lengths", "shorter_networks", "shorter_shapes"]


def check_lengths(shapes: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """The longest sequence: the second axis of the first input.

    Args:
        shapes: Of the inputs.
        lengths: The shorter ones that are asked for.

    Raises:
        ExportError: The first input has no second axis, or a length is not shorter.
    """
    if len(shapes[0]) < 2:
        raise ExportError(
            f"lengths count along the second axis of the inputs, and the first has shape {list(shapes[0])}"
        )
    own = int(shapes[0][1])
    wrong = [length for length in lengths if not 1 <= length < own]
    if wrong:
        raise ExportError(f"lengths must be from 1 to {own - 1}, below that of the samples, got {wrong[0]}")
    return own


def shorter_networks(
    module: nn.Module, batches: Sequence[Batch], longest: OnnxExport, options: ExportOptions
) -> list[tuple[list[Batch], OnnxExport]]:
    """The network for the lengths of the options, each with its inputs.

    Args:
        module: The module.
        batches: Inputs of the longest sequences; those whose second axis is as long as the first input's are cut.
        longest: The network for these.
        options: All that applies to it, too.

    Raises:
        ExportError: A length is not shorter, or the module cannot be exported for it.
    """
    import torch

    from tern_lightning.exporter.writer import write_with

    own = check_lengths([array.shape for array in batches[0]], options.lengths)
    ranges = longest.layer_ranges or options.ranges
    made = []
    for length in sorted(set(options.lengths)):
        cut: list[Batch] = [
            tuple(
                np.ascontiguousarray(array[:, :length]) if array.ndim > 1 and array.shape[1] == own else array
                for array in batch
            )
            for batch in batches
        ]
        inputs = [torch.from_numpy(array) for array in cut[0]]
        shorter = dataclasses.replace(options, samples=cut, ranges=ranges)
        made.append((cut, write_with(module, inputs, shorter)))
    return made


def shorter_shapes(shapes: Mapping[str, Sequence[int]], lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Shapes of an ONNX file's inputs for shorter sequences.

    Args:
        shapes: Those of the longest, by name.
        lengths: The shorter ones.

    Raises:
        ExportError: A length is not shorter.
    """
    own = check_lengths(list(shapes.values()), lengths)

    def cut(shape: Sequence[int], length: int) -> list[int]:
        return [length if axis == 1 and size == own else size for axis, size in enumerate(shape)]

    return [{name: cut(shape, length) for name, shape in shapes.items()} for length in sorted(set(lengths))]
