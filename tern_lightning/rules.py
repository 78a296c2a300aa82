"""Which layers become ternary, by ordered rules."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy

from tern_lightning.kinds import channel_axis, find_weight, kind_names, kind_of, weight_of
from tern_lightning.quantizers import get_quantizer


@dataclass(frozen=True)
class Rule:
    """What to do with the layers that it matches. Of several rules that match a layer, the first one counts.

    Attributes:
        name: Pattern for the layer's path in the model: a glob (``encoder.*``; ``*`` also crosses dots), or a regular
            expression for the whole path after ``re:``.
        method: Method by name, or None to leave the layer in float.
        type: Class name that the layer or one of its base classes must have, for example ``Conv2d``.
        options: Options of the method, for example ``{"per_channel": True}``.

    Raises:
        ValueError: The expression is not valid, the method or an option is unknown, or options come without a method.
    """

    name: str = "*"
    method: str | None = None
    type: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name.startswith("re:"):
            try:
                re.compile(self.name[3:])
            except re.error as error:
                raise ValueError(
                    f"name of a rule must be a valid expression after 're:', got {self.name!r}: {error}"
                ) from error
        if self.method is not None:
            get_quantizer(self.method, **self.options)
        elif self.options:
            raise ValueError(f"options of a rule need a method, got {self.options} with method None")

    def matches(self, path: str, module: nn.Module) -> bool:
        """Whether the rule applies to ``module`` at ``path``."""
        if self.type is not None and self.type not in (base.__name__ for base in type(module).__mro__):
            return False
        if self.name.startswith("re:"):
            return re.fullmatch(self.name[3:], path) is not None
        return fnmatch.fnmatchcase(path, self.name)


@dataclass(frozen=True)
class Decision:
    """What was decided about one layer.

    Attributes:
        path: Path in the model.
        module: The layer.
        method: Method by name, or None where the layer stays float.
        options: Options of the method.
        reason: Why.
    """

    path: str
    module: nn.Module
    method: str | None
    options: dict[str, Any]
    reason: str


def resolve(
    model: nn.Module, rules: Sequence[Rule], method: str, options: dict[str, Any] | None = None
) -> list[Decision]:
    """Decide about every convolution and linear layer of a model, in the order in which the model names them.

    The first rule that matches a layer counts. Layers without a rule get ``method``, except the first and the last of
    those that can be ternary, which stay float.

    Args:
        model: Any module.
        rules: Rules in order.
        method: Method of the layers without a rule.
        options: Options of that method.

    Raises:
        ValueError: A rule matches nothing, asks for something that cannot be done, or a weight has no shape yet.
    """
    layers = {path: module for path, module in _outside_metrics(model) if kind_of(module) is not None}
    obstacles = {path: _obstacle(path, module) for path, module in layers.items()}
    for rule in rules:
        _check(rule, model, layers, obstacles)
    usual = [path for path, module in layers.items() if obstacles[path] is None and weight_of(module).requires_grad]
    ends = {usual[0]: "first layer", usual[-1]: "last layer"} if usual else {}

    decisions = []
    for path, module in layers.items():
        found = next((rule for rule in rules if rule.matches(path, module)), None)
        obstacle = obstacles[path]
        if obstacle is not None:
            chosen: tuple[str | None, dict[str, Any], str] = (None, {}, obstacle)
        elif found is not None:
            chosen = (found.method, found.options, f"rule {found.name!r}")
        elif path in ends:
            chosen = (None, {}, ends[path])
        elif not weight_of(module).requires_grad:
            chosen = (None, {}, "not trained (requires_grad is False)")
        else:
            chosen = (method, options or {}, "default")
        decisions.append(Decision(path, module, *chosen))
    return _settle_ties(model, decisions)


def _outside_metrics(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All named modules that are not part of a metric, whose networks belong to nobody's training."""
    from torchmetrics import Metric

    named = list(model.named_modules())
    inside = tuple(f"{path}." for path, module in named if isinstance(module, Metric))
    return [(path, module) for path, module in named if not path.startswith(inside)]


def _obstacle(path: str, module: nn.Module) -> str | None:
    """Why a layer cannot be ternary, or None."""
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "nn.MultiheadAttention reads its weight without calling it"
    weight = find_weight(module)
    if weight is None:
        return "its weight is computed from other parameters (parametrisation or pruning)"
    if is_lazy(weight):
        kind = type(module).__name__
        raise ValueError(f"layer {path!r} ({kind}) has no shape yet: run one batch through the model before fit")
    if _is_unreal(module):
        return f"its weight is {weight.dtype}, ternary weights are real"
    if "forward" in module.__dict__:
        return "its forward is replaced on the instance"
    return None


def _is_unreal(module: nn.Module) -> bool:
    """Whether a layer's weight is integer or complex."""
    weight = find_weight(module)
    return weight is not None and not weight.is_floating_point()


def _check(rule: Rule, model: nn.Module, layers: dict[str, nn.Module], obstacles: dict[str, str | None]) -> None:
    """Raise where a rule matches nothing that it could apply to."""
    matched = [path for path, module in layers.items() if rule.matches(path, module)]
    if not matched:
        others = [(p, m) for p, m in model.named_modules() if p and not list(m.children()) and rule.matches(p, m)]
        if others and rule.name.strip("*"):
            path, module = others[0]
            kinds = ", ".join(kind_names())
            kind = type(module).__name__
            raise ValueError(f"rule {rule} matches {path!r} ({kind}), which cannot be ternary; {kinds} can")
        words = rule.name.removeprefix("re:").strip("*.^$"), rule.type or ""
        known = list(layers) + sorted({type(module).__name__ for module in layers.values()})
        near = [n for word in words if word for n in difflib.get_close_matches(word, known, n=3, cutoff=0.5)]
        hint = f"near misses: {near}" if near else f"the layers are {list(layers)[:20]}"
        raise ValueError(f"rule {rule} matches no layer; {hint}")
    if rule.method is None:
        return
    blocked = [path for path in matched if obstacles[path] is not None]
    unreal = [path for path in blocked if _is_unreal(layers[path])]
    if unreal or len(blocked) == len(matched):
        path = (unreal or blocked)[0]
        raise ValueError(f"rule {rule} asks for a ternary layer {path!r}, which cannot be: {obstacles[path]}")


def _settle_ties(model: nn.Module, decisions: list[Decision]) -> list[Decision]:
    """Leave a weight float that several modules share unless all of them use it in the same ternary form."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(path)
    by_path = {d.path: d for d in decisions}
    settled = []
    for decision in decisions:
        weight = find_weight(decision.module)
        forms = {}
        for path in owners.get(id(weight), []) if decision.method is not None else []:
            other = by_path.get(path)
            form = (other.method, other.options, channel_axis(other.module)) if other else None
            forms[path] = form if other and other.method is not None else None
        own = forms.get(decision.path)
        differing = next((path for path, form in forms.items() if form != own), None)
        if differing is not None:
            reason = f"shares its weight with {differing!r}, which is not ternary in the same way"
            if decision.reason.startswith("rule"):
                raise ValueError(f"layer {decision.path!r} cannot be ternary by {decision.reason}: it {reason}")
            decision = Decision(decision.path, decision.module, None, {}, reason)
        settled.append(decision)
    return settled
