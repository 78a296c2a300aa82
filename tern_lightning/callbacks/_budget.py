"""What the callbacks with a budget share: they find out together how much of every layer is pruned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._budget_solver import solve
from tern_lightning.callbacks._clock import position
from tern_lightning.callbacks._entropy_options import check_methods, options_of, set_strength
from tern_lightning.callbacks._logs import log_values
from tern_lightning.callbacks._masking import MaskCallback, Target
from tern_lightning.functional.patterns import group_norms, group_sizes, keep_largest, zero_share
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.schedules import Schedule
from tvm_schedules.common.near import check_share
from tvm_schedules.estimate.curves import Curves

Floats = npt.NDArray[np.float64]
_OPTIONS = 65
"""Shares of pruned weights that are compared for a layer."""
_SMALLEST = 1e-12
"""Share of a layer's energy that counts as none."""
_MARGIN = 0.01
"""How far below a limit is aimed, as the ternarizer's zeros move from one choice to the next."""


class Budget(MaskCallback):
    """Base of callbacks that make zeros until a cost of the network is within a limit.

    All budgets of a Trainer act together: the first one acts for all of them.

    Args:
        limit: What the network may cost, > 0.
        schedule: How the cost goes from where it is to the limit, from 0 to 1; None for a cubic one over the first
            half of the run.
        every: Optimizer steps from one choice to the next, at least 1.
        most: Largest share of a layer's weights that is pruned, in (0, 1).
        include: Patterns of layer paths (``*``, ``?``, ``[...]``); None for all trained layers but the first and the
            last.
        exclude: Patterns of layers that are left out.
        groups: How many neighboring output channels may lose a weight at one place together, each >= 1.
        by: ``pruning``, or ``entropy``: the strength of an entropy constraint on the layers of the method ``ec2t``.

    Attributes:
        curves: What the layers cost by their zeros; known when fit starts.
        multiplier: The price of the cost, in damage; what dual ascent has found.
        chosen: For every layer, which one of ``groups`` it has, by number; empty until that is chosen.
        shared: Whether a zero counts only where all channels of a group have it.
    """

    timed: bool = True
    shared: bool = False

    def __init__(
        self,
        limit: float,
        schedule: Schedule | None,
        every: int,
        most: float,
        include: Sequence[str] | None,
        exclude: Sequence[str],
        groups: Sequence[int],
        by: Literal["pruning", "entropy"] = "pruning",
    ) -> None:
        super().__init__(include, exclude)
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        check_share("most", most, "(0, 1)")
        if not groups or min(groups) < 1:
            raise ValueError(f"groups must be numbers of channels, at least 1 each, got {groups!r}")
        self.limit: float = limit
        self.schedule: Schedule = Schedule() if schedule is None else schedule
        if (self.schedule.initial, self.schedule.final) != (0, 1):
            raise ValueError(f"the schedule must go from 0 to 1, got {self.schedule}")
        self.every: int = every
        self.most: float = most
        self.groups: tuple[int, ...] = tuple(dict.fromkeys(groups))
        self.by: Literal["pruning", "entropy"] = by
        if by == "entropy" and self.groups != (1,):
            raise ValueError(f"by='entropy' makes zeros of single weights, which is groups=(1,), got {groups!r}")
        self.chosen: dict[str, int] = {}
        self.curves: Curves | None = None
        self.multiplier: float = 1e-3
        self.first: float | None = None
        self._next_step = 0
        self._group: list[Budget] = []

    @property
    @abstractmethod
    def name(self) -> str:
        """What logs call it, with the unit."""

    @abstractmethod
    def measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Curves:
        """What the layers cost by their zeros."""

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name, include=self.include, exclude=self.exclude)

    @override
    def reset(self) -> None:
        self.curves, self.multiplier, self.first, self.chosen = None, 1e-3, None, {}
        self._next_step = 0

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        position(trainer, self.schedule.unit)
        super().on_fit_start(trainer, pl_module)
        self._group = [one for one in trainer.callbacks if isinstance(one, Budget)]  # type: ignore[attr-defined]
        first = self._group[0]
        mine, others = ((one.include, one.exclude, one.groups, one.by) for one in (self, first))
        if mine != others:
            raise MisconfigurationException(
                "all budgets of a Trainer choose zeros together and need the same include, exclude, groups and by, got "
                f"{', '.join(map(str, mine))} beside {', '.join(map(str, others))}"
            )
        if self.curves is None:
            self.curves = self.measure(trainer, pl_module)
        if len(self.groups) == 1:
            self.chosen = dict.fromkeys(self._targets, 0)
        least = self.curves.least(self.most)
        if least > self.limit:
            raise MisconfigurationException(
                f"{type(self).__name__}: the network cannot reach {self.limit:.6g} ({self.name}); with {self.most:.1%} "
                f"zeros in every layer it is {least:.6g}, of which {self.curves.fixed:.6g} do not depend on zeros. "
                "HINT: raise the budget, include more layers, or make the network smaller"
            )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.by == "entropy":
            check_methods(trainer, self._targets, type(self).__name__)

    @property
    def _leads(self) -> bool:
        return bool(self._group) and self._group[0] is self

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._leads or batch_idx % trainer.accumulate_grad_batches or trainer.global_step < self._next_step:
            return
        self._next_step = trainer.global_step + self.every
        self._steer(trainer, [one.clock.value(one.schedule, trainer, batch_idx) for one in self._group])

    def _steer(self, trainer: pl.Trainer, progress: Sequence[float]) -> None:
        """Prunes where a budget is exceeded, each at its own share of the way."""
        if max(progress) <= 0 and (self.by == "entropy" or not self.chosen):
            return  # until something is pruned the weights may become others
        if not self.chosen:
            self._choose_groups()
        allowed, over = [], False
        for one, share in zip(self._group, progress, strict=True):
            now = one.estimate()
            one.first = now if one.first is None else one.first
            allowed.append(one.limit if one.first <= one.limit else one.first + share * (one.limit - one.first))
            over |= now > allowed[-1]
        if self.by == "entropy":
            self._set_strengths(allowed)
        elif over:
            self.set_masks(self.choose(allowed), trainer.optimizers)

    def _choose_groups(self) -> None:
        """Chooses how many channels of every layer share their zeros: what loses least when the budgets are met."""
        every = {path: range(len(self.groups)) for path in self._targets}
        found = {path: number for path, (number, _) in self._solve(every, [one.limit for one in self._group]).items()}
        for one in self._group:
            one.chosen = found
        said = [f"{self.groups[number]} in {path}" for path, number in found.items()]
        rank_zero_info(f"output channels that lose weights together: {', '.join(said)}")

    @torch.no_grad()
    def zeros(self, number: int | None = None) -> dict[str, float]:
        """The share of every layer's weights that count as zero in forward.

        Args:
            number: The group that is supposed; None for that of each layer.
        """
        found = {}
        for path, target in self._targets.items():
            group = self.groups[self.chosen.get(path, 0) if number is None else number] if self.shared else 1
            found[path] = zero_share(effective_weight(target.layer), group, target.axis)
        return found

    @torch.no_grad()
    def choose(self, allowed: Sequence[float]) -> dict[str, Tensor]:
        """The masks with which all budgets are met, as far as the zeros are foreseen.

        Args:
            allowed: What each of the budgets may be.
        """
        keeps = {}
        found = self._solve({path: [number] for path, number in self.chosen.items()}, allowed)
        for path, (number, share) in found.items():
            target, group = self._targets[path], self.groups[number]
            blocks = None if group == 1 else [((group, 1), target.axis, False)]
            (keeps[path],) = keep_largest([target.weight], share, [target.keep], blocks)
        return keeps

    @torch.no_grad()
    def _solve(self, numbers: Mapping[str, Sequence[int]], allowed: Sequence[float]) -> dict[str, tuple[int, float]]:
        """The group and the share of pruned weights of every layer.

        Args:
            numbers: Which groups every layer may have.
            allowed: What each of the budgets may be.
        """
        shares: dict[str, Floats] = {}
        damage: list[Floats] = []
        for path, target in self._targets.items():
            pruned = 0.0 if target.keep is None else float((~target.keep).float().mean())
            shares[path] = np.linspace(pruned, max(pruned, self.most), _OPTIONS)
            lost = [_lost(target, shares[path], self.groups[number]) for number in numbers[path]]
            damage.append(np.concatenate(lost))
        found = self._least(damage, [one.foreseen(numbers, shares) for one in self._group], allowed)
        return {
            path: (numbers[path][option // _OPTIONS], float(shares[path][option % _OPTIONS]))
            for path, option in zip(shares, found, strict=True)
        }

    def _least(
        self, damage: Sequence[Floats], costs: Sequence[Sequence[Floats]], allowed: Sequence[float]
    ) -> list[int]:
        """The option of every layer with which least is lost; prices are kept for the next time.

        Args:
            damage: ``[options]`` of every layer.
            costs: The same of every budget and every layer.
            allowed: What each of the budgets may be.
        """
        whole = sum(float(one.max()) for one in damage) or 1.0
        parts = []
        for one, limit, own in zip(self._group, allowed, costs, strict=True):
            assert one.curves is not None
            left = max((1 - _MARGIN) * limit - one.curves.fixed, 1e-12 + 1e-6 * abs(limit))
            parts.append([cost / left for cost in own])
        start = np.array([one.multiplier for one in self._group])
        found, multipliers = solve([one / whole for one in damage], parts, start)
        for one, value in zip(self._group, multipliers, strict=True):
            one.multiplier = float(value)
        return found

    @torch.no_grad()
    def _set_strengths(self, allowed: Sequence[float]) -> None:
        """Give every layer the strength of its entropy constraint with which all budgets are met.

        Args:
            allowed: What each of the budgets may be.
        """
        options = {path: options_of(target, self.most, _OPTIONS) for path, target in self._targets.items()}
        costs = [[one.curves.of(path, 0, own.zeros) for path, own in options.items()] for one in self._group]  # type: ignore[union-attr]
        found = self._least([own.damage for own in options.values()], costs, allowed)
        for (path, own), option in zip(options.items(), found, strict=True):
            set_strength(self._targets[path], float(own.strengths[option]))

    def foreseen(self, numbers: Mapping[str, Sequence[int]], shares: Mapping[str, Floats]) -> list[Floats]:
        """What every layer costs in each of its groups, one after another, at each share of pruned weights.

        Of the weights that are kept a ternarizer makes some zero: as many as now.

        Args:
            numbers: Which groups every layer may have.
            shares: Shares of pruned weights, the one of now first.
        """
        assert self.curves is not None
        zeros = [self.zeros(number) for number in range(len(self.groups))]
        costs = []
        for path, pruned in shares.items():
            parts = []
            for number in numbers[path]:
                further = max(0.0, (zeros[number][path] - pruned[0]) / max(1e-9, 1 - pruned[0]))
                parts.append(self.curves.of(path, number, pruned + (1 - pruned) * further))
            costs.append(np.concatenate(parts))
        return costs

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._leads:
            super().on_train_epoch_end(trainer, pl_module)
        log_values(trainer, pl_module, {f"budget/{self.name}": self.estimate()}, prog_bar=True, sync_dist=True)
        log_values(trainer, pl_module, {f"budget/{self.name}/limit": self.limit}, sync_dist=True)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._leads:
            super().on_validation_epoch_end(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._leads:
            done = [one.clock.value(one.schedule, trainer) for one in self._group]
            self._steer(trainer, done)  # the last step may have moved zeros
        super().on_train_end(trainer, pl_module)
        if self._targets and self.estimate() > self.limit * (1 + 1e-6):
            said = f"{self.name} is {self.estimate():.6g}, and the budget {self.limit:.6g}"
            advice.unfinished(type(self).__name__, trainer, said)

    def estimate(self) -> float:
        """What the network costs with the zeros that it has now.

        Raises:
            RuntimeError: No fit has started.
        """
        if self.curves is None:
            raise RuntimeError("a budget knows what a network costs when fit has started")
        return self.curves.total(self.zeros(), self.chosen)

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._targets or self.curves is None:
            return {}
        values = {path: [list(one) for one in own] for path, own in self.curves.values.items()}
        curves = {"fixed": self.curves.fixed, "shares": list(self.curves.shares), "values": values}
        grouped = {"groups": list(self.groups), "chosen": dict(self.chosen)}
        steered = {"multiplier": self.multiplier, "first": self.first, "next_step": self._next_step}
        state = {"masks": self.masks_state(), "curves": curves}
        return {**state, **grouped, **steered, **self.origin()}

    @override
    def restore(self, state: dict[str, Any]) -> None:
        if not state:
            return
        if tuple(state["groups"]) != self.groups:
            raise MisconfigurationException(
                f"{type(self).__name__}: the checkpoint's budget has groups={tuple(state['groups'])}, now {self.groups}"
            )
        self.load_masks(state["masks"])
        values = {path: tuple(tuple(one) for one in own) for path, own in state["curves"]["values"].items()}
        self.curves = Curves(state["curves"]["fixed"], tuple(state["curves"]["shares"]), values)
        self.multiplier, self.first, self._next_step = state["multiplier"], state["first"], state["next_step"]
        self.chosen = dict(state["chosen"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_group": []}


def _lost(target: Target, shares: Floats, group: int) -> Floats:
    """The damage of pruning a share of a layer: minus the logarithm of the energy that is left.

    Layer-adaptive Sparsity for the Magnitude-based Pruning (2021), equation 3, scores a weight by its square over the
    squares of all weights that are not smaller; such scores add up to about this. A layer that loses nearly all its
    weights counts without bound, and it does not matter how large the weights of a layer are.

    Args:
        target: The weight.
        shares: Shares of pruned weights, those of now first.
        group: How many channels lose a weight together; groups go as :func:`keep_largest` takes them.
    """
    weight, shape = target.weight.detach().float(), ((group, 1), target.axis, False)
    squares = group_norms(weight, *shape).square().flatten()
    sizes = group_sizes(weight.shape, *shape).to(weight.device).flatten()
    order = (squares / sizes).argsort(stable=True)
    lost = squares[order].double().cumsum(0).cpu().numpy()
    count = np.searchsorted(sizes[order].cumsum(0).cpu().numpy(), np.round(shares * weight.numel()), side="right")
    gone = np.where(count > 0, lost[np.maximum(count, 1) - 1], 0.0) / max(float(lost[-1]), _SMALLEST)
    return -np.log(np.maximum(1 - gone, _SMALLEST))
