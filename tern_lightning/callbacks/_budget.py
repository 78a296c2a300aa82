"""What the callbacks with a budget share: they find out together how much of every layer is pruned."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._budget_options import FLOAT, Floats, Options, pruning_loss, ternarizing_loss
from tern_lightning.callbacks._budget_solver import solve
from tern_lightning.callbacks._clock import position
from tern_lightning.callbacks._entropy_options import check_methods, options_of, set_strength
from tern_lightning.callbacks._logs import log_values
from tern_lightning.callbacks._masking import MaskCallback, Target
from tern_lightning.callbacks.ternary import TernaryCallback
from tern_lightning.functional.patterns import keep_largest, zero_share
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.schedules import Schedule
from tvm_schedules.common.near import check_share
from tvm_schedules.estimate.curves import Curves

_OPTIONS = 65
"""Shares of pruned weights that are compared for a layer."""
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
        allow_float: Whether layers may go back to float where that loses less.

    Attributes:
        curves: What the layers cost by their zeros; known when fit starts.
        multiplier: The price of the cost, in damage; what dual ascent has found.
        chosen: For every layer, which one of ``groups`` it has, by number; empty until that is chosen.
        floats: The layers that went back to float.
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
        allow_float: bool = False,
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
        self.allow_float: bool = allow_float
        self.chosen: dict[str, int] = {}
        self.floats: tuple[str, ...] = ()
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
        self.curves, self.multiplier, self.first = None, 1e-3, None
        self.chosen, self.floats, self._next_step = {}, (), 0

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        position(trainer, self.schedule.unit)
        super().on_fit_start(trainer, pl_module)
        self._group = [one for one in trainer.callbacks if isinstance(one, Budget)]  # type: ignore[attr-defined]
        first = self._group[0]
        mine, others = ((one.include, one.exclude, one.groups, one.by, one.allow_float) for one in (self, first))
        if mine != others:
            raise MisconfigurationException(
                "all budgets of a Trainer choose zeros together and need the same include, exclude, groups, by and "
                f"allow_float, got {', '.join(map(str, mine))} beside {', '.join(map(str, others))}"
            )
        if self.curves is None:
            self.curves = self.measure(trainer, pl_module)
        if len(self.groups) == 1 and not self.allow_float and not self.chosen:
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
            check_methods(trainer, self._ternary, type(self).__name__)
        if self.allow_float:
            self._ternarizer(trainer)

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
        self._steer(trainer, pl_module, [one.clock.value(one.schedule, trainer, batch_idx) for one in self._group])

    def _steer(self, trainer: pl.Trainer, pl_module: pl.LightningModule, progress: Sequence[float]) -> None:
        """Prunes where a budget is exceeded, each at its own share of the way."""
        if max(progress) <= 0 and (self.by == "entropy" or not self.chosen):
            return  # until something is pruned the weights may become others
        if not self.chosen:
            self._choose_forms(trainer, pl_module)
        allowed, over = [], False
        for one, share in zip(self._group, progress, strict=True):
            now = one.estimate()
            one.first = now if one.first is None else one.first
            allowed.append(one.limit if one.first <= one.limit else one.first + share * (one.limit - one.first))
            over |= now > allowed[-1]
        if self.by == "entropy":
            for path, (_, strength) in self._solve(self._formed, allowed).items():
                set_strength(self._targets[path], strength)
        elif over:
            self.set_masks(self.choose(allowed), trainer.optimizers)

    def _choose_forms(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Chooses for every layer how many channels share their zeros, or float: what loses least in the end."""
        every = {path: range(len(self.groups)) for path in self._targets}
        found = self._solve(every, [one.limit for one in self._group], self.allow_float)
        chosen = {path: number for path, (number, _) in found.items()}
        floats = tuple(path for path, number in chosen.items() if number == FLOAT)
        for one in self._group:
            one.chosen, one.floats = chosen, floats
        if len(self.groups) > 1:
            said = [f"{self.groups[number]} in {path}" for path, number in chosen.items() if path not in floats]
            rank_zero_info(f"output channels that lose weights together: {', '.join(said)}")
        if self.allow_float:
            rank_zero_info(f"layers that go back to float, as the budget allows it: {', '.join(floats) or 'none'}")
            self._ternarizer(trainer).leave_float(
                trainer, pl_module, dict.fromkeys(floats, "float, as the budget allows it")
            )

    def _ternarizer(self, trainer: pl.Trainer) -> TernaryCallback:
        """The callback that makes layers ternary, and lets them go back to float."""
        found = [one for one in trainer.callbacks if isinstance(one, TernaryCallback)]  # type: ignore[attr-defined]
        if not found:
            raise MisconfigurationException(
                f"{type(self).__name__}(allow_float=True) needs a TernaryCallback, whose layers may go back to float"
            )
        return found[0]

    @property
    def _ternary(self) -> dict[str, Target]:
        """The weights that zeros are made in."""
        return {path: target for path, target in self._targets.items() if path not in self.floats}

    @property
    def _formed(self) -> dict[str, list[int]]:
        """The one group of every layer, by number, when that is chosen."""
        return {path: [self.chosen[path]] for path in self._ternary}

    @torch.no_grad()
    def zeros(self, number: int | None = None) -> dict[str, float]:
        """The share of every layer's weights that count as zero in forward.

        Args:
            number: The group that is supposed; None for that of each layer.
        """
        found = {}
        for path, target in self._ternary.items():
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
        for path, (number, share) in self._solve(self._formed, allowed).items():
            target, group = self._targets[path], self.groups[number]
            blocks = None if group == 1 else [((group, 1), target.axis, False)]
            (keeps[path],) = keep_largest([target.weight], share, [target.keep], blocks)
        return keeps

    @torch.no_grad()
    def _solve(
        self, numbers: Mapping[str, Sequence[int]], allowed: Sequence[float], allow_float: bool = False
    ) -> dict[str, tuple[int, float]]:
        """The group of every layer, or FLOAT, and its share of pruned weights or its strength.

        The prices of the budgets are kept for the next time.

        Args:
            numbers: Which groups every layer may have.
            allowed: What each of the budgets may be.
            allow_float: Whether a layer may be float, where nothing is lost.
        """
        options = self._strengths(numbers) if self.by == "entropy" else self._shares(numbers)
        if allow_float:
            for path, own in options.items():
                # What a strength loses is counted from the latent weights, what pruning loses only from the others.
                more = 0.0 if self.by == "entropy" else ternarizing_loss(self._targets[path])
                options[path] = own.or_float(more, [one.known.dense[path] for one in self._group])
        whole = sum(float(own.damage.max()) for own in options.values()) or 1.0
        parts = []
        for index, (one, limit) in enumerate(zip(self._group, allowed, strict=True)):
            fixed = one.known.fixed + sum(one.known.dense[path] for path in self.floats)
            left = max((1 - _MARGIN) * limit - fixed, 1e-12 + 1e-6 * abs(limit))
            parts.append([own.costs[index] / left for own in options.values()])
        start = np.array([one.multiplier for one in self._group])
        found, multipliers = solve([own.damage / whole for own in options.values()], parts, start)
        for one, value in zip(self._group, multipliers, strict=True):
            one.multiplier = float(value)
        return {path: own.forms[option] for (path, own), option in zip(options.items(), found, strict=True)}

    def _shares(self, numbers: Mapping[str, Sequence[int]]) -> dict[str, Options]:
        """Shares of pruned weights in each of the groups that a layer may have."""
        shares = {}
        for path in numbers:
            keep = self._targets[path].keep
            pruned = 0.0 if keep is None else float((~keep).float().mean())
            shares[path] = np.linspace(pruned, max(pruned, self.most), _OPTIONS)
        costs = [one.foreseen(numbers, shares) for one in self._group]
        found = {}
        for path, own in shares.items():
            lost = [pruning_loss(self._targets[path], own, self.groups[number]) for number in numbers[path]]
            forms = [(number, float(share)) for number in numbers[path] for share in own]
            found[path] = Options(forms, np.concatenate(lost), [cost[path] for cost in costs])
        return found

    def _strengths(self, layers: Iterable[str]) -> dict[str, Options]:
        """Strengths of the entropy constraint of every layer, with what follows from them."""
        found = {}
        for path in layers:
            own = options_of(self._targets[path], self.most, _OPTIONS)
            costs = [one.known.of(path, 0, own.zeros) for one in self._group]
            found[path] = Options([(0, float(strength)) for strength in own.strengths], own.damage, costs)
        return found

    def foreseen(self, numbers: Mapping[str, Sequence[int]], shares: Mapping[str, Floats]) -> dict[str, Floats]:
        """What every layer costs in each of its groups, one after another, at each share of pruned weights.

        Of the weights that are kept a ternarizer makes some zero: as many as now.

        Args:
            numbers: Which groups every layer may have.
            shares: Shares of pruned weights, the one of now first.
        """
        zeros = [self.zeros(number) for number in range(len(self.groups))]
        costs = {}
        for path, pruned in shares.items():
            parts = []
            for number in numbers[path]:
                further = max(0.0, (zeros[number][path] - pruned[0]) / max(1e-9, 1 - pruned[0]))
                parts.append(self.known.of(path, number, pruned + (1 - pruned) * further))
            costs[path] = np.concatenate(parts)
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
            self._steer(trainer, pl_module, done)  # the last step may have moved zeros
        super().on_train_end(trainer, pl_module)
        if self._targets and self.estimate() > self.limit * (1 + 1e-6):
            said = f"{self.name} is {self.estimate():.6g}, and the budget {self.limit:.6g}"
            advice.unfinished(type(self).__name__, trainer, said)

    def estimate(self) -> float:
        """What the network costs with the zeros that it has now.

        Raises:
            RuntimeError: No fit has started.
        """
        return self.known.total(self.zeros(), self.chosen, self.floats)

    @property
    def known(self) -> Curves:
        """What the layers cost.

        Raises:
            RuntimeError: No fit has started.
        """
        if self.curves is None:
            raise RuntimeError("a budget knows what a network costs when fit has started")
        return self.curves

    @override
    def state_dict(self) -> dict[str, Any]:
        if not self._targets or self.curves is None:
            return {}
        values = {path: [list(one) for one in own] for path, own in self.curves.values.items()}
        curves = {"fixed": self.curves.fixed, "shares": list(self.curves.shares), "values": values}
        curves["dense"] = dict(self.curves.dense)
        grouped = {"groups": list(self.groups), "chosen": dict(self.chosen), "floats": list(self.floats)}
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
        floats = tuple(state.get("floats", ()))
        if floats and not self.allow_float:
            raise MisconfigurationException(
                f"{type(self).__name__}: in the checkpoint {', '.join(floats)} went back to float. "
                "HINT: allow_float=True, as the run was started"
            )
        self.load_masks(state["masks"])
        values = {path: tuple(tuple(one) for one in own) for path, own in state["curves"]["values"].items()}
        curves = state["curves"]
        self.curves = Curves(curves["fixed"], tuple(curves["shares"]), values, dict(curves.get("dense", {})))
        self.multiplier, self.first, self._next_step = state["multiplier"], state["first"], state["next_step"]
        self.chosen, self.floats = dict(state["chosen"]), floats

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_group": []}
