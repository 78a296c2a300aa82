"""Which layers become ternary, by ordered rules."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from tern_lightning.nn.layer_types import channel_axis, find_bias, find_weight, kind_names, type_names
from tern_lightning.nn.recurrent_weights import RecurrentWeight, named_layers, weights_of
from tern_lightning.nn.survey import Survey, is_unreal, survey
from tern_lightning.quantizers import Quantizer, get_quantizer, quantizer_names
from tern_lightning.quantizers.base import option_names
from tvm_schedules.common.arguments import check_arguments


@check_arguments
@dataclass(frozen=True)
class Rule:
    """What to do with the layers that it matches. Of several rules that match a layer, the first one counts.

    Attributes:
        name: Pattern for the layer's path in the model: a glob (``encoder.*``; ``*`` also crosses dots), or a regular
            expression for the whole path after ``re:``. A mere ``*`` leaves out layers that are not trained and
            adapters of such.
        method: Method by name, or None to leave the layer in float.
        type: Class name that the layer or one of its base classes must have, for example ``Conv2d``.
        options: Options of the method, for example ``{"per_channel": True}``.
        keep_ends: Leave the first and the last of the layers that the rule counts for in float, as in a network of
            their own: ``[Rule("generator.*", "twn", keep_ends=True), Rule("critic.*", "twn", keep_ends=True)]``.
        optional: May match no layer, which is an error otherwise: for rules that go with several networks.

    Raises:
        TypeError: An argument is of another type.
        ValueError: The expression is not valid, the method or an option is unknown, or options come without a method.
    """

    name: str = "*"
    method: str | None = None
    type: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    keep_ends: bool = False
    optional: bool = False

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

    @property
    def label(self) -> str:
        """What it matches, for people."""
        name = f"rule '{self.name}'"
        return name if self.type is None else f"{name} of type {self.type}"

    def matches(self, path: str, module: nn.Module) -> bool:
        """Whether the rule applies to ``module`` at ``path``; one for a recurrent module does to its weights."""
        if self.type is not None and self.type not in type_names(module):
            return False
        paths = [path, path.rpartition(".")[0]] if isinstance(module, RecurrentWeight) else [path]
        if self.name.startswith("re:"):
            return any(re.fullmatch(self.name[3:], one) is not None for one in paths)
        return any(fnmatch.fnmatchcase(one, self.name) for one in paths)


@dataclass(frozen=True)
class Decision:
    """What was decided about one layer.

    Attributes:
        path: Path in the model.
        module: The layer itself.
        method: Method by name, or None where the layer stays float.
        options: Options of the method.
        reason: Why it was decided so, in words.
        base: Path of the frozen layer that the layer is an adapter of, or None.
    """

    path: str
    module: nn.Module
    method: str | None
    options: dict[str, Any]
    reason: str
    base: str | None = None


def rules_hint(name: str, value: Any) -> str | None:
    """How ``rules`` and ``options`` say what came in another form; for :func:`check_arguments`."""
    if name == "rules":
        given = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        made = [f"Rule({one!r})" if isinstance(one, str) else repr(one) for one in given[:2]]
        return f"rules=[{', '.join(made)}]" if all(isinstance(one, str | Rule) for one in given) else None
    if name == "options":
        return "options={'per_channel': True}, for example"
    known = any(name in option_names(method) for method in quantizer_names())
    return f"options of the method go into options={{{name!r}: {value!r}}}" if known else None


def check_bias(decision: Decision, method: Quantizer, shared: bool) -> None:
    """Raise where a method would add to a bias that is not there or cannot be kept."""
    layer = decision.module
    if not method.uses_bias:
        return
    grouped = getattr(layer, "transposed", False) and getattr(layer, "groups", 1) > 1
    bare = find_bias(layer) is None
    why = "shares its weight" if shared else "has no bias" if bare else "is transposed with groups" if grouped else None
    if why is not None:
        raise ValueError(
            f"method {decision.method!r} adds to the bias, and layer {decision.path!r} {why}; HINT: another method for "
            "it by a rule, or bias=True in the model (before batch normalization a bias has no effect)"
        )


def resolve(
    model: nn.Module,
    rules: Sequence[Rule],
    method: str,
    options: dict[str, Any] | None = None,
    optimizers: Sequence[Optimizer] = (),
) -> list[Decision]:
    """Decide about every layer with a weight, in the order in which the model names them.

    The first rule that matches a layer counts. Layers without a rule get ``method``, except those that are not trained,
    the adapters of frozen layers, and the first and the last layer of every network (see
    :func:`tern_lightning.nn.survey.network_ends`), which stay float. A rule for all layers (``*``) is none for layers
    that are not trained and for adapters; one that names them is.

    Args:
        model: The module whose layers are decided about.
        rules: Rules in order.
        method: Method of the layers without a rule.
        options: Options of that method.
        optimizers: Those of the run. Where they are given, a layer that none of them moves is not trained, whatever
            ``requires_grad`` says.

    Raises:
        ValueError: A rule matches nothing, asks for something that cannot be done, or a weight has no shape yet.
    """
    found = survey(model, optimizers)
    for rule in rules:
        _check(rule, model, found.layers, found.obstacles)
    by_rule = {path: _rule_for(path, found, rules) for path in found.layers}
    kept = _rule_ends(by_rule, found)

    decisions = []
    for path, module in found.layers.items():
        own, base = by_rule[path], found.adapters.get(path)
        if path in found.obstacles:
            chosen: tuple[str | None, dict[str, Any], str] = (None, {}, found.obstacles[path])
        elif path in kept:
            chosen = (None, {}, kept[path])
        elif own is not None:
            chosen = (own.method, own.options, own.label)
        elif path in found.idle:
            chosen = (None, {}, found.idle[path])
        elif base is not None:
            chosen = (None, {}, f"adapter of {base!r}, which is not trained")
        elif path in found.ends:
            chosen = (None, {}, found.ends[path])
        else:
            chosen = (method, options or {}, "default")
        decisions.append(Decision(path, module, *chosen, base))
    return _settle_ties(model, decisions)


def named_methods(decisions: Sequence[Decision]) -> dict[str, str]:
    """The methods of ternary layers by path, with their options, as text."""
    chosen = [one for one in decisions if one.method is not None]
    options = [", ".join(f"{key}={value!r}" for key, value in sorted(one.options.items())) for one in chosen]
    return {one.path: f"{one.method}({own})" for one, own in zip(chosen, options, strict=True)}


def adapted(decisions: Sequence[Decision]) -> str | None:
    """What to say where trained adapters stand beside frozen layers that stay float; None where there are none."""
    bases = {one.base: None for one in decisions if one.base is not None}
    if not bases or any(one.path in bases and one.method is not None for one in decisions):
        return None
    first = next(iter(bases))
    names = {base.rpartition(".")[2] for base in bases}
    pattern = f"*.{names.pop()}" if len(names) == 1 and "." in first else first
    return (
        f"{len(bases)} layers are not trained and have trained adapters beside them (such as {first!r}); both stay "
        f"float. HINT: rules=[Rule({pattern!r}, 'twn')] makes the frozen layers ternary, so that the adapters are "
        "trained to make up for it"
    )


def _rule_for(path: str, found: Survey, rules: Sequence[Rule]) -> Rule | None:
    """The first rule that matches a layer; one for all layers leaves out what is not trained itself."""
    special = path in found.idle or path in found.adapters
    return next((r for r in rules if r.matches(path, found.layers[path]) and (r.name.strip("*") or not special)), None)


def _rule_ends(by_rule: Mapping[str, Rule | None], found: Survey) -> dict[str, str]:
    """The first and the last layer of every rule that keeps them float, with the reason."""
    kept: dict[str, str] = {}
    for rule in dict.fromkeys(id(rule) for rule in by_rule.values() if rule is not None and rule.keep_ends):
        paths = [path for path, own in by_rule.items() if id(own) == rule and path not in found.obstacles]
        if paths:
            label = by_rule[paths[0]].label  # type: ignore[union-attr]  # a rule was found for it
            kept.update({paths[-1]: f"last layer of {label}", paths[0]: f"first layer of {label}"})
    return kept


def _check(rule: Rule, model: nn.Module, layers: dict[str, nn.Module], obstacles: Mapping[str, str]) -> None:
    """Raise where a rule matches nothing that it could apply to."""
    matched = [path for path, module in layers.items() if rule.matches(path, module)]
    if not matched and not rule.optional:
        others = [(p, m) for p, m in model.named_modules() if p and not list(m.children()) and rule.matches(p, m)]
        if others and rule.name.strip("*"):
            path, module = others[0]
            kinds, kind = ", ".join(kind_names()), type(module).__name__
            raise ValueError(
                f"rule {rule} matches {path!r} ({kind}), which cannot be ternary; "
                f"{kinds} can, and what register_layer adds"
            )
        words = rule.name.removeprefix("re:").strip("*.^$"), rule.type or ""
        known = list(layers) + sorted({type(module).__name__ for module in layers.values()})
        near = [n for word in words if word for n in difflib.get_close_matches(word, known, n=3, cutoff=0.5)]
        hint = f"near misses: {near}" if near else f"the layers are {list(layers)[:20]}"
        raise ValueError(f"rule {rule} matches no layer; {hint}")
    if rule.method is None:
        return
    blocked = [path for path in matched if path in obstacles]
    unreal = [path for path in blocked if is_unreal(layers[path])]
    if unreal or len(blocked) == len(matched):
        path = (unreal or blocked)[0]
        raise ValueError(f"rule {rule} asks for a ternary layer {path!r}, which cannot be: {obstacles[path]}")


def _settle_ties(model: nn.Module, decisions: list[Decision]) -> list[Decision]:
    """Leave a weight float that several modules share unless all of them use it in the same ternary form."""
    owners: dict[int, list[str]] = {}
    for path, module in named_layers(model):
        for name, parameter in module._parameters.items():
            if parameter is not None and name not in weights_of(module):
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
                raise ValueError(
                    f"layer {decision.path!r} cannot be ternary by {decision.reason}: it {reason}. HINT: a rule for "
                    f"both, or Rule({decision.path!r}) before it, which leaves this one float"
                )
            decision = Decision(decision.path, decision.module, None, {}, reason, decision.base)
        settled.append(decision)
    return settled
