"""Training of what methods learn besides weights: levels and thresholds, which are no parameters of the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.layer_types import weight_of
from tern_lightning.nn.ternary_layers import TernaryLayer
from tern_lightning.nn.weight_mask import mask_of
from tern_lightning.quantizers import Quantizer

BETAS, EPS = (0.9, 0.999), 1e-8


def arguments(layer: TernaryLayer) -> tuple[Tensor, int, Tensor | None]:
    """What a layer's method is called with: latent weight in float32, channel axis, mask."""
    return weight_of(layer).detach().float(), layer._ternary_state.channel_axis, mask_of(layer)


@torch.no_grad()
def begin(layers: Mapping[str, TernaryLayer]) -> None:
    """Create the scalars of all layers that have none yet."""
    for layer in layers.values():
        layer._ternary_state.quantizer.begin(*arguments(layer))


def carry_over(old: LayerState | None, new: Quantizer, weight: Tensor, channel_axis: int) -> None:
    """Let the method of a new run go on from the scalars of the old one, if it trains the same."""
    if old is None or type(old.quantizer) is not type(new) or not len(old.quantizer.trained):
        return
    shapes = {name: value.shape for name, value in new.initial(weight.detach().float(), channel_axis).items()}
    if shapes == {name: value.shape for name, value in old.quantizer.trained.items()}:
        new.load(old.quantizer.state(), weight.device)


@dataclass
class _Memory:
    """What the update of one layer's scalars remembers: flat averages and the number of updates."""

    first: Tensor
    second: Tensor
    steps: int = 0


class ScalarTrainer:
    """Moves the trained scalars of ternary layers with the gradients that backward has left at them.

    The update is Adam (Adam: A Method for Stochastic Optimization, 2015, algorithm 1) for layers whose weight belongs
    to an optimizer with ``betas``, else stochastic gradient descent with that optimizer's momentum: levels that move
    ten times as fast as the weights they stand for run away. It is without weight decay. Methods may ask for gradient
    descent with a Nesterov momentum of their own.
    The learning rate is the weight's at that moment times the method's ``rate``. Gradients are averaged over processes
    and freed of the loss scale.
    """

    def __init__(self) -> None:
        self._memory: dict[str, _Memory] = {}

    def step(
        self,
        optimizer: Optimizer,
        layers: Mapping[str, TernaryLayer],
        world_size: int = 1,
        scaler: Any = None,
        first_pass: bool = False,
    ) -> None:
        """Update the scalars of the layers whose weights an optimizer is about to move, and clear their gradients.

        Args:
            optimizer: The optimizer, before its step.
            layers: Ternary layers by path.
            world_size: Processes over which gradients are averaged.
            scaler: The ``torch.amp.GradScaler`` by whose scale the loss was multiplied, or None.
            first_pass: Update those of methods with two passes, not those of the others.
        """
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        chosen = {
            path: layer
            for path, layer in layers.items()
            if id(weight_of(layer)) in groups
            and layer._ternary_state.phase == "ternary"
            and len(layer._ternary_state.quantizer.trained)
            and layer._ternary_state.quantizer.two_pass == first_pass
        }
        if not chosen:
            return
        grads = self._take_gradients(chosen, world_size, scaler)
        if grads is None:
            return
        family = "betas" in optimizer.defaults
        for adam in (True, False):
            paths = [path for path, one in chosen.items() if (family and _method(one).optimizer == "same") == adam]
            if paths:
                own = {path: groups[id(weight_of(chosen[path]))] for path in paths}
                self._update({path: chosen[path] for path in paths}, grads, own, adam)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            path: {"first": own.first.clone(), "second": own.second.clone(), "steps": own.steps}
            for path, own in self._memory.items()
        }

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from :meth:`state`."""
        self._memory = {path: _Memory(**own) for path, own in state.items()}

    def _take_gradients(
        self, layers: Mapping[str, TernaryLayer], world_size: int, scaler: Any
    ) -> dict[str, Tensor] | None:
        """Flat gradients by path, or None where the loss scale was too large, in which case no weight moves either."""
        own = {path: [*_method(layer).trained.values()] for path, layer in layers.items()}
        pieces = [_flat([p.new_zeros(p.shape) if p.grad is None else p.grad for p in ps]) for ps in own.values()]
        for parameters in own.values():
            for parameter in parameters:
                parameter.grad = None
        device = pieces[0].device
        sizes = [len(piece) for piece in pieces]
        flat = torch.cat([piece.to(device) for piece in pieces])
        if world_size > 1:
            torch.distributed.all_reduce(flat)
            flat = flat / world_size
        if scaler is not None:
            flat = flat / scaler.get_scale()
            if not flat.isfinite().all():
                return None
        limits = [_method(layer).gradient_limit for layer in layers.values()]
        if any(limit is not None for limit in limits):
            bound = _repeat([float("inf") if limit is None else limit for limit in limits], sizes, flat)
            flat = torch.minimum(torch.maximum(flat, -bound), bound)
        found = dict(zip(layers, flat.split(sizes), strict=True))
        for path, layer in layers.items():
            extra = _penalty_gradient(layer)
            if extra is not None:
                found[path] = found[path] + extra.to(device)
        return found

    @torch.no_grad()
    def _update(
        self,
        layers: Mapping[str, TernaryLayer],
        grads: Mapping[str, Tensor],
        groups: Mapping[str, Mapping[str, Any]],
        adam: bool,
    ) -> None:
        paths = list(layers)
        grad = torch.cat([grads[path] for path in paths])
        sizes = [len(grads[path]) for path in paths]
        memories = [self._memory.get(path) or _Memory(0 * grads[path], 0 * grads[path]) for path in paths]
        first = torch.cat([memory.first.to(grad.device) for memory in memories])
        second = torch.cat([memory.second.to(grad.device) for memory in memories])
        steps = [memory.steps + 1 for memory in memories]
        if adam:
            first = first + (1 - BETAS[0]) * (grad - first)
            second = BETAS[1] * second + (1 - BETAS[1]) * grad * grad
            up, down = (_repeat([1 - beta**step for step in steps], sizes, grad) for beta in BETAS)
            move = first / up / ((second / down).sqrt() + EPS)
        else:
            kinds = [_momentum(_method(layers[path]), groups[path]) for path in paths]
            momentum = _repeat([kind[0] for kind in kinds], sizes, grad)
            nesterov = _repeat([float(kind[1]) for kind in kinds], sizes, grad)
            first = momentum * first + grad
            move = torch.where(nesterov > 0, grad + momentum * first, first)
        rates = [float(groups[path].get("lr", 0.0)) * _method(layers[path]).rate for path in paths]
        move = _repeat(rates, sizes, grad) * move
        parts = zip(paths, first.split(sizes), second.split(sizes), steps, move.split(sizes), strict=True)
        for path, own_first, own_second, own_steps, own_move in parts:
            self._memory[path] = _Memory(own_first, own_second, own_steps)
            parameters = [*_method(layers[path]).trained.values()]
            for parameter, change in zip(parameters, own_move.split([p.numel() for p in parameters]), strict=True):
                parameter.sub_(change.reshape(parameter.shape).to(parameter.device))
            _method(layers[path]).project(*arguments(layers[path]))


def _method(layer: TernaryLayer) -> Quantizer:
    return layer._ternary_state.quantizer


def _momentum(method: Quantizer, group: Mapping[str, Any]) -> tuple[float, bool]:
    """Momentum of gradient descent, and whether it is Nesterov's."""
    if method.momentum is not None:
        return method.momentum, True
    return float(group.get("momentum", 0.0)), bool(group.get("nesterov", False))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors])


def _repeat(values: Sequence[float], sizes: Sequence[int], like: Tensor) -> Tensor:
    """One value for each of ``sizes`` elements, joined."""
    return torch.repeat_interleave(torch.tensor(values), torch.tensor(sizes)).to(like)


def _penalty_gradient(layer: TernaryLayer) -> Tensor | None:
    """Flat gradient of a method's penalty in its scalars."""
    method = _method(layer)
    with torch.enable_grad():
        penalty = method.penalty(*arguments(layer))
        if penalty is None:
            return None
        parameters = [*method.trained.values()]
        grads = torch.autograd.grad(penalty, parameters, allow_unused=True)
    return _flat([torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)])
