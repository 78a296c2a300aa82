"""What a run trains: which layers its optimizers move, where its networks begin and end, and what stays float."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from tern_lightning.nn.layer_types import channel_axis, find_weight, kind_of, weight_name, weight_of
from tern_lightning.nn.recurrent_weights import named_layers

HALVES = ("encoder", "decoder")
"""Names of two modules side by side that are a network each."""
MOST_NAMED = 8
"""Groups of float parameters that are named one by one."""


@dataclass(frozen=True)
class Survey:
    """What there is in a model to be ternary, by layer path.

    Attributes:
        layers: Every layer of a known type, in the model's order.
        obstacles: Why a layer cannot be ternary.
        idle: Why a layer that can be is not trained.
        adapters: Trained layers beside a frozen one that they adapt, and the path of that one.
        ends: The first and the last layer of every network.
    """

    layers: dict[str, nn.Module]
    obstacles: dict[str, str]
    idle: dict[str, str]
    adapters: dict[str, str]
    ends: dict[str, str]

    def usual(self) -> list[str]:
        """The layers that are trained, can be ternary and are neither adapters nor ends."""
        special = (self.obstacles, self.idle, self.adapters, self.ends)
        return [path for path in self.layers if not any(path in group for group in special)]


def survey(model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> Survey:
    """Look at every layer of a model.

    Args:
        model: The module whose layers are surveyed.
        optimizers: Those of the run; without any, ``requires_grad`` says what is trained.

    Raises:
        ValueError: A weight has no shape yet.
    """
    layers = {path: module for path, module in outside_metrics(model) if kind_of(module) is not None}
    reasons = {path: _obstacle(path, module, layers) for path, module in layers.items()}
    obstacles = {path: reason for path, reason in reasons.items() if reason is not None}
    weights = {path: weight_of(module) for path, module in layers.items() if path not in obstacles}
    moved = moved_by(model, optimizers)
    states = {path: not_trained(weight, moved) for path, weight in weights.items()}
    idle = {path: reason for path, reason in states.items() if reason is not None}
    trained = {path: weight for path, weight in weights.items() if path not in idle}
    extra = adapters(layers, trained)
    ends = network_ends({path: weight for path, weight in trained.items() if path not in extra}, moved)
    return Survey(layers, obstacles, idle, extra, ends)


def borrower(path: str, layers: Mapping[str, nn.Module]) -> nn.Module | None:
    """The layer that reads the weight of its child at ``path`` without calling it, as nn.MultiheadAttention does."""
    parent, _, name = path.rpartition(".")
    kind = kind_of(layers[parent]) if parent in layers else None
    return layers[parent] if kind is not None and name in kind.borrowed else None


def _obstacle(path: str, module: nn.Module, layers: Mapping[str, nn.Module]) -> str | None:
    """Why a layer cannot be ternary, or None."""
    if isinstance(module, NonDynamicallyQuantizableLinear) and borrower(path, layers) is None:
        return "its weight is read without calling it"
    weight, name = find_weight(module), weight_name(module)
    if weight is None:
        if name in module._parameters:
            return f"its {name} is None"
        return "its weight is computed from other parameters (parametrization or pruning)"
    if is_lazy(weight):
        kind = type(module).__name__
        raise ValueError(f"layer {path!r} ({kind}) has no shape yet: run one batch through the model before fit")
    if is_unreal(module):
        return f"its weight is {weight.dtype}, ternary weights are real"
    if "forward" in module.__dict__:
        return "its forward is replaced on the instance"
    return None


def is_unreal(module: nn.Module) -> bool:
    """Whether a layer's weight is integer or complex."""
    weight = find_weight(module)
    return weight is not None and not weight.is_floating_point()


def outside_metrics(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All named modules that are not part of a metric, whose networks belong to nobody's training."""
    named = list(named_layers(model))
    loaded = sys.modules.get("torchmetrics")  # where it is not, no module is a metric
    inside = tuple(f"{path}." for path, module in named if loaded is not None and isinstance(module, loaded.Metric))
    return [(path, module) for path, module in named if not path.startswith(inside)]


def moved_by(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[frozenset[int]]:
    """The identities of the parameters that each optimizer moves.

    Empty where there is no optimizer or none of them has a parameter of the model, as with strategies that give
    optimizers tensors of their own: then nothing is known.
    """
    found = [frozenset(id(p) for group in one.param_groups for p in group["params"]) for one in optimizers]
    own = {id(parameter) for parameter in model.parameters()}
    return found if any(own & one for one in found) else []


def not_trained(weight: nn.Parameter, moved: Sequence[Collection[int]]) -> str | None:
    """Why a weight is not trained, or None."""
    if not weight.requires_grad:
        return "not trained (requires_grad is False)"
    if moved and not any(id(weight) in one for one in moved):
        return "not trained (no optimizer of the run has it)"
    return None


def network_ends(trained: Mapping[str, nn.Parameter], moved: Sequence[Collection[int]]) -> dict[str, str]:
    """The first and the last layer of every network, with the reason by path.

    Usually there is one network. Where every optimizer has modules of its own, as those of a generator and a
    discriminator, each of these modules is a network. An ``encoder`` and a ``decoder`` side by side have ends where
    they meet, too, if these are no larger than their other layers are on average: a narrow place, which costs little.

    Args:
        trained: Weights that are trained and can be ternary, by the path of their layer, in the model's order.
        moved: See :func:`moved_by`.
    """
    paths = list(trained)
    ends: dict[str, str] = {}
    for name, group in (_by_optimizer(trained, moved) or {"": paths}).items():
        _mark(ends, group, f" of {name!r}" if name else "")
    for half in _halves(paths):
        mean = sum(trained[path].numel() for path in half) / len(half)
        small = [path if trained[path].numel() <= mean else None for path in (half[0], half[-1])]
        _mark(ends, small, f" of {_common_half(half)!r}")
    return ends


def _mark(ends: dict[str, str], group: Sequence[str | None], where: str) -> None:
    for name, path in (("last", group[-1]), ("first", group[0])) if group else ():
        if path is not None:
            ends.setdefault(path, f"{name} layer{where}")


def _by_optimizer(trained: Mapping[str, nn.Parameter], moved: Sequence[Collection[int]]) -> dict[str, list[str]]:
    """The layers of every module below the common one, if each has one optimizer and they have several, else none."""
    common = _common(list(trained))
    start = len(common) + 1 if common else 0
    groups: dict[str, list[str]] = {}
    movers: dict[str, set[int]] = {}
    for path, weight in trained.items():
        head, dot, _ = path[start:].partition(".")
        if not dot:
            return {}  # a layer that is in no module of its own
        groups.setdefault(path[:start] + head, []).append(path)
        owners = {index for index, one in enumerate(moved) if id(weight) in one}
        movers.setdefault(path[:start] + head, set()).update(owners)
    several = len(set().union(*movers.values())) > 1 if movers else False
    return groups if several and all(len(owners) == 1 for owners in movers.values()) else {}


def _common(paths: Sequence[str]) -> str:
    """The module that all layers are in."""
    shared: list[str] = []
    for parts in zip(*(path.split(".")[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _halves(paths: Sequence[str]) -> Iterator[list[str]]:
    """The layers of an encoder and of the decoder beside it, the outermost of such pairs."""
    taken: set[str] = set()
    for path in paths:
        parts = path.split(".")
        for depth, name in enumerate(parts[:-1]):
            parent = "".join(f"{part}." for part in parts[:depth])
            if name not in HALVES or path.startswith(tuple(taken)):
                continue
            sides = [[p for p in paths if p.startswith(f"{parent}{half}.")] for half in HALVES]
            if all(sides):
                taken.update(f"{parent}{half}." for half in HALVES)
                yield from sides
                break


def _common_half(paths: Sequence[str]) -> str:
    parts = paths[0].split(".")
    return ".".join(parts[: next(i for i, part in enumerate(parts) if part in HALVES) + 1])


def adapters(layers: Mapping[str, nn.Module], trained: Collection[str]) -> dict[str, str]:
    """Trained layers that add a product of low rank to a frozen layer beside them (LoRA), by the frozen layer's path.

    Two trained layers of which one reads what the frozen layer reads, the other writes what it writes, and what is
    between them is smaller than both, in the module that holds the frozen layer or in its children.

    Args:
        layers: Layers by path.
        trained: Paths of those that are trained.
    """
    sizes = {path: _sizes(layer) for path, layer in layers.items()}
    found: dict[str, str] = {}
    for path in layers:
        size = sizes[path]
        if path in trained or size is None:
            continue
        parent = "".join(f"{part}." for part in path.split(".")[:-1])
        near = [p for p in trained if p.startswith(parent) and p[len(parent) :].count(".") <= 1]
        for down in near:
            for up in near:
                first, second = sizes[down], sizes[up]
                if first is None or second is None or (first[0], second[1]) != size:
                    continue
                if first[1] == second[0] < min(size):
                    found[down] = found[up] = path
    return found


def _sizes(layer: nn.Module) -> tuple[int, int] | None:
    """Input and output channels of a layer's weight."""
    weight = find_weight(layer)
    if weight is None or weight.ndim < 2:
        return None
    axis = channel_axis(layer)
    return int(weight.shape[1 - axis]), int(weight.shape[axis])


@dataclass(frozen=True)
class FloatGroup:
    """Parameters that no ternary method knows, of all modules of a type.

    Attributes:
        type: Class name of the modules.
        names: Names of the parameters in them.
        count: Number of values.
    """

    type: str
    names: tuple[str, ...]
    count: int

    def __str__(self) -> str:
        more = ", ..." if len(self.names) > 2 else ""
        return f"{', '.join(self.names[:2])}{more} ({self.type}) {short(self.count)}"


def other_parameters(model: nn.Module, weights: Iterable[nn.Parameter]) -> list[FloatGroup]:
    """Parameters of two and more axes that are not among ``weights``, by the type of their module, the largest first.

    These are above all embeddings, and parameters that modules multiply by themselves. Vectors
    (biases, scales of normalization) are not among them.
    """
    known = {id(weight) for weight in weights}
    found: dict[str, dict[str, int]] = {}
    for _, module in outside_metrics(model):
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.ndim > 1 and id(parameter) not in known:
                known.add(id(parameter))
                names = found.setdefault(type(module).__name__, {})
                names[name] = names.get(name, 0) + parameter.numel()
    groups = [FloatGroup(kind, tuple(names), sum(names.values())) for kind, names in found.items()]
    return sorted(groups, key=lambda group: -group.count)


def describe_others(groups: Sequence[FloatGroup]) -> str | None:
    """One line for what stays float besides the layers, or None where there is nothing."""
    if not groups:
        return None
    rest = groups[MOST_NAMED:]
    more = f", and {len(rest)} more kinds {short(sum(group.count for group in rest))}" if rest else ""
    return "also float: " + ", ".join(map(str, groups[:MOST_NAMED])) + more


def short(count: int) -> str:
    """A number of parameters as it is read: ``1.2 M``.

    Example:
        >>> short(120), short(4096), short(1_180_000)
        ('120', '4.1 k', '1.2 M')
    """
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return str(count)
