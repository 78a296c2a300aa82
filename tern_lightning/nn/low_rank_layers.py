"""Modules of low rank and how to put them into a network."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tern_lightning.functional.low_rank import ConvShape, matrix_factors, tucker2
from tvm_schedules.common.files import user_path, write_file
from tvm_schedules.common.near import meant
from tvm_schedules.common.reading import read_json, reading

M = TypeVar("M", bound=nn.Module)
FORMAT = "tern-latency"
"""``format`` of a file of latencies."""
CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


class LowRankConv(nn.Sequential):
    """Three convolutions ``first`` (1x1, I to r), ``core`` (the kernel, r to r) and ``last`` (1x1, r to O).

    Args:
        layer: The convolution that it stands for, one group, kernel of more than one position.
        rank: Rank r of both channel axes.
    """

    first: nn.Module
    core: nn.Module
    last: nn.Module

    def __init__(self, layer: nn.Module, rank: int) -> None:
        super().__init__()
        kind, weight, bias = type(layer), layer.weight, layer.bias
        assert isinstance(weight, Tensor)
        factors = tucker2(weight, rank)
        place = {"device": weight.device, "dtype": weight.dtype}
        self.first = kind(weight.shape[1], rank, 1, bias=False, **place)
        options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        self.core = kind(rank, rank, layer.kernel_size, bias=False, **options, **place)
        self.last = kind(rank, weight.shape[0], 1, bias=bias is not None, **place)
        _fill(self, factors, bias)


class LowRankLinear(nn.Sequential):
    """Two linear layers ``first`` (I to r) and ``last`` (r to O).

    Args:
        layer: The linear layer that it stands for.
        rank: The rank r.
    """

    first: nn.Module
    last: nn.Module

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.first = nn.Linear(layer.in_features, rank, bias=False, **place)
        self.last = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **place)
        _fill(self, matrix_factors(layer.weight, rank), layer.bias)


@torch.no_grad()
def _fill(module: nn.Sequential, factors: tuple[Tensor, ...], bias: Tensor | nn.Module | None) -> None:
    for layer, factor in zip(module, factors, strict=True):
        layer.weight.copy_(factor)  # type: ignore[operator]
    if isinstance(bias, Tensor):
        module[-1].bias.copy_(bias)  # type: ignore[operator]


def can_be_low_rank(layer: nn.Module) -> bool:
    """Whether a layer is a linear one, or a convolution with one group and more than one kernel position."""
    if type(layer) is nn.Linear:
        return True
    groups, size = getattr(layer, "groups", 0), getattr(layer, "kernel_size", (0,))
    return type(layer) in CONVOLUTIONS and groups == 1 and max(size) > 1


def low_rank(module: M, ranks: Mapping[str, int]) -> M:
    """Replace layers by their low-rank factors, in place.

    This changes the structure of the network: keys of its checkpoints are those of the factors. So that checkpoints can
    be loaded, do it where the network is built, with the ranks as an argument that is saved::

        class Net(LightningModule):
            def __init__(self, ranks: dict[str, int] | None = None):
                super().__init__()
                self.save_hyperparameters()
                self.body = ...
                low_rank(self, ranks or {})

    or do it before weights are loaded by hand: ``low_rank(Net(), ranks).load_state_dict(...)``. Factors are ordinary
    layers, ``<path>.first``, ``<path>.core`` and ``<path>.last``; ``Rule("*.core", "twn")`` makes the cores ternary.

    Args:
        module: The network, before its optimizer is made.
        ranks: Rank of every layer to replace, by path.

    Returns:
        The same module.

    Raises:
        ValueError: A path is no layer that can be factored, or a rank is out of range.

    Example:
        >>> net = low_rank(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)), {"0": 4})
        >>> [name for name, _ in net.named_parameters()]
        ['0.first.weight', '0.core.weight', '0.last.weight', '0.last.bias']
    """
    layers = dict(module.named_modules())
    for path, rank in ranks.items():
        layer = layers.get(path)
        if layer is None or not path or not can_be_low_rank(layer):
            known = [name for name, other in layers.items() if can_be_low_rank(other)]
            hint = f"there are {known[:20]}{meant(path, known)}"
            raise ValueError(f"{path!r} is no layer that can be of low rank; {hint}")
        factored = LowRankLinear(layer, rank) if isinstance(layer, nn.Linear) else LowRankConv(layer, rank)
        replace_module(module, path, factored.train(layer.training))
    return module


def replace_module(root: nn.Module, path: str, new: nn.Module) -> None:
    """Put ``new`` at a path of a module."""
    parent, _, name = path.rpartition(".")
    root.get_submodule(parent).add_module(name, new)


class MeasuredLatency:
    """Seconds that the three factors of a convolution take on this machine, measured once for every shape and rank.

    Args:
        batch: Number of samples in a timed batch.
        repeats: Measurements, of which the fastest counts, >= 1.
        device: Device on which the layers are timed.
    """

    def __init__(self, batch: int = 1, repeats: int = 5, device: str = "cpu") -> None:
        if batch < 1 or repeats < 1:
            raise ValueError(f"batch and repeats must be at least 1, got {batch} and {repeats}")
        self.batch, self.repeats, self.device = batch, repeats, device
        self.table: dict[tuple[ConvShape, int | None], float] = {}

    @torch.inference_mode()
    def __call__(self, shape: ConvShape, rank: int | None = None) -> float:
        """The latency for a rank, or that of the layer itself."""
        key = shape, rank
        if key not in self.table:
            kind = next(k for k, axes in CONVOLUTIONS.items() if axes == len(shape.kernel))
            padding = tuple(size // 2 for size in shape.kernel)
            layer = kind(shape.inputs, shape.outputs, shape.kernel, shape.stride, padding, device=self.device)
            run = layer if rank is None else LowRankConv(layer, rank)
            x = torch.randn(self.batch, shape.inputs, *shape.size, device=self.device)
            times = []
            for _ in range(self.repeats + 1):
                start = time.perf_counter()
                run(x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            self.table[key] = min(times[1:])
        return self.table[key]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what has been measured as JSON, which :class:`LatencyTable` reads.

        Raises:
            OutputError: It cannot be written.
        """
        rows = [{**asdict(shape), "rank": rank, "seconds": took} for (shape, rank), took in self.table.items()]
        return write_file(path, json.dumps({"format": FORMAT, "rows": rows}, indent=1) + "\n")


class LatencyTable:
    """Latencies of low-rank convolutions from a JSON file, measured where the network will run.

    The file is ``{"format": "tern-latency", "rows": [...]}``. Each row has the fields of
    :class:`tern_lightning.functional.low_rank.ConvShape`, the ``rank`` (null for the layer itself) and ``seconds``, or
    any other unit: only ratios count. :meth:`MeasuredLatency.save` writes such a file.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = user_path(path, "path")
        data = read_json(self.path, ValueError, "table of latencies")
        with reading(f"the table of latencies {self.path}", ValueError):
            if data["format"] != FORMAT:
                raise ValueError(f"{self.path} must have format {FORMAT!r}, got {data['format']!r}")
            self.table = {_key(row): float(row["seconds"]) for row in data["rows"]}

    def __call__(self, shape: ConvShape, rank: int | None = None) -> float:
        """The latency for a rank, or that of the layer itself.

        Raises:
            ValueError: The table does not have it.
        """
        if (shape, rank) not in self.table:
            raise ValueError(f"{self.path} has no row for {shape} with rank {rank}")
        return self.table[shape, rank]


def _key(row: Mapping[str, Any]) -> tuple[ConvShape, int | None]:
    channels = (int(row["inputs"]), int(row["outputs"]))
    sizes = [tuple(map(int, row[name])) for name in ("kernel", "stride", "size", "result")]
    return ConvShape(*channels, *sizes), None if row["rank"] is None else int(row["rank"])
