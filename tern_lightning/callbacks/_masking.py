"""What callbacks that work on the latent weights of chosen layers have in common, above all those that prune."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from tern_lightning.callbacks import _advice as advice
from tern_lightning.callbacks._clock import Clock
from tern_lightning.callbacks._logs import log_values
from tern_lightning.callbacks._select import check_company, select_layers
from tern_lightning.callbacks._state import find_copies
from tern_lightning.callbacks._stateful import LayerCallback
from tern_lightning.functional.patterns import digit_sizes, keep_digits
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.layer_types import channel_axis, find_weight, kind_of, weight_of
from tern_lightning.nn.recurrent_weights import layer_at, named_layers
from tern_lightning.nn.ternary_layers import effective_weight
from tern_lightning.nn.weight_mask import apply_mask, clear, mask_of, prune, share_mask, weight_mask
from tern_lightning.ternary_tensor import TernaryTensor


@dataclass
class Target:
    """A weight that a callback works on.

    Attributes:
        path: Path of the first layer that has the weight.
        layer: The layer at that path.
        others: Further layers with the same weight, and averaged copies of all of them.
    """

    path: str
    layer: nn.Module
    others: list[nn.Module] = field(default_factory=list)

    @property
    def weight(self) -> nn.Parameter:
        """The latent weight, which all members share or have a copy of."""
        return weight_of(self.layer)

    @property
    def axis(self) -> int:
        """Axis of the output channels."""
        return channel_axis(self.layer)

    @property
    def keep(self) -> Tensor | None:
        """The mask of all callbacks together, True where a weight is kept; None where none is pruned."""
        return mask_of(self.layer)

    def members(self) -> list[nn.Module]:
        """The layer and the others that have its weight or an averaged copy of it."""
        return [self.layer, *self.others]


class WeightCallback(LayerCallback):
    """Base of callbacks that change the latent weights of chosen layers or their gradients.

    It finds the weights when fit starts, calls :meth:`after_step` right after every step that an optimizer really made
    (a loss scaler may skip one), restores states of checkpoints and keeps the shared masks applied.

    Two of one class in a Trainer need different ``include`` or ``exclude``, which are part of their ``state_key``.

    Args:
        include: Patterns of layer paths (``*``, ``?``, ``[...]``); None for all trained layers but the first and the
            last.
        exclude: Patterns of layers that are left out.

    Attributes:
        clock: The position in the run, from where the callback joined it.
        timed: Whether the callback does something at a certain time of the run.
    """

    timed: bool = False

    def __init__(self, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> None:
        self.include: tuple[str, ...] | None = None if include is None else tuple(include)
        self.exclude: tuple[str, ...] = tuple(exclude)
        self.clock: Clock = Clock()
        self._targets: dict[str, Target] = {}
        self._handles: list[RemovableHandle] = []
        self._restored: dict[str, Any] | None = None

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def reset(self) -> None:
        """Forget an earlier run."""

    def origin(self) -> dict[str, dict[str, int]]:
        """The part of the state that says where the callback joined the run."""
        return {"origin": self.clock.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, when the weights are known."""

    def after_step(self, optimizer: Optimizer) -> None:
        """Act right after a step of an optimizer."""

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        check_company(trainer, pl_module, type(self).__name__)
        known = bool(self._targets)
        self._targets = _targets(
            trainer, pl_module, select_layers(pl_module, self.include, self.exclude, trainer.optimizers)
        )
        self.clock.enter(trainer, self._restored is not None, known)
        if self.clock.fresh:
            self.reset()
        self._restore()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Strategies that restore a checkpoint after their own setup do it after on_fit_start.
        self._restore()
        if self.clock.join(trainer) and self.timed:
            advice.joined(type(self).__name__, trainer, "epochs, steps and fractions of the run count from there")
        self._unhook()
        for optimizer in trainer.optimizers:
            self._handles.append(optimizer.register_step_post_hook(self._post))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unhook()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restored = None
        self._unhook()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._unhook()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def _restore(self) -> None:
        saved, self._restored = self._restored, None
        if saved is not None:
            self.clock.load(saved)
            self.restore(saved)

    def _post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.after_step(optimizer)

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _of(self, optimizer: Optimizer) -> list[tuple[Target, float]]:
        """The weights that an optimizer moves, with their learning rates."""
        rates = {id(p): float(group.get("lr", 0.0)) for group in optimizer.param_groups for p in group["params"]}
        found = self._targets.values()
        return [(target, rates[id(target.weight)]) for target in found if id(target.weight) in rates]

    def __getstate__(self) -> dict[str, Any]:
        # Hooks belong to the optimizers of a run.
        return {**self.__dict__, "_handles": []}


class MaskCallback(WeightCallback):
    """Base of callbacks that prune: pruned weights and their gradients are zero, and so is the optimizer's memory."""

    @property
    def owner(self) -> str:
        """Name of this callback's part of the masks."""
        return self.state_key

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._apply()

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        for target, _ in self._of(optimizer):
            keep, grad = target.keep, target.weight.grad
            if keep is not None and grad is not None:
                clear(grad, keep)

    @override
    def after_step(self, optimizer: Optimizer) -> None:
        self._apply()

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._apply()

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        found = self.log_values()
        found.update({f"pruning/{path}/pruned": pruned_share([t]) for path, t in self._targets.items()})
        log_values(trainer, pl_module, found, sync_dist=True)

    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Checkpoint callbacks that run after validation may monitor these before the epoch's values are logged.
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._targets:
            log_values(trainer, pl_module, self.log_values(), logger=False, sync_dist=True)

    def log_values(self) -> dict[str, float]:
        """Shares of the pruned weights, of all weights that are zero in forward and, where pruned, of zero digits."""
        targets = list(self._targets.values())
        found = {"pruning/pruned": pruned_share(targets), "pruning/sparsity": zero_share(targets)}
        if any(weight_mask(target.layer).limit is not None for target in targets):
            found["pruning/digits"] = zero_digit_share(targets)
        return found

    def masks_state(self) -> dict[str, Tensor]:
        """This callback's part of the masks, by path."""
        parts = {path: weight_mask(target.layer).part(self.owner) for path, target in self._targets.items()}
        return {path: part.cpu() for path, part in parts.items() if part is not None}

    def load_masks(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`masks_state` gave.

        Raises:
            MisconfigurationException: The state is of other layers.
        """
        unknown = sorted(set(state) - set(self._targets))
        if unknown:
            raise MisconfigurationException(
                f"the checkpoint has masks of layers {unknown}, which are not pruned in this run. "
                "HINT: resume with the include and exclude that the run was started with."
            )
        for path, target in self._targets.items():
            keep = state.get(path)
            prune(target.layer, keep, self.owner)
        self._apply()

    def set_masks(self, keeps: dict[str, Tensor], optimizers: Sequence[Optimizer]) -> None:
        """Prune: weights, averaged copies and what the optimizers remember of pruned weights become zero."""
        for path, keep in keeps.items():
            prune(self._targets[path].layer, keep, self.owner)
        self._apply()
        for optimizer in optimizers:
            for target, _ in self._of(optimizer):
                kept = target.keep
                if kept is None:
                    continue
                for memory in optimizer.state.get(target.weight, {}).values():
                    if isinstance(memory, Tensor) and memory.shape == target.weight.shape:
                        memory.masked_fill_(~kept.to(memory.device), 0)

    def _apply(self) -> None:
        for target in self._targets.values():
            for member in target.members():
                apply_mask(member)


def pruned_share(targets: Sequence[Target]) -> float:
    """Share of weights that are pruned."""
    pruned = sum(int((~t.keep).sum()) for t in targets if t.keep is not None)
    return pruned / sum(target.weight.numel() for target in targets)


@torch.no_grad()
def zero_share(targets: Sequence[Target]) -> float:
    """Share of weights that are zero in forward."""
    zeros = sum(int((effective_weight(target.layer) == 0).sum()) for target in targets)
    return zeros / sum(target.weight.numel() for target in targets)


@torch.no_grad()
def terms_of(target: Target) -> TernaryTensor | None:
    """The ternary form of a weight whose method has several terms; None of any other."""
    state: LayerState | None = target.layer.__dict__.get("_ternary_state")
    if state is None or getattr(state.quantizer, "terms", 1) == 1:
        return None
    return state.ternary(target.weight)


@torch.no_grad()
def zero_digit_share(targets: Sequence[Target]) -> float:
    """Share of the digits that are zero; a weight without several terms is one digit."""
    digits = [effective_weight(t.layer) if (own := terms_of(t)) is None else own.codes for t in targets]
    return sum(int((digit == 0).sum()) for digit in digits) / sum(digit.numel() for digit in digits)


@torch.no_grad()
def choose_digits(targets: Sequence[Target], amount: float) -> dict[str, Tensor]:
    """The part of the masks that prunes a share of all digits; see :func:`keep_digits`."""
    sizes, limits = [], []
    for target in targets:
        own, weight = terms_of(target), target.weight.detach().float()
        sizes.append(weight.abs()[None] if own is None else digit_sizes(weight, own))
        limit = weight_mask(target.layer).limit
        full = torch.full_like(weight, len(sizes[-1]), dtype=torch.int8) if limit is None else limit
        limits.append(full if target.keep is None else full * target.keep)
    return {t.path: limit for t, limit in zip(targets, keep_digits(sizes, amount, limits), strict=True)}


def _targets(trainer: pl.Trainer, model: nn.Module, chosen: dict[str, nn.Module]) -> dict[str, Target]:
    """One target for every weight, with all layers of the model and of averaged copies that have it."""
    by_weight: dict[int, Target] = {}
    for path, layer in named_layers(model, remove_duplicate=False):
        weight = find_weight(layer)
        if weight is not None and kind_of(layer) is not None:
            known = by_weight.setdefault(id(weight), Target(path, layer))
            if layer is not known.layer:
                known.others.append(layer)
    found: dict[str, Target] = {}
    copies = find_copies(trainer, chosen)
    for path, layer in chosen.items():
        target = by_weight[id(weight_of(layer))]
        if any(target is other for other in found.values()):
            continue
        target.path, found[path] = path, target
        target.others += [layer_at(root, path) for root in copies.values()]
        share_mask(weight_mask(target.layer), target.others)
        for member in target.others:
            state = member.__dict__.get("_ternary_state")
            if state is not None:
                state.mask = weight_mask(target.layer)
    return found
