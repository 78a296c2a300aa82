"""Layers that compute with the ternary form of their weight.

A layer becomes ternary by exchanging its class for a subclass. The parameter keeps its name and holds the float latent
weight, and no parameter or buffer is added, so that optimizers, averaged copies and checkpoints see the float model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from tern_lightning.nn import frozen_layers
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.layer_types import LayerKind, find_bias, kind_of_type, weight_of
from tern_lightning.nn.recurrent_weights import named_layers
from tern_lightning.nn.tracing import as_constant
from tern_lightning.nn.weight_mask import mask_of
from tern_lightning.ternary_tensor import TernaryTensor


class TernaryLayer(nn.Module):
    """Mixed into a layer class by :func:`tern_lightning.nn.swap.swap`; never built directly.

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
        fitted = getattr(self._ternary_state.quantizer, "terms", 1) > 1 and self._ternary_state.phase != "frozen"
        if fitted and torch.onnx.is_in_onnx_export():
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
            found = self._ternary_quick(*args) if len(args) == 1 and not kwargs else None
            return super().forward(*args, **kwargs) if found is None else found
        finally:
            self._ternary_enter(False)

    def _ternary_quick(self, x: Any) -> Tensor | None:
        """The output without need of the weight's gradient, where the layer and its phase allow that."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or self._ternary_state.phase != "frozen":
            return None
        latent, bias = self._parameters.get(self._ternary_kind.weight), self._ternary_bias()
        operation = frozen_layers.Operation.of(self._ternary_base, self)
        if latent is None or operation is None or not frozen_layers.possible(x, latent, bias, operation):
            return None
        frozen = self._ternary_state.frozen(latent)
        if self._as_loaded() or not frozen.one_level:
            return None
        return frozen_layers.run(x, latent, bias, frozen, operation)

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
            self._ternary_was_loaded(kind.bias is not None and prefix + kind.bias in state_dict)

    def _ternary_was_loaded(self, with_bias: bool) -> None:
        """What a weight, or a weight and a bias, that came from a ``state_dict`` mean for the layer."""
        self._ternary_loaded = True
        if self._ternary_state.running:
            take_in(self, with_bias)

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


def swapped_layers(module: nn.Module) -> Iterator[tuple[str, TernaryLayer]]:
    """All layers that :func:`tern_lightning.nn.swap.swap` has changed, with their paths."""
    return ((path, layer) for path, layer in named_layers(module) if isinstance(layer, TernaryLayer))


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


@torch.no_grad()
def take_in(layer: TernaryLayer, with_bias: bool) -> None:
    """Make a weight that was loaded during a run one of the layer's phase.

    Ternary values stay what they are until training goes on from them; others are latent weights from now on. Frozen
    codes are chosen anew where they are not those of the loaded weight.
    """
    state, weight, found = layer._ternary_state, weight_of(layer), ternary_by_value(layer)
    layer._ternary_loaded = found is not None and state.phase != "float"
    if state.phase == "frozen":
        if torch.allclose(state.ternary(weight).dequantize(), weight.float(), rtol=1e-4, atol=0):
            return
        if found is None:
            freeze(layer)
        else:
            state.codes = found.codes[0].clone()
    elif found is None and with_bias:
        take_off_shift(layer)


def take_off_shift(layer: TernaryLayer) -> None:
    """Make a bias that was loaded, which holds what the method adds to it, the layer's own one."""
    own = find_bias(layer)
    if own is not None and layer._ternary_state.phase == "ternary":
        own.sub_(layer._ternary_state.bias(weight_of(layer), torch.zeros_like(own)))  # type: ignore[arg-type]
