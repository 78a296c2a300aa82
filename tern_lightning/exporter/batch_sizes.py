"""The network for other numbers of samples: traced anew where its file cannot be changed to them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tern_lightning.exporter.options import ExportOptions
from tern_lightning.exporter.samples import Batch
from tvm_schedules.frontend import onnx_model
from tvm_schedules.verify.batch_axis import PROPERTY, regrouped, resized
from tvm_schedules.verify.outputs import compare
from tvm_schedules.verify.reference import reference_outputs

if TYPE_CHECKING:
    from torch import nn

    from tern_lightning.exporter.writer import OnnxExport

__all__ = ["traced_for_sizes"]

Array = NDArray[np.generic]


def traced_for_sizes(
    module: nn.Module, batches: Sequence[Batch], network: OnnxExport, options: ExportOptions
) -> list[bytes]:
    """The network for those batch sizes of the options that its file cannot be changed to, traced anew, as ONNX.

    Shapes inside of a file are fixed ones. Most convolutional networks have none that count samples; attention folds
    samples and heads into one axis, and the first state of a recurrent layer holds one row for each sample.

    Args:
        module: The module.
        batches: Inputs that the network was traced for and checked with.
        network: The network for these.
        options: All that applies to it, too.

    Raises:
        ExportError: The module cannot be exported for so many samples.
    """
    import torch

    from tern_lightning.exporter.writer import write_with

    stated = next((entry.value for entry in network.model.metadata_props if entry.key == PROPERTY), "")
    if not stated:
        return []  # whoever compiles it says that samples are not known to be independent
    counted, names = stated.split("\n"), [value.name for value in network.model.graph.input]
    runs = [dict(zip(names, batch, strict=True)) for batch in batches]
    made = []
    for size in options.batch_sizes:
        if size is None or size == len(runs[0][counted[0]]):
            continue
        groups = regrouped(runs, counted, size)
        if _follows(network.model, runs[0], counted, size):
            continue
        given: list[Batch] = [tuple(group[name] for name in names) for group in groups]
        of_size = dataclasses.replace(options, samples=given, ranges=network.layer_ranges or options.ranges)
        inputs = [torch.from_numpy(array) for array in given[0]]
        made.append(write_with(module, inputs, of_size).model.SerializeToString())
    return made


def _follows(model: Any, run: Mapping[str, Array], names: Sequence[str], size: int) -> bool:
    """Whether a file with other first axes gives each of ``size`` equal samples what it gives the first of a run."""
    first = {**run, **{name: np.repeat(run[name][:1], len(run[name]), 0) for name in names}}
    many = {**run, **{name: np.repeat(run[name][:1], size, 0) for name in names}}
    quantized = bool(onnx_model.quantized_tensors(model))
    with contextlib.suppress(Exception):  # onnxruntime cannot run it
        one = reference_outputs(model, [first])[0]
        other = reference_outputs(resized(model, names, size), [many], severity=4)[0]
        return all(
            array.shape == (size, *alone.shape[1:])
            and compare("", array, np.repeat(alone[:1], size, 0), None, quantized).passed
            for alone, array in zip(one, other, strict=True)
        )
    return False
