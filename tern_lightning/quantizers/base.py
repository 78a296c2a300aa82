"""The base class of all quantisers and their registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from tern_lightning.functional.gradient import straight_through
from tern_lightning.tensor import TernaryTensor

_REGISTRY: dict[str, type[Quantizer]] = {}
Q = TypeVar("Q", bound="type[Quantizer]")


class Quantizer(nn.Module):
    """A ternary method: the values by :meth:`ternary`, the gradient by :meth:`forward`.

    It holds options only, no parameters: levels and thresholds are functions of the latent weight, so that a network
    has the same parameters with and without it.

    Args:
        per_channel: One threshold and level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Raises:
        ValueError: ``ste_clip`` is not positive.
    """

    symmetric: bool = True
    """Whether both signs share one level, also when the levels are trained after the freeze."""

    def __init__(self, per_channel: bool = False, ste_clip: float | None = None) -> None:
        super().__init__()
        if ste_clip is not None and not ste_clip > 0:
            raise ValueError(f"ste_clip must be None or > 0, got {ste_clip}")
        self.per_channel, self.ste_clip = per_channel, ste_clip

    def ternary(self, weight: Tensor, channel_axis: int = 0) -> TernaryTensor:
        """Ternarise a float32 weight of any shape."""
        raise NotImplementedError(f"{type(self).__name__} must define ternary(weight, channel_axis)")

    def forward(self, weight: Tensor, channel_axis: int = 0) -> Tensor:
        """Return the ternary values of a float32 latent ``weight``, same shape, with the method's gradient rule."""
        values = self.ternary(weight.detach(), channel_axis).dequantize()
        return straight_through(weight, values, self.ste_clip)


def register(name: str) -> Callable[[Q], Q]:
    """Make a quantiser class known as ``name``.

    Raises:
        ValueError: Another class has the name.
    """

    def add(cls: Q) -> Q:
        known = _REGISTRY.setdefault(name, cls)
        if known is not cls and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"method {name!r} is already registered by {known.__qualname__}")
        _REGISTRY[name] = cls
        return cls

    return add


def quantizer_names() -> list[str]:
    """Names of all known methods, sorted."""
    return sorted(_REGISTRY)


def get_quantizer(name: str, **options: Any) -> Quantizer:
    """Build a quantiser by the name of its method.

    Args:
        name: One of :func:`quantizer_names`.
        options: Arguments of the quantiser, for example ``per_channel=True``.

    Raises:
        ValueError: The name or an option is unknown, or an option's value is not allowed.

    Example:
        >>> get_quantizer("twn", factor=0.75).factor
        0.75
    """
    if name not in _REGISTRY:
        raise ValueError(f"method must be one of {quantizer_names()}, got {name!r}")
    cls = _REGISTRY[name]
    allowed = list(inspect.signature(cls).parameters)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"options of method {name!r} must be among {allowed}, got {unknown}")
    return cls(**options)
