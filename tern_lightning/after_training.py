"""Ternary weights for a network that was trained in float, from a few batches of data and without training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tern_lightning.functional.output_fit import fit_outputs, matched
from tern_lightning.nn.batch_norm import fresh_statistics
from tern_lightning.nn.copies import independent_copy
from tern_lightning.nn.layer_types import channel_axis, kind_of, weight_of
from tern_lightning.nn.recurrent_weights import layer_at
from tern_lightning.quantizers import get_quantizer
from tern_lightning.rules import Decision, Rule, resolve, rules_hint
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.console import reporter
from tvm_schedules.common.near import check_share

log = logging.getLogger(__name__)

RIDGE = 0.01
"""How strongly the weight that is fitted is held to the float one, as a share of the mean squared input."""
POSITIONS = 32768
"""At most so many rows of a layer's inputs (tokens, pixels) are looked at, drawn evenly from all batches."""


@dataclass(frozen=True)
class PostTrained:
    """What became of one layer.

    Attributes:
        path: Its path in the module.
        ternary: Its weight.
        rounded: Error of its outputs over the data after plain rounding by the method, relative to their size in the
            float network.
        error: The same with the weight that it got.
    """

    path: str
    ternary: TernaryTensor
    rounded: float
    error: float


@torch.no_grad()
@check_arguments(hint=rules_hint)
def post_training(
    module: nn.Module,
    data: Any,
    method: str = "twn",
    rules: Sequence[Rule] | None = None,
    options: dict[str, Any] | None = None,
    zeros: float | None = None,
    fit: bool = True,
    batch_norm: bool = True,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, PostTrained]:
    """Make layers of a trained float network ternary without training, in place, from a few batches of data.

    Layer by layer in the order in which they run: the layer's inputs are gathered with all layers before it ternary
    already, and beside them those of the float network. Codes and levels are chosen so that the layer gives from the
    former what it gave from the latter: errors make up for each other, also for those of the layers before
    (:func:`tern_lightning.functional.output_fit.fit_outputs`). Then the running statistics of batch normalization are
    estimated anew. No labels are used. Accuracy falls more than in ternary training, most at many zeros: measure it.

    Weights become exactly ternary by value, in plain layers; :func:`tern_lightning.export` finds them, and where a
    method has several terms it takes them by ``ternary={path: one.ternary for path, one in result.items()}``.

    Args:
        module: The trained network; its training mode is given back in the end.
        data: Batches: a DataLoader or any iterable that can be gone through again, or one array or tensor whose first
            axis runs over samples, of which a few hundred are usual. Of a batch that is a tuple or a list the first
            entry is the input.
        method: Method whose codes and levels are the start, for the layers that no rule matches.
        rules: Which layers get another method or stay float; without one the first and the last do.
        options: Options of ``method``.
        zeros: Share of zeros that every layer gets at least, in [0, 1), the smallest weights of each output for their
            influence; None leaves it to the method.
        fit: Choose codes and levels on data; False rounds as the method does and only fits batch normalization.
        batch_norm: Estimate running statistics anew.
        forward: Runs the module on a batch, for modules of several inputs; None calls it with the input.
        progress: Called with a line for every layer, and with one that says which stay float. Default: the lines go to
            the logger ``tern_lightning.after_training`` at level INFO, or to standard error where that is a terminal.

    Returns:
        One entry for every ternary layer, in the order in which they run.

    Raises:
        TypeError: ``rules`` or ``options`` are of a wrong type.
        ValueError: The method, an option or a rule is wrong, ``zeros`` is out of range, or there is no data.

    Example:
        >>> torch.manual_seed(0).initial_seed()
        0
        >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        >>> (layer,) = post_training(net, torch.randn(256, 8), zeros=0.5).values()
        >>> layer.path, layer.error < layer.rounded, len(net[2].weight[0].unique())
        ('2', True, 3)
    """
    say = progress or reporter(log)
    decisions = _decide(module, method, rules, options, zeros, say)
    run = forward or (lambda network, batch: network(_first(batch)))
    batches = _batches(data)
    states = {each: each.training for each in module.modules()}
    module.eval()
    before = independent_copy(module) if fit else module
    done: dict[str, PostTrained] = {}
    try:
        for one, called in _in_order(module, decisions, batches, run):
            networks = {module: one.module, before: layer_at(before, one.path)} if called else {}
            inputs, wanted = _inputs(networks, batches, run, batch_norm)
            found = _layer(one, inputs, wanted, zeros, fit)
            weight_of(one.module).data.copy_(found.ternary.dequantize())
            done[one.path] = found
            of = "outputs" if called else "weight"
            say(f"{one.path}: error of the {of} {found.error:.3f}, with plain rounding {found.rounded:.3f}")
        if batch_norm:
            with fresh_statistics(module):
                for batch in batches:
                    run(module, batch)
    finally:
        for each, training in states.items():
            each.training = training
    return done


def _decide(
    module: nn.Module,
    method: str,
    rules: Sequence[Rule] | None,
    options: dict[str, Any] | None,
    zeros: float | None,
    say: Callable[[str], None],
) -> list[Decision]:
    """The layers that become ternary, after a look at all arguments."""
    if zeros is not None:
        check_share("zeros", zeros, "[0, 1)")
    found = resolve(module, tuple(rules or ()), method, options)
    decisions = [one for one in found if one.method]
    for one in decisions:
        get_quantizer(one.method or "", **one.options)
    if left := [f"{one.path} ({one.reason})" for one in found if not one.method]:
        say(f"not ternary: {', '.join(left)}")
    return decisions


def _first(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


def _batches(data: Any, size: int = 64) -> Iterable[Any]:
    """Something that can be gone through several times."""
    if hasattr(data, "__array__") or isinstance(data, Tensor):
        return list(torch.as_tensor(data).split(size))
    if iter(data) is data:
        raise ValueError("data must be batches that can be gone through again, such as a list, got an iterator")
    return data


def _in_order(
    module: nn.Module, decisions: Sequence[Decision], batches: Iterable[Any], run: Callable[[nn.Module, Any], Any]
) -> list[tuple[Decision, bool]]:
    """The layers in the order in which they first run, and whether they are called: others are read by their owner."""
    order: list[int] = []
    hooks = [
        one.module.register_forward_pre_hook(lambda layer, inputs, own=index: order.append(own))
        for index, one in enumerate(decisions)
    ]
    try:
        batch = next(iter(batches), None)
        if batch is None:
            raise ValueError("data must have at least one batch, got none")
        run(module, batch)
    finally:
        for hook in hooks:
            hook.remove()
    called = dict.fromkeys(order)
    return [
        (decisions[index], index in called)
        for index in (*called, *(i for i in range(len(decisions)) if i not in called))
    ]


class _Enough(Exception):  # noqa: N818 - it is no error
    """The layer has its inputs, and what is behind it need not run."""


def _inputs(
    networks: dict[nn.Module, nn.Module], batches: Iterable[Any], run: Callable[[nn.Module, Any], Any], batch_norm: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """What a layer gets, batch by batch: in the first network, and in the last one on the same batches.

    Args:
        networks: One or two networks with the layer in each; with none there are no inputs.
        batches: The data, which may come in another order every time.
        run: Runs a network on a batch.
        batch_norm: Whether the first network normalizes by these batches.
    """
    if not networks:
        return [], []
    found: dict[nn.Module, list[Tensor]] = {network: [] for network in networks}

    def hook(own: list[Tensor], _: nn.Module, arguments: tuple[Any, ...]) -> None:
        own.append(arguments[0].detach().float())
        raise _Enough

    first, *_, last = [*networks, *networks]
    handles = [layer.register_forward_pre_hook(partial(hook, found[one])) for one, layer in networks.items()]
    try:
        with fresh_statistics(first) if batch_norm else nullcontext():
            for batch in batches:
                for network in networks:
                    with suppress(_Enough):
                        run(network, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[first], found[last]


def _layer(
    one: Decision, inputs: Sequence[Tensor], wanted: Sequence[Tensor], zeros: float | None, fit: bool
) -> PostTrained:
    """The ternary weight of one layer, which makes of its ``inputs`` what the float one makes of those ``wanted``."""
    assert one.method is not None
    axis, weight = channel_axis(one.module), weight_of(one.module).detach().float()
    grams = _products(one.module, weight, inputs, inputs)
    pruned = _rounded(one, weight, axis, zeros, grams)
    start = _rounded(one, weight, axis, None, grams) if fit else pruned  # fitting prunes better
    rows, plain = (each.movedim(axis, 0).flatten(1).double() for each in (weight, pruned.dequantize()))
    codes = start.codes.movedim(axis + 1, 1).flatten(2)
    levels = torch.ones(codes.shape[:2])
    per = len(rows) // len(grams)
    size = rounded = error = 0.0
    others = zip(
        _products(one.module, weight, inputs, wanted), _products(one.module, weight, wanted, wanted), strict=True
    )
    for group, (gram, (cross, own)) in enumerate(zip(grams, others, strict=True)):
        part = slice(group * per, (group + 1) * per)
        size += _energy(rows[part], own)
        if fit:
            target = matched(rows[part], gram, cross, RIDGE)
            codes[:, part], levels[:, part] = fit_outputs(target, gram, codes[:, part], zeros)
            values = (levels[:, part, None].double() * codes[:, part]).sum(0)
            error += _distance(rows[part], values, gram, cross, own)
        rounded += _distance(rows[part], plain[part], gram, cross, own)
    found = start
    if fit:
        shape = (len(codes), *weight.movedim(axis, 0).shape)
        found = TernaryTensor(codes.reshape(shape).movedim(1, axis + 1).contiguous(), levels, levels, axis)
    size = max(size, 1e-30)
    return PostTrained(one.path, found, (rounded / size) ** 0.5, ((error if fit else rounded) / size) ** 0.5)


def _energy(rows: Tensor, gram: Tensor) -> float:
    """The squared outputs of all rows over the data."""
    return ((rows @ gram) * rows).sum().item()


def _distance(rows: Tensor, values: Tensor, gram: Tensor, cross: Tensor, own: Tensor) -> float:
    """The squared difference between ``values`` on the inputs and ``rows`` on those that are wanted."""
    mixed = ((values @ cross) * rows).sum().item()
    return max(_energy(values, gram) - 2 * mixed + _energy(rows, own), 0.0)


def _rounded(one: Decision, weight: Tensor, axis: int, zeros: float | None, grams: Sequence[Tensor]) -> TernaryTensor:
    """The weight as its method rounds it, without those that matter least for each output where zeros are asked for."""
    quantizer = get_quantizer(one.method or "", **one.options)
    if zeros is None:
        return quantizer.ternary(weight, axis)
    rows = weight.movedim(axis, 0)
    per = len(rows) // len(grams)
    influence = rows.flatten(1).abs() * torch.cat([gram.diagonal().sqrt().float().expand(per, -1) for gram in grams])
    most = int(influence.shape[1] * (1 - zeros) + 1e-6)
    kept = torch.zeros_like(influence, dtype=torch.bool).scatter_(1, influence.topk(most).indices, True)
    mask = kept.reshape(rows.shape).movedim(0, axis)
    found = quantizer.ternary(weight, axis, mask=mask)
    return TernaryTensor(found.codes * mask, found.positive, found.negative, axis)


def _products(layer: nn.Module, weight: Tensor, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """Products of what each group of a layer's outputs multiplies on two sets of inputs, float64 ``[inputs, inputs]``.

    Layers whose inputs are not known in the order of the weight (transposed and 3-D convolutions, recurrent layers,
    what another module reads without a call) get the identity: errors in the weight count alike.
    """
    columns = weight.numel() // weight.shape[channel_axis(layer)]
    kind = kind_of(layer)
    groups, rows = 1, _flat
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        groups, rows = layer.groups, partial(_patches, layer)
    elif kind is None or not kind.one_input or weight.ndim != 2 or isinstance(layer, nn.Conv3d):
        return [torch.eye(columns, dtype=torch.float64)]
    if not first:
        return [torch.eye(columns, dtype=torch.float64)]
    share = max(1, POSITIONS // len(first))
    total = torch.zeros(groups, columns, columns, dtype=torch.float64)
    for one, other in zip(first, second, strict=True):
        left = rows(one)
        step = max(1, left.shape[1] // share)
        right = left if other is one else rows(other)
        total += (left[:, ::step].mT @ right[:, ::step]).double()
    return list(total)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(1, -1, x.shape[-1])


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """What a convolution multiplies its weight by: ``[groups, positions, channels in a group * taps]``."""
    flat = isinstance(layer, nn.Conv1d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    sizes = [tuple(value) for value in (layer.kernel_size, layer.dilation, layer.stride)]
    if flat:
        x, sizes = x[:, :, None], [(1, *size) for size in sizes]
    kernel, dilation, stride = sizes
    found = F.unfold(x, kernel, dilation=dilation, stride=stride)
    taps = found.shape[1] // layer.groups
    return found.reshape(len(x), layer.groups, taps, -1).permute(1, 0, 3, 2).reshape(layer.groups, -1, taps)
