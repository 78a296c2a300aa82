"""Prune until a network is within a budget: of zeros, of operations, of bytes, of milliseconds on a target."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from typing_extensions import override

from tern_lightning.callbacks._budget import Budget
from tern_lightning.nn.layer_types import channel_axis
from tern_lightning.nn.operations import layer_positions
from tern_lightning.schedules import Schedule
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.arguments import check_arguments, other_names
from tvm_schedules.common.near import check_share
from tvm_schedules.estimate.curves import Curves
from tvm_schedules.estimate.targets import CYCLES as BOARDS

Shapes = Sequence[int] | Sequence[Sequence[int]]


def _positive(name: str, value: float) -> float:
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a number above zero, got {value}")
    return float(value)


def _size_hint(name: str, value: Any) -> str | None:
    return "the ONNX file has two bits a weight, whatever they are" if name == "of" else None


@check_arguments(hint=other_names("zeros", "sparsity", "amount"))
class SparsityBudget(Budget):
    """Prune until a share of the weights is zero, at the least damage.

    Which layers get how many zeros follows from what they lose: minus the logarithm of the energy (the sum of squares)
    that pruning leaves of a layer, as the scores of Layer-adaptive Sparsity for the Magnitude-based Pruning (2021) add
    up. Zeros of the ternarizer count.

    Args:
        zeros: Share of all chosen weights that is to be zero, in (0, 1).
        schedule: How the share is reached; None for a cubic one over the first half of the run.
        every: Optimizer steps from one choice to the next, at least 1.
        most: Largest share of a layer's weights that is made zero, in (0, 1).
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.
        groups: How many neighboring output channels lose a weight at one place together; 1 prunes single weights. Of
            several, every layer gets the number with which least is lost, when pruning begins. Kernels of CPUs take
            less time for 2 or 4 channels that share their zeros.
        by: ``pruning`` makes weights zero for good. ``entropy`` is for layers of the method ``ec2t``: it gives each the
            strength of an entropy constraint that makes the zeros, in the place of
            :class:`~tern_lightning.EntropyConstraint`. Weights may become other than zero again until codes are frozen.
        allow_float: Whether the budget may leave layers float where less is lost so: those that ternary weights fit
            worst for what they cost. A float layer has 8 bits a weight in libraries with 8-bit activations. Which they
            are is chosen when pruning begins, after ``start`` and before ``freeze`` of the TernaryCallback.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: The budget cannot be reached.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback(), SparsityBudget(0.85)])
    """

    def __init__(
        self,
        zeros: float,
        schedule: Schedule | None = None,
        every: int = 20,
        most: float = 0.98,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        groups: Sequence[int] = (1,),
        by: Literal["pruning", "entropy"] = "pruning",
        allow_float: bool = False,
    ) -> None:
        check_share("zeros", zeros, "(0, 1)")
        super().__init__(1 - zeros, schedule, every, most, include, exclude, groups, by, allow_float)

    @property
    @override
    def name(self) -> str:
        return "kept"

    @override
    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Curves:
        sizes = {path: target.weight.numel() for path, target in self._targets.items()}
        whole = sum(sizes.values())
        return Curves.straight(0.0, {path: size / whole for path, size in sizes.items()}, len(self.groups))


class _WithInputs(Budget):
    """A budget that has to run the network once: on ``example_input_array`` or on random numbers."""

    def __init__(self, input_shape: Shapes | None, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.input_shape: Shapes | None = input_shape

    def shapes(self, pl_module: pl.LightningModule) -> list[tuple[int, ...]]:
        """The shapes of the network's inputs, for one sample."""
        example, given = pl_module.example_input_array, self.input_shape
        if given is not None:
            several: Any = given if isinstance(given[0], Sequence) else [given]
            return [tuple(int(size) for size in one) for one in several]
        if example is None:
            raise MisconfigurationException(
                f"{type(self).__name__} runs the network once and needs the shape of its input: set the module's "
                "example_input_array, or give input_shape"
            )
        tensors = [example] if isinstance(example, Tensor) else list(example)
        return [(1, *tensor.shape[1:]) for tensor in tensors]


@check_arguments
class OperationBudget(_WithInputs):
    """Prune until the network makes at most so many additions, at the least damage.

    A weight that is not zero is one addition wherever it is applied; weights of layers that are not chosen count whole.
    See :class:`SparsityBudget` for what is damage.

    Args:
        operations: Additions for one sample in all convolutions and linear layers, > 0.
        input_shape: Shape of the input with the batch, or a sequence of shapes; None takes the module's
            ``example_input_array``.
        schedule: How the number is reached; None for a cubic one over the first half of the run.
        every: Optimizer steps from one choice to the next, at least 1.
        most: Largest share of a layer's weights that is made zero, in (0, 1).
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.
        groups: How many neighboring output channels may lose a weight together; see :class:`SparsityBudget`.
        by: What makes the zeros, ``pruning`` or ``entropy``; see :class:`SparsityBudget`.
        allow_float: Whether layers may go back to float; see :class:`SparsityBudget`.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: The budget cannot be reached, or the input's shape is not known.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback(), OperationBudget(5e6, input_shape=(1, 3, 32, 32))])
    """

    def __init__(
        self,
        operations: float,
        input_shape: Shapes | None = None,
        schedule: Schedule | None = None,
        every: int = 20,
        most: float = 0.98,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        groups: Sequence[int] = (1,),
        by: Literal["pruning", "entropy"] = "pruning",
        allow_float: bool = False,
    ) -> None:
        limit = _positive("operations", operations)
        super().__init__(input_shape, limit, schedule, every, most, include, exclude, groups, by, allow_float)

    @property
    @override
    def name(self) -> str:
        return "operations"

    @override
    @torch.no_grad()
    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Curves:
        inputs = [torch.zeros(shape, device=pl_module.device) for shape in self.shapes(pl_module)]
        modes = {module: module.training for module in pl_module.modules()}
        pl_module.eval()
        try:
            positions = layer_positions(pl_module, *inputs)
        finally:
            for module, training in modes.items():
                module.training = training
        dense = {path: float(count * weights) for path, (count, weights) in positions.items()}
        chosen = {path: dense[path] for path in self._targets if path in dense}
        missing = sorted(set(self._targets) - set(chosen))
        if missing:
            raise MisconfigurationException(f"OperationBudget cannot count layers {missing}; HINT: exclude={missing}")
        fixed = sum(dense.values()) - sum(chosen.values())
        return Curves.straight(fixed, chosen, len(self.groups))


class _Estimated(_WithInputs):
    """A budget of an estimate on a target: of the network's ONNX form, lowered at several shares of zeros."""

    def __init__(self, target: str, of: str, activations: Any, measured: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.target: str = target
        self.of: str = of
        self.activations: Literal["uint8", "float32"] = activations
        self.measured: Any = measured

    @override
    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Curves:
        from tvm_schedules.errors import TernError
        from tvm_schedules.estimate.curves import curves
        from tvm_schedules.estimate.table import read
        from tvm_schedules.estimate.targets import device

        model = self._exported(pl_module, ternary=True)
        dense = self._exported(pl_module, ternary=False) if self.allow_float else None
        try:
            tables = [] if self.measured is None else [read(self.measured)]
            on = device(self.target, tables)
            return curves(model, list(self._targets), on, self.of, groups=self.groups, dense=dense)
        except TernError as error:
            raise MisconfigurationException(f"{type(self).__name__}: {error}") from error

    def _exported(self, pl_module: pl.LightningModule, ternary: bool) -> Any:
        """The network's ONNX form, with any ternary weights in the chosen layers, or with float ones."""
        from tern_lightning.exporter.writer import to_onnx

        modes = {module: module.training for module in pl_module.modules()}
        generator = torch.Generator().manual_seed(0)
        shapes = self.shapes(pl_module)
        chosen = self._targets if ternary else {}
        codes = {path: _any_codes(one.layer, one.weight, generator) for path, one in chosen.items()}
        with torch.random.fork_rng():
            inputs = [torch.randn(shape, generator=generator).to(pl_module.device) for shape in shapes]
            try:
                return to_onnx(pl_module, inputs, activations=self.activations, ternary=codes, verify=False)
            finally:
                for module, training in modes.items():
                    module.training = training


def _any_codes(layer: nn.Module, weight: Tensor, generator: torch.Generator) -> TernaryTensor:
    """Codes of a weight's shape, other ones for every layer: a file holds equal weights once."""
    state = layer.__dict__.get("_ternary_state")
    method = getattr(state, "quantizer", None)
    terms = int(getattr(method, "terms", 1))
    codes = torch.randint(-1, 2, (terms, *weight.shape), generator=generator, dtype=torch.int8)
    levels = torch.full((terms, 1), 0.05)
    others = levels if getattr(method, "symmetric", True) else 0.8 * levels
    return TernaryTensor(codes, levels, others, channel_axis(layer))


@check_arguments(hint=_size_hint)
class SizeBudget(_Estimated):
    """Prune until what a device stores of the network has at most so many bytes, at the least damage.

    Stored codes take about as many bits as they have entropy, so that zeros make files smaller. The weights of the
    network are packed for several shares of zeros when fit starts, and what lies between is interpolated. See
    :class:`SparsityBudget` for what is damage.

    Args:
        bytes: Bytes, > 0.
        of: ``library``: code, weights and metadata for ``target``; ``flash``: tables of the C form, and its code where
            ``target`` is a microcontroller by name.
        target: CPU that the library is for, None for ``host``; with ``flash`` one of ``cortex-m4``, ``cortex-m7`` and
            ``cortex-m55``, None for tables alone.
        activations: ``uint8`` or ``float32``, as the network will be exported.
        input_shape: Shape of the input with the batch, or a sequence of shapes; None takes the module's
            ``example_input_array``.
        schedule: How the size is reached; None for a cubic one over the first half of the run.
        every: Optimizer steps from one choice to the next, at least 1.
        most: Largest share of a layer's weights that is made zero, in (0, 1).
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.
        groups: How many neighboring output channels may lose a weight together; see :class:`SparsityBudget`.
        by: What makes the zeros, ``pruning`` or ``entropy``; see :class:`SparsityBudget`.
        allow_float: Whether layers may go back to float; see :class:`SparsityBudget`.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: The budget cannot be reached, or the network cannot be estimated.

    Example::

        trainer = Trainer(callbacks=[TernaryCallback(), SizeBudget(60_000, of="flash", target="cortex-m4")])
    """

    def __init__(
        self,
        bytes: int,
        of: Literal["library", "flash"] = "library",
        target: str | None = None,
        activations: Literal["uint8", "float32"] = "uint8",
        input_shape: Shapes | None = None,
        schedule: Schedule | None = None,
        every: int = 20,
        most: float = 0.98,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        groups: Sequence[int] = (1,),
        by: Literal["pruning", "entropy"] = "pruning",
        allow_float: bool = False,
    ) -> None:
        boards = (*BOARDS, "c")
        if of == "flash" and target not in (*boards, None):
            raise ValueError(f"target of flash must be one of {', '.join(BOARDS)}, or left out, got {target!r}")
        if of == "library" and target in boards:
            raise ValueError(f"target of a library must be a CPU, got {target!r}; of='flash' is for it")
        where = target or ("c" if of == "flash" else "host")
        limit = _positive("bytes", bytes)
        steering = schedule, every, most, include, exclude, groups, by, allow_float
        super().__init__(where, "bytes", activations, None, input_shape, limit, *steering)

    @property
    @override
    def name(self) -> str:
        if self.target == "c":
            return "flash_bytes"
        return f"{self.target}_flash_bytes" if self.target in BOARDS else f"{self.target}_bytes"


@check_arguments
class LatencyBudget(_Estimated):
    """Prune until the network is estimated to take at most so many milliseconds on a target, at the least damage.

    The time of every layer is estimated for several shares of zeros when fit starts, see
    :doc:`the guide </guides/estimating>` for where such times are from and how far to trust them. See
    :class:`SparsityBudget` for what is damage. It is the time of one sample with one thread.

    Args:
        target: ``host``, ``pi4``, ``cortex-m4`` and so on: one that there is a table of, or that of ``measured``.
        milliseconds: For one sample, > 0.
        measured: Table of ``tern-bench --profile-table`` for the target.
        activations: ``uint8`` or ``float32``, as the network will be exported.
        input_shape: Shape of the input with the batch, or a sequence of shapes; None takes the module's
            ``example_input_array``.
        schedule: How the time is reached; None for a cubic one over the first half of the run.
        every: Optimizer steps from one choice to the next, at least 1.
        most: Largest share of a layer's weights that is made zero, in (0, 1).
        include: Patterns of layer paths; None for all trained layers but the first and the last.
        exclude: Patterns of layers that are left out.
        groups: How many neighboring output channels may lose a weight together; see :class:`SparsityBudget`.
        by: What makes the zeros, ``pruning`` or ``entropy``; see :class:`SparsityBudget`.
        allow_float: Whether layers may go back to float; see :class:`SparsityBudget`.

    Raises:
        ValueError: An argument is out of range.
        MisconfigurationException: The budget cannot be reached, or the network cannot be estimated.

    Example::

        budget = LatencyBudget("pi4", milliseconds=5, measured="pi4.json", input_shape=(1, 3, 32, 32))
        trainer = Trainer(callbacks=[TernaryCallback(), budget])
    """

    shared: bool = True

    def __init__(
        self,
        target: str,
        milliseconds: float,
        measured: str | None = None,
        activations: Literal["uint8", "float32"] = "uint8",
        input_shape: Shapes | None = None,
        schedule: Schedule | None = None,
        every: int = 20,
        most: float = 0.98,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
        groups: Sequence[int] = (1,),
        by: Literal["pruning", "entropy"] = "pruning",
        allow_float: bool = False,
    ) -> None:
        limit = _positive("milliseconds", milliseconds)
        steering = schedule, every, most, include, exclude, groups, by, allow_float
        super().__init__(target, "seconds", activations, measured, input_shape, limit, *steering)

    @property
    @override
    def name(self) -> str:
        return f"{self.target}_ms"

    @override
    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Curves:
        return super().measure(trainer, pl_module).scaled(1e3)
