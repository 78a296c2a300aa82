"""Layers that compute with the ternary form of their weight.

A layer becomes ternary by exchanging its class for a subclass. The parameter keeps its name and holds the float latent
weight, and no parameter or buffer is added, so that optimizers, averaged copies and checkpoints see the float model.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeGuard, cast

import torch
from torch import Tensor, nn

from tern_lightning.functional.frozen import FrozenCodes
from tern_lightning.functional.gradient import straight_through
from tern_lightning.functional.multilevel import limit_codes, limit_terms
from tern_lightning.nn.layer_types import LayerKind, find_bias, kind_of, kind_of_type, weight_of
from tern_lightning.nn.tracing import as_constant
from tern_lightning.nn.weight_mask import NAME as MASK
from tern_lightning.nn.weight_mask import WeightMask, mask_of, share_mask, weight_mask
from tern_lightning.products import scaled
from tern_lightning.quantizers import Quantizer
from tern_lightning.ternary_tensor import TernaryTensor

Phase = Literal["float", "ternary", "frozen"]
PHASES: tuple[Phase, ...] = ("float", "ternary", "frozen")


@dataclass
class LayerState:
    """What a ternary layer is doing; tied layers and averaged copies of a layer share one.

    Attributes:
        quantizer: The method.
        channel_axis: Axis of the output channels in the weight.
        phase: ``float`` computes with the latent weight, ``ternary`` with its ternary form, ``frozen`` with
            fixed codes.
        codes: The fixed int8 codes in phase ``frozen``: of the weight's shape, or ``[terms, *weight.shape]`` where the
            method has several terms.
        mask: Which weights are pruned, set by :func:`swap`. They are zero in every phase, and thresholds and levels are
            those of the others.
        running: Whether a run trains the layer, so that whatever is loaded must become ternary.
    """

    quantizer: Quantizer
    channel_axis: int = 0
    phase: Phase = "float"
    codes: Tensor | None = None
    mask: WeightMask | None = None
    running: bool = False
    _prepared: tuple[tuple[Tensor | None, ...], FrozenCodes] | None = field(default=None, init=False, repr=False)

    def ternary(self, latent: Tensor) -> TernaryTensor:
        """Ternarize a latent weight as forward does. Levels have its precision; in ``frozen`` they carry gradients."""
        weight = latent.float()
        keep = self._keep(weight)
        if self.codes is None:
            found = self.quantizer.ternary(weight, self.channel_axis, **self._mask_option(keep))
            if keep is not None:
                found = TernaryTensor(found.codes * keep, found.positive, found.negative, found.channel_axis)
                limit = self._limit(weight)
                if limit is not None:
                    found = limit_terms(weight, found, limit, self.quantizer.symmetric)
        else:
            found = self._frozen(weight).levels(weight)
        if latent.dtype == torch.float32:
            return found
        positive, negative = (level.to(latent.dtype).float() for level in (found.positive, found.negative))
        return TernaryTensor(found.codes, positive, negative, found.channel_axis)

    def values(self, latent: Tensor, training: bool = False) -> Tensor:
        """The weight that forward uses, with the gradient rule of the method; pruned weights have no gradient.

        Args:
            latent: The latent weight.
            training: Whether the layer is in training mode, where some methods soften the ternary weight.
        """
        if self.phase == "frozen":
            return self._frozen(latent).values(latent)
        keep = self._keep(latent)
        values = latent
        if self.phase == "ternary" and self._limit(latent) is not None:
            cut = self.ternary(latent.detach()).dequantize()
            values = straight_through(latent.float(), cut, self.quantizer.ste_clip).to(latent.dtype)
        elif self.phase == "ternary":
            method = self.quantizer.in_training if training else self.quantizer
            values = method(latent.float(), self.channel_axis, **self._mask_option(keep)).to(latent.dtype)
        return values if keep is None else scaled(keep, values)

    def bias(self, latent: Tensor, own: Tensor | None) -> Tensor | None:
        """The bias that forward uses: the layer's ``own``, with what the method adds to it in the ternary phase."""
        if own is None or self.phase != "ternary" or not self.quantizer.uses_bias:
            return own
        keep = self._keep(latent)
        return own + self.quantizer.bias_shift(latent.float(), self.channel_axis, keep).to(own.dtype)

    def _frozen(self, weight: Tensor) -> FrozenCodes:
        """The fixed codes without the pruned ones; what they cost to prepare is paid when they or the mask change."""
        assert self.codes is not None
        keep, limit = self._keep(weight), self._limit(weight)
        made_of = (self.codes, keep, limit)
        if self._prepared is None or any(new is not old for new, old in zip(made_of, self._prepared[0], strict=True)):
            codes = self.codes.to(weight.device)
            if keep is not None:
                codes = codes * keep if limit is None else limit_codes(codes, limit)
            terms = codes[None] if codes.ndim == weight.ndim else codes
            method = self.quantizer
            found = FrozenCodes.of(terms, method.symmetric, method.per_channel, self.channel_axis)
            self._prepared = (made_of, found)
        return self._prepared[1].to(weight.device)

    def _keep(self, weight: Tensor) -> Tensor | None:
        return None if self.mask is None else self.mask.on(weight.device)

    def _limit(self, weight: Tensor) -> Tensor | None:
        """How many terms every weight may have, where the method has several and pruning limits them."""
        several = getattr(self.quantizer, "terms", 1) > 1
        return self.mask.limit if several and self._keep(weight) is not None and self.mask is not None else None

    def _mask_option(self, keep: Tensor | None) -> dict[str, Tensor]:
        """A method of somebody's own that knows no masks sees the pruned weights as zeros."""
        if keep is None or not _takes_mask(type(self.quantizer)):
            return {}
        return {"mask": keep}


@cache
def _takes_mask(method: type[Quantizer]) -> bool:
    functions = (method.ternary, method.forward)
    return all("mask" in inspect.signature(function).parameters for function in functions)


class TernaryLayer(nn.Module):
    """Mixed into a layer class by :func:`swap`; never built directly.

    The weight is the latent Parameter everywhere except inside the layer's own forward, where it is the ternary weight,
    so that subclasses with a forward of their own compute with it too. ``state_dict`` holds the weight that forward
    uses in evaluation.

    A weight that was loaded is used as it is, because ternarizing it again may change it, until the layer is trained
    again. During a run this is so only for weights that are ternary: any others are made ternary, and frozen codes are
    made anew, so that every checkpoint of a run is ternary.
    """

    _ternary_base: type[nn.Module]
    _ternary_kind: LayerKind
    _ternary_state: LayerState
    _ternary_inside: bool
    _ternary_seen: dict[str, Tensor]
    _ternary_loaded: bool

    def _ternary_weight(self) -> Tensor:
        """The layer's weight as an attribute: the latent Parameter; inside forward, the ternary weight."""
        latent = self._parameters[self._ternary_kind.weight]
        assert latent is not None
        if not self._ternary_inside:
            return latent
        if self._as_loaded():
            return latent
        if "weight" not in self._ternary_seen:
            # nn.MultiheadAttention reads its weight several times in one forward.
            self._ternary_seen["weight"] = self._ternary_values(latent)
        return self._ternary_seen["weight"]

    def _ternary_values(self, latent: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return cast(Tensor, as_constant(lambda: self._ternary_state.values(latent, self.training)))
        if torch.onnx.is_in_onnx_export() and getattr(self._ternary_state.quantizer, "terms", 1) > 1:
            # An error here would only make the exporter try its other ways in, and then hide the reason.
            warnings.warn(
                "torch.onnx cannot write the levels of several ternary terms: give it tern_lightning.to_plain(module), "
                "or call tern_lightning.export(module, ...)",
                stacklevel=2,
            )
        return self._ternary_state.values(latent, self.training)

    def _ternary_bias(self) -> Tensor | None:
        """The layer's bias as an attribute: a Parameter or None; inside forward, with what the method adds to it."""
        name = self._ternary_kind.bias
        own = None if name is None else self._parameters.get(name)
        if not self._ternary_inside or self._as_loaded():
            return own
        latent = self._parameters[self._ternary_kind.weight]
        assert latent is not None
        if torch.jit.is_tracing():
            return as_constant(lambda: self._ternary_state.bias(latent, own))
        return self._ternary_state.bias(latent, own)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer's own forward with the ternary weight."""
        self._ternary_enter(True)
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._ternary_enter(False)

    def _ternary_enter(self, inside: bool) -> None:
        """Let the weight be the ternary one from now on, or the latent one again."""
        self._ternary_inside, self._ternary_seen = inside, {}
        if inside and self._ternary_loaded and self.training and torch.is_grad_enabled():
            self._ternary_loaded = False

    @torch.no_grad()
    def ternary(self) -> TernaryTensor:
        """Return the ternary weight that forward uses now.

        Raises:
            ValueError: The layer computes in float now, because ternary training has not begun or because the weight
                that was loaded is not ternary.
        """
        latent = weight_of(self)
        if not self._as_loaded() and self._ternary_state.phase != "float":
            return self._ternary_state.ternary(latent)
        found = TernaryTensor.from_values(latent, self._ternary_state.channel_axis)
        if found is None:
            raise ValueError("the layer's weight is not ternary: it is in phase 'float', or float values were loaded")
        return found

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        latent, kind = self._parameters[self._ternary_kind.weight], self._ternary_kind
        if latent is not None and not keep_vars and not self._as_loaded():
            with torch.no_grad():
                destination[prefix + kind.weight] = self._ternary_state.values(latent.detach())
                bias = effective_bias(self)
                if bias is not None:
                    destination[f"{prefix}{kind.bias}"] = bias

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        kind = self._ternary_kind
        if prefix + kind.weight in state_dict:
            self._ternary_loaded = True
            if self._ternary_state.running:
                from tern_lightning.nn.loaded_weights import take_in

                take_in(self, kind.bias is not None and prefix + kind.bias in state_dict)

    def _as_loaded(self) -> bool:
        """Whether the weight is used as it was loaded."""
        if self._ternary_loaded and self._ternary_state.running and ternary_by_value(self) is None:
            self._ternary_loaded = False  # something has written to it since
        return self._ternary_loaded

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "torch.jit.script cannot compile ternary layers: call torch.jit.script(tern_lightning.to_plain(module)), "
            "or torch.jit.trace(module, inputs)"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so pickle and deepcopy rebuild it from the base class.
        reduced: tuple[Any, ...] = super().__reduce_ex__(2)  # type: ignore[assignment]
        _, args, *rest = reduced
        return (_rebuild, (self._ternary_base, *args[1:]), *rest)


def _rebuild(base: type[nn.Module], *args: Any) -> nn.Module:
    cls = ternary_class(base)
    return cls.__new__(cls, *args)


_CLASSES: dict[type[nn.Module], type[TernaryLayer]] = {}


def ternary_class(base: type[nn.Module]) -> type[TernaryLayer]:
    """The subclass of ``base`` that computes with a ternary weight."""
    if base not in _CLASSES:
        kind = kind_of_type(base) or LayerKind()
        names: dict[str, Any] = {"_ternary_base": base, "_ternary_kind": kind, "__doc__": base.__doc__}
        names[kind.weight] = property(TernaryLayer._ternary_weight)
        if kind.bias is not None:
            names[kind.bias] = property(TernaryLayer._ternary_bias)
        _CLASSES[base] = type(f"Ternary{base.__name__}", (TernaryLayer, base), names)
    return _CLASSES[base]


def _keep_off_fast_path(module: nn.Module, args: Any) -> None:
    """Forward pre-hook without effect: its presence is what keeps fused code away from the layer."""


def swap(module: nn.Module, state: LayerState) -> TernaryLayer:
    """Make a layer ternary in place, or give a layer that is ternary already a new state."""
    if not isinstance(module, TernaryLayer):
        module.__class__ = ternary_class(type(module))
        # nn.TransformerEncoderLayer hands its layers' weights to one fused kernel in evaluation, which would bypass
        # forward and so use the latent weight, unless one of its modules has a hook.
        module.register_forward_pre_hook(_keep_off_fast_path)
    assert isinstance(module, TernaryLayer)
    if state.mask is None:
        state.mask = weight_mask(module)
    share_mask(state.mask, [module])
    module._ternary_state = state
    module._ternary_loaded = False
    module._ternary_enter(False)
    return module


def swap_all(root: nn.Module, states: Mapping[str, LayerState]) -> dict[str, TernaryLayer]:
    """Make exactly the layers at the paths of ``states`` ternary."""
    for path, layer in list(swapped_layers(root)):
        if path not in states:
            unswap(layer)
    swapped = {path: swap(root.get_submodule(path), own) for path, own in states.items()}
    lend(root)
    return swapped


def make_plain(root: nn.Module) -> None:
    """Give all ternary layers of a module their own class back, with the weight and bias that forward uses now."""
    layers = list(swapped_layers(root))
    # All of them before the first is changed: layers may share a weight.
    values = [
        layer.ternary().dequantize().to(weight_of(layer)) if is_ternary(layer) else effective_weight(layer).clone()
        for _, layer in layers
    ]
    biases = [effective_bias(layer) for _, layer in layers]
    for (_, layer), value, bias in zip(layers, values, biases, strict=True):
        own = find_bias(layer)
        weight_of(layer).data = value
        if own is not None and bias is not None:
            own.data = bias.clone()
        unswap(layer)
    lend(root)


def lend(root: nn.Module) -> None:
    """Let layers that read the weight of a child without calling it (nn.MultiheadAttention) find the ternary one.

    To be called after layers of ``root`` have been swapped or given their class back.
    """
    for owner in root.modules():
        for key in [key for key, hook in owner._forward_pre_hooks.items() if hook is _lend]:
            del owner._forward_pre_hooks[key]
        for key in [key for key, hook in owner._forward_hooks.items() if hook is _take_back]:
            del owner._forward_hooks[key]
            del owner._forward_hooks_always_called[key]
        if _borrowed(owner):
            owner.register_forward_pre_hook(_lend)
            owner.register_forward_hook(_take_back, always_call=True)


def _borrowed(owner: nn.Module) -> list[TernaryLayer]:
    kind = kind_of(owner)
    children = [] if kind is None else [owner._modules.get(name) for name in kind.borrowed]
    return [child for child in children if isinstance(child, TernaryLayer)]


def _lend(owner: nn.Module, args: Any) -> None:
    for child in _borrowed(owner):
        child._ternary_enter(True)


def _take_back(owner: nn.Module, args: Any, output: Any) -> None:
    for child in _borrowed(owner):
        child._ternary_enter(False)


def unswap(module: TernaryLayer) -> None:
    """Give a layer its own class back. Its weight stays the latent one."""
    for key, hook in list(module._forward_pre_hooks.items()):
        if hook is _keep_off_fast_path:
            del module._forward_pre_hooks[key]
    module.__class__ = module._ternary_base  # type: ignore[assignment]
    for name in ("_ternary_state", "_ternary_inside", "_ternary_seen", "_ternary_loaded"):
        del module.__dict__[name]
    if mask_of(module) is None:
        module.__dict__.pop(MASK, None)


def swapped_layers(module: nn.Module) -> Iterator[tuple[str, TernaryLayer]]:
    """All layers that :func:`swap` has changed, with their paths."""
    return ((path, layer) for path, layer in module.named_modules() if isinstance(layer, TernaryLayer))


def ternary_layers(module: nn.Module) -> dict[str, TernaryLayer]:
    """The layers that compute with a ternary weight now, by module path; ``layer.ternary()`` is that weight."""
    return {path: layer for path, layer in swapped_layers(module) if is_ternary(layer)}


def is_ternary(layer: nn.Module) -> TypeGuard[TernaryLayer]:
    """Whether a layer computes with a ternary weight now."""
    if not isinstance(layer, TernaryLayer):
        return False
    if layer._as_loaded():
        return ternary_by_value(layer) is not None
    return layer._ternary_state.phase != "float"


@torch.no_grad()
def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that a layer's forward uses now, ternary or float, without gradient; pruned weights are zero."""
    latent = weight_of(layer)
    if isinstance(layer, TernaryLayer) and not layer._as_loaded():
        return layer._ternary_state.values(latent.detach())
    keep = mask_of(layer)
    return latent.detach() if keep is None else latent.detach().masked_fill(~keep, 0)


@torch.no_grad()
def effective_bias(layer: TernaryLayer) -> Tensor | None:
    """The bias that a layer's forward uses now, without gradient."""
    own = find_bias(layer)
    if own is None or layer._as_loaded():
        return None if own is None else own.detach()
    found = layer._ternary_state.bias(weight_of(layer).detach(), own.detach())
    assert found is not None
    return found


@torch.no_grad()
def freeze(layer: TernaryLayer, copies: Sequence[TernaryLayer] = ()) -> None:
    """Fix a ternary layer's codes and set its latent weight to the ternary values, whose levels go on training.

    What the method adds to the bias becomes part of it.

    Args:
        layer: The layer; its state changes phase.
        copies: Averaged copies that share the state. Their latent weights become the layer's codes with their own
            levels.
    """
    state = layer._ternary_state
    state.codes = None
    found = [state.ternary(weight_of(one)) for one in (layer, *copies)]
    codes = found[0].codes
    for one, own in zip((layer, *copies), found, strict=True):
        bias = find_bias(one)
        if state.quantizer.uses_bias and bias is not None:
            bias.copy_(effective_bias(one))  # type: ignore[arg-type]  # not None where it has one
        there = codes.to(own.codes.device)
        weight_of(one).copy_(TernaryTensor(there, own.positive, own.negative, own.channel_axis).dequantize())
    state.codes, state.phase = (codes[0] if len(codes) == 1 else codes).clone(), "frozen"


def ternary_by_value(layer: TernaryLayer) -> TernaryTensor | None:
    """The latent weight itself, where it is exactly ternary."""
    return TernaryTensor.from_values(weight_of(layer), layer._ternary_state.channel_axis)
