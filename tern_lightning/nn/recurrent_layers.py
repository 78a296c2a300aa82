"""Recurrent modules that compute with ternary weights: their class is exchanged as that of other layers is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tern_lightning.nn.recurrent_weights import weights_of
from tern_lightning.nn.ternary_layers import TernaryLayer


class TernaryRecurrent(nn.RNNBase):
    """Mixed into nn.LSTM, nn.GRU or nn.RNN by :func:`fit_class`; never built directly.

    All weights that are ternary are so in every call; parameters, their names and ``state_dict`` are what they are in
    other ternary layers.
    """

    _ternary_base: type[nn.RNNBase]

    def _ternary_weights(self) -> dict[str, TernaryLayer]:
        return {name: weight for name, weight in weights_of(self).items() if isinstance(weight, TernaryLayer)}

    def _weights_have_changed(self) -> bool:
        return False  # they are put together anew in every call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own forward with the ternary weights."""
        weights, own = self._ternary_weights(), self._parameters
        kept = self._flat_weights
        for weight in weights.values():
            weight._ternary_enter(True)
        try:
            flat: list[Tensor | None] = [
                weights[name]._ternary_weight() if name in weights else own.get(name)
                for name in self._flat_weights_names
            ]
            self._flat_weights = flat
            return super().forward(*args, **kwargs)
        finally:
            self._flat_weights = kept
            for weight in weights.values():
                weight._ternary_enter(False)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, weight in self._ternary_weights().items():
            own: dict[str, Any] = {}
            weight._save_to_state_dict(own, "", keep_vars)
            destination[prefix + name] = own["weight"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name, weight in self._ternary_weights().items():
            if prefix + name in state_dict:
                weight._ternary_was_loaded(with_bias=False)

    def __prepare_scriptable__(self) -> nn.Module:
        return TernaryLayer.__prepare_scriptable__(self)  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made at run time, so pickle and deepcopy rebuild it from the base class.
        reduced: tuple[Any, ...] = super().__reduce_ex__(2)  # type: ignore[assignment]
        _, args, *rest = reduced
        return (_rebuild, (self._ternary_base, *args[1:]), *rest)


def _rebuild(base: type[nn.RNNBase], *args: Any) -> nn.Module:
    cls = _class_of(base)
    return cls.__new__(cls, *args)


_CLASSES: dict[type[nn.RNNBase], type[TernaryRecurrent]] = {}


def _class_of(base: type[nn.RNNBase]) -> type[TernaryRecurrent]:
    if base not in _CLASSES:
        names = {"_ternary_base": base, "__doc__": base.__doc__}
        _CLASSES[base] = type(f"Ternary{base.__name__}", (TernaryRecurrent, base), names)
    return _CLASSES[base]


def fit_class(root: nn.Module) -> None:
    """Give the recurrent modules of ``root`` the class that their weights ask for: ternary ones, or their own."""
    for module in root.modules():
        if not isinstance(module, nn.RNNBase):
            continue
        ternary = any(isinstance(weight, TernaryLayer) for weight in weights_of(module).values())
        if ternary and not isinstance(module, TernaryRecurrent):
            module.__class__ = _class_of(type(module))
        elif not ternary and isinstance(module, TernaryRecurrent):
            module.__class__ = module._ternary_base  # type: ignore[assignment]
