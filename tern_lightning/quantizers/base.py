"""The base class of all quantizers and their registry."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from tern_lightning.functional.gradient import straight_through
from tern_lightning.functional.spare import SpareMemory
from tern_lightning.ternary_tensor import TernaryTensor
from tvm_schedules.common.arguments import check_arguments
from tvm_schedules.common.near import meant

_REGISTRY: dict[str, type[Quantizer]] = {}
Q = TypeVar("Q", bound="type[Quantizer]")


class Quantizer(nn.Module, ABC):
    """A ternary method: the values by :meth:`ternary`, the gradient by :meth:`forward`.

    Every layer has a quantizer of its own, which is no submodule of it: what a method trains besides the weight, such
    as levels or thresholds, is in :attr:`trained` and stays out of the network's parameters and checkpoint keys. It
    comes into being at :meth:`begin`; before, :meth:`scalars` gives what it would start from.

    Args:
        per_channel: One threshold and level per output channel instead of one for the layer.
        ste_clip: Where given, the gradient reaches only latent weights with ``|W| < ste_clip``.

    Attributes:
        trained: Trained float32 tensors by name, each with one value or one per output channel.
        progress: How much of the ternary phase is over, a float32 scalar in [0, 1].
        spare: Memory of weights of earlier steps that nobody has any more.

    Raises:
        ValueError: ``ste_clip`` is not positive.
    """

    symmetric: bool = True
    """Whether both signs share one level, also when the levels are trained after the freeze."""
    scheduled: bool = False
    """Whether the method follows :attr:`progress`, so that the run needs an end."""
    uses_bias: bool = False
    """Whether :meth:`bias_shift` adds to the layer's bias."""
    rate: float = 1.0
    """Learning rate of the trained scalars as a multiple of the weight's."""
    optimizer: Literal["same", "sgd"] = "same"
    """Update of the trained scalars: Adam where the weight's optimizer is of that family, else SGD; or SGD always."""
    momentum: float | None = None
    """Nesterov momentum of SGD for the trained scalars; None for the momentum of the weight's optimizer."""
    gradient_limit: float | None = None
    """Largest magnitude of the loss gradient of a trained scalar."""
    two_pass: bool = False
    """Whether the scalars are trained in a pass of their own; see :mod:`tern_lightning.callbacks._two_pass`."""
    first_pass: bool = False
    """Whether this is that pass."""
    knows_masks: bool = True
    """Whether the method is told which weights are pruned; found by its functions' arguments."""

    progress: Tensor

    def __init_subclass__(cls, **options: Any) -> None:
        """Look for masks once: compiled code cannot."""
        super().__init_subclass__(**options)
        cls.knows_masks = all("mask" in inspect.signature(f).parameters for f in (cls.ternary, cls.forward))

    def __init__(self, per_channel: bool = False, ste_clip: float | None = None) -> None:
        super().__init__()
        if ste_clip is not None and not ste_clip > 0:
            raise ValueError(f"ste_clip must be None or > 0, got {ste_clip}")
        self.per_channel: bool = per_channel
        self.ste_clip: float | None = ste_clip
        self.spare: SpareMemory = SpareMemory()
        self.trained: nn.ParameterDict = nn.ParameterDict()
        self.register_buffer("progress", torch.zeros(()))

    @abstractmethod
    def ternary(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> TernaryTensor:
        """Ternarize a float32 weight of any shape; ``mask`` (bool, its shape) is True for weights that are kept."""

    def forward(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """Return the ternary values of a float32 latent ``weight``, same shape, with the method's gradient rule."""
        # A method of somebody's own may not know masks.
        options = {} if mask is None else {"mask": mask}
        values = self.ternary(weight.detach(), channel_axis, **options).dequantize()
        return straight_through(weight, values, self.ste_clip)

    def in_training(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """What :meth:`forward` is for a layer in training mode: in some methods softened, in most the same."""
        options = {} if mask is None else {"mask": mask}
        values: Tensor = self(weight, channel_axis, **options)
        return values

    def adopt(self, found: TernaryTensor) -> None:
        """Take the levels of a ternary weight that training goes on from, in methods that train levels."""

    def _adopt_levels(self, found: TernaryTensor) -> None:
        """:meth:`adopt` of methods that train nothing but the levels ``positive`` and ``negative``."""
        for name in self.trained:
            self.trained[name].copy_(getattr(found, name).expand(1, self.trained[name].numel())[0])

    def initial(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The values from which scalars are trained, by name; none in most methods."""
        return {}

    def scalars(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The trained scalars now, on the weight's device, with their gradient where this pass trains them."""
        if len(self.trained):
            fixed = self.two_pass and not self.first_pass
            return {n: (v.detach() if fixed else v).to(weight.device) for n, v in self.trained.items()}
        return self.initial(weight.detach(), channel_axis, mask)

    def fixed_scalars(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Copies of :meth:`scalars` without gradient."""
        return {name: value.detach().clone() for name, value in self.scalars(weight, channel_axis, mask).items()}

    def begin(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> None:
        """Start training the scalars, unless they are trained already, on the weight's device."""
        if not len(self.trained):
            found = self.initial(weight.detach().float(), channel_axis, mask)
            self._set_trained({name: value.detach().clone() for name, value in found.items()})
        self.to(weight.device)

    def project(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> None:
        """Bring the trained scalars back into their range; called without gradient after each of their updates."""

    def penalty(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor | None:
        """A scalar whose gradient is added to that of the trained scalars, or None."""
        return None

    def bias_shift(self, weight: Tensor, channel_axis: int = 0, mask: Tensor | None = None) -> Tensor:
        """What is added to the layer's bias, ``[channels]``, in methods with :attr:`uses_bias`; else zeros."""
        return weight.new_zeros(weight.shape[channel_axis])

    def state(self) -> dict[str, Any]:
        """Plain tensors for a checkpoint: buffers and trained scalars."""
        trained = {name: value.detach().clone() for name, value in self.trained.items()}
        return {"trained": trained, "buffers": {name: value.clone() for name, value in self.named_buffers()}}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from :meth:`state`."""
        self._set_trained({name: value.to(device).clone() for name, value in state["trained"].items()})
        self.to(device)
        for name, buffer in self.named_buffers():
            buffer.copy_(state["buffers"][name])

    def _set_trained(self, values: Mapping[str, Tensor]) -> None:
        self.trained = nn.ParameterDict({name: nn.Parameter(value) for name, value in values.items()})


def register(name: str) -> Callable[[Q], Q]:
    """Make a quantizer class known as ``name``.

    Raises:
        ValueError: Another class has the name.
    """

    def add(cls: Q) -> Q:
        known = _REGISTRY.setdefault(name, cls)
        if known is not cls and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"method {name!r} is already registered by {known.__qualname__}")
        _REGISTRY[name] = check_arguments(cls)
        return cls

    return add


def quantizer_names() -> list[str]:
    """Names of all known methods, sorted."""
    return sorted(_REGISTRY)


def option_names(method: str) -> list[str]:
    """Names of the options of a method."""
    return list(inspect.signature(_REGISTRY[method]).parameters)


def quantizer_name(quantizer: Quantizer) -> str:
    """The name of a quantizer's method, or of its class where that is not registered."""
    return next((name for name, cls in _REGISTRY.items() if cls is type(quantizer)), type(quantizer).__name__)


_BINARY = (
    "binary weights have no zeros, on which everything here rests: kernels that skip them, pruning, stored forms. The "
    "nearest is 'twn' with factor=0"
)
REFUSED = {"binary": _BINARY, "binaryrelax": _BINARY, "binary_relax": _BINARY}
"""Published methods that are none here, and why."""


def get_quantizer(name: str, **options: Any) -> Quantizer:
    """Build a quantizer by the name of its method.

    Args:
        name: One of :func:`quantizer_names`.
        options: Arguments of the quantizer, for example ``per_channel=True``.

    Raises:
        ValueError: The name or an option is unknown, or an option's value is not allowed.

    Example:
        >>> get_quantizer("twn", factor=0.75).factor
        0.75
    """
    if name in REFUSED:
        raise ValueError(f"method {name!r} is not one of {quantizer_names()}: {REFUSED[name]}")
    if name not in _REGISTRY:
        raise ValueError(f"method must be one of {quantizer_names()}, got {name!r}{meant(name, _REGISTRY)}")
    cls = _REGISTRY[name]
    allowed = option_names(name)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        hint = meant(unknown[0], allowed)
        raise ValueError(f"options of method {name!r} must be among {allowed}, got {unknown}{hint}")
    return cls(**options)


def check_range(name: str, value: float, low: float, high: float = float("inf"), above: bool = False) -> None:
    """Raise ValueError unless ``low <= value <= high`` (``low < value`` where ``above``)."""
    if not (low <= value <= high) or (above and value == low):
        end = "" if high == float("inf") else f" and <= {high:g}"
        raise ValueError(f"{name} must be {'>' if above else '>='} {low:g}{end}, got {value}")
