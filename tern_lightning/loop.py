"""Ternary training in a loop of one's own, with Fabric or with torch alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tern_lightning.nn import ternary_layers as layers
from tern_lightning.nn.activation_quantizer import ActivationRange, InputFakeQuantizer, LayerRange
from tern_lightning.nn.copies import independent_copy
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.layer_types import channel_axis, weight_of
from tern_lightning.nn.learned_input import write_learned_inputs
from tern_lightning.nn.recurrent_weights import PARTS, named_layers
from tern_lightning.nn.scalar_trainer import ScalarTrainer, begin
from tern_lightning.nn.swap import make_plain, swap_all
from tern_lightning.nn.ternary_layers import TernaryLayer, swapped_layers
from tern_lightning.nn.token_quantizer import TokenFakeQuantizer
from tern_lightning.nn.weight_mask import MASK_ATTRIBUTE, apply_mask
from tern_lightning.quantizers import get_quantizer
from tern_lightning.rules import Decision, Rule, check_bias, resolve, rules_hint
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import check_share

M = TypeVar("M", bound=nn.Module)


@check_arguments(hint=rules_hint)
def ternarize(
    module: nn.Module,
    method: str = "twn",
    rules: Sequence[Rule] | None = None,
    options: dict[str, Any] | None = None,
    optimizer: Optimizer | Sequence[Optimizer] = (),
) -> list[Decision]:
    """Make layers of a module ternary, in place and at once.

    Parameters keep their names and shapes and hold the float latent weights, which an optimizer moves; forward uses
    their ternary values, and ``state_dict`` gives those. What TernaryCallback does besides is up to the loop: when
    codes are frozen (:func:`freeze`) and, for methods that follow a schedule, how far it is (:func:`set_progress`).

    Args:
        module: Any module, on the device where it will be trained.
        method: Method of the layers that no rule matches; see :func:`tern_lightning.quantizers.quantizer_names`.
        rules: Which layers get another method or stay float; the first rule that matches counts.
        options: Options of ``method``.
        optimizer: The optimizer, or all of them. Layers that none moves stay float, and modules of which each has an
            optimizer of its own (a generator and its critic) keep their first and last layer float. Methods that train
            levels need it: these are moved right before its steps.

    Returns:
        What was decided about every layer, and why.

    Raises:
        TypeError: ``rules`` or ``options`` are of a wrong type.
        ValueError: The method, an option or a rule is wrong; the method trains levels and there is no optimizer; or it
            needs two passes over every batch, which only TernaryCallback makes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), 0.1)
        >>> [(one.path, one.method or one.reason) for one in ternarize(net, "absmean", optimizer=optimizer)]
        [('0', 'first layer'), ('2', 'absmean'), ('4', 'last layer')]
        >>> for step in range(20):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(16, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> len(net.state_dict()["2.weight"].unique())
        3
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    decisions = resolve(module, tuple(rules or ()), method, options, optimizers)
    by_weight: dict[int, LayerState] = {}
    states: dict[str, LayerState] = {}
    for one in decisions:
        if one.method is None:
            continue
        quantizer = get_quantizer(one.method, **one.options)
        if quantizer.two_pass:
            raise ValueError(f"method {one.method!r} with two_pass=True needs TernaryCallback; HINT: two_pass=False")
        key = id(weight_of(one.module))
        check_bias(one, quantizer, shared=key in by_weight)
        states[one.path] = by_weight.setdefault(key, LayerState(quantizer, channel_axis(one.module), "ternary"))
    trained = swap_all(module, states)
    begin(trained)
    learning = {path: one for path, one in trained.items() if len(one._ternary_state.quantizer.trained)}
    if learning:
        _train_levels(learning, optimizers)
    return decisions


def _train_levels(learning: dict[str, TernaryLayer], optimizers: Sequence[Optimizer]) -> None:
    """Let the levels of methods that train them be moved before every step of the weights' optimizers."""
    if not optimizers:
        path = next(iter(learning))
        kind = type(learning[path]._ternary_state.quantizer).__name__
        raise ValueError(f"the method of layer {path!r} ({kind}) trains levels besides the weight: give the optimizer")
    scalars = ScalarTrainer()

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        spread = torch.distributed.is_available() and torch.distributed.is_initialized()
        # Layers that have become ternary anew since then belong to another call.
        mine = {path: one for path, one in learning.items() if one.__dict__.get("_ternary_state") is own[path]}
        scalars.step(optimizer, mine, torch.distributed.get_world_size() if spread else 1)

    own = {path: one._ternary_state for path, one in learning.items()}
    for optimizer in optimizers:
        optimizer.register_step_pre_hook(before)


@check_arguments
def freeze(module: nn.Module) -> None:
    """Fix the codes of all ternary layers of a module; their levels go on training as the mean of the latent weights.

    Raises:
        ValueError: The module has no ternary layer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> decisions = ternarize(net)
        >>> freeze(net)
        >>> before = net[1].ternary().codes
        >>> torch.nn.init.normal_(net[1].weight).shape
        torch.Size([8, 8])
        >>> torch.equal(net[1].ternary().codes, before)
        True
    """
    found = layers.ternary_layers(module)
    if not found:
        raise ValueError(f"{type(module).__name__} has no ternary layer; HINT: ternarize(module) first")
    done: set[int] = set()
    for layer in found.values():
        if id(layer._ternary_state) not in done and layer._ternary_state.phase != "frozen":
            done.add(id(layer._ternary_state))
            layers.freeze(layer)


@check_arguments
def set_progress(module: nn.Module, share: float) -> None:
    """Tell methods that follow a schedule, such as ``hestia``, how much of the ternary training is over.

    Args:
        module: A module with ternary layers.
        share: Share of the ternary training that is over, in [0, 1].

    Raises:
        ValueError: ``share`` is out of range.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> decisions = ternarize(net, "hestia")
        >>> for epoch in range(10):
        ...     set_progress(net, epoch / 10)  # and train for an epoch
        >>> net[1]._ternary_state.quantizer.progress
        tensor(0.9000)
    """
    check_share("share", share)
    for _, layer in swapped_layers(module):
        layer._ternary_state.quantizer.progress.fill_(share)


@check_arguments
def to_plain(module: M, activations: bool = True) -> M:
    """A copy of a module in plain classes, with the ternary weights in their parameters.

    It computes what the module computes in evaluation, and is what other tools want: ``torch.jit.trace``,
    ``torch.export``, ``pickle``, exporters of other packages. Training goes on with the module, not with the copy.

    Args:
        module: Trained with TernaryCallback or :func:`ternarize`, or any other, of which it is a copy.
        activations: Keep the rounding of layer inputs that callbacks have put in, by ordinary operators in hooks of
            this package; otherwise the copy has float activations.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
        >>> decisions = ternarize(net)
        >>> plain = to_plain(net)
        >>> type(plain[1]).__name__, len(plain[1].weight.unique())
        ('Linear', 3)
        >>> x = torch.randn(5, 4)
        >>> torch.equal(torch.jit.trace(plain, x)(x), net(x))
        True
    """
    twin = independent_copy(module)
    make_plain(twin)
    if activations:
        write_learned_inputs(twin)
    for _, layer in list(named_layers(twin)):
        if hasattr(type(layer), "_jit_is_scripting"):
            # torch.jit asks for every property; LightningModule's raises where there is no Trainer, but for this.
            layer.__dict__["_jit_is_scripting"] = True
        apply_mask(layer)
        layer.__dict__.pop(MASK_ATTRIBUTE, None)
        layer.__dict__.pop(PARTS, None)
        hooks = layer._forward_pre_hooks
        for key, hook in list(hooks.items()):
            if isinstance(hook, InputFakeQuantizer | TokenFakeQuantizer):
                if activations and hook.ready:
                    hooks[key] = _Round(hook.range())
                else:
                    del hooks[key]
            elif not activations and type(hook).__module__.startswith("tern_lightning."):
                del hooks[key]
    return twin


class _Round:
    """Forward pre-hook that rounds the first input of a layer by ordinary operators."""

    def __init__(self, grid: LayerRange) -> None:
        self.grid = grid

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        grid, x = self.grid, inputs[0]
        if not isinstance(grid, ActivationRange):
            return grid.fake_quantize(x), *inputs[1:]
        codes = torch.clamp(torch.round(x.float() / grid.scale) + grid.zero_point, 0, grid.levels)
        return ((codes - grid.zero_point) * grid.scale).to(x.dtype), *inputs[1:]
