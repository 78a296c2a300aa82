"""The kinds of layers that have a weight: what the weight is called, and which of its axes are the output channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from tern_lightning.nn.recurrent_weights import RecurrentWeight, named_layers
from tvm_schedules.common.arguments import check_arguments


@dataclass(frozen=True)
class LayerKind:
    """What is known about a layer type whose forward multiplies by one parameter.

    Attributes:
        weight: Name of the parameter.
        bias: Name of the parameter that is added per output channel, or None.
        channel_axis: Axis of the output channels in the weight, or a function of the layer that gives it.
        borrowed: Names of child layers whose weight the layer reads in its own forward, without calling them.
        one_input: Whether the layer multiplies its first argument by the weight, and nothing else.
    """

    weight: str = "weight"
    bias: str | None = "bias"
    channel_axis: int | Callable[[nn.Module], int] = 0
    borrowed: tuple[str, ...] = ()
    one_input: bool = True


_CLASS = type  # where an argument has the name


def _transposed_axis(layer: nn.Module) -> int:
    """A grouped transposed convolution has no axis of all output channels."""
    return int(getattr(layer, "groups", 1) == 1)


_TRANSPOSED = LayerKind(channel_axis=_transposed_axis)
_KINDS: dict[type[nn.Module] | str, LayerKind] = {
    nn.Linear: LayerKind(),
    nn.Conv1d: LayerKind(),
    nn.Conv2d: LayerKind(),
    nn.Conv3d: LayerKind(),
    nn.ConvTranspose1d: _TRANSPOSED,
    nn.ConvTranspose2d: _TRANSPOSED,
    nn.ConvTranspose3d: _TRANSPOSED,
    nn.MultiheadAttention: LayerKind("in_proj_weight", "in_proj_bias", borrowed=("out_proj",), one_input=False),
    RecurrentWeight: LayerKind(bias=None, one_input=False),
    # By name, so that nothing is imported that a network does not use.
    "transformers.pytorch_utils.Conv1D": LayerKind(channel_axis=1),
    "torch_geometric.nn.dense.linear.Linear": LayerKind(),
}


@check_arguments
def register_layer(
    type: type[nn.Module] | str,
    weight: str = "weight",
    channel_axis: int | Callable[[nn.Module], int] = 0,
    bias: str | None = "bias",
    one_input: bool = True,
) -> None:
    """Make a layer type known, so that layers of it can be ternary, pruned, rounded and exported like convolutions.

    Its forward must read the weight as an attribute of the layer (``self.weight``). Subclasses are known too. Known
    from the start are the linear and convolution layers, ``MultiheadAttention``, ``LSTM``, ``GRU`` and ``RNN`` of torch
    (each of their weights is a layer, whose path is the parameter's name), ``Conv1D`` of transformers and ``Linear`` of
    torch_geometric.

    Args:
        type: The class, or its full name (``package.module.Class``), which needs no import.
        weight: Name of the parameter that inputs are multiplied by.
        channel_axis: Axis of the output channels in it, 0 or 1, or a function of the layer that gives it.
        bias: Name of the parameter that is added per output channel, or None where there is none.
        one_input: Whether forward multiplies its first argument by the weight and nothing else. Only inputs of such
            layers can be rounded.

    Raises:
        TypeError: ``type`` is neither a module class nor a name.
        ValueError: ``weight`` is no name, or an axis is negative.

    Example:
        >>> class Mixer(nn.Module):
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.mix = nn.Parameter(torch.randn(8, 16))  # inputs by outputs
        ...
        ...     def forward(self, x: Tensor) -> Tensor:
        ...         return x @ self.mix
        >>> import torch
        >>> register_layer(Mixer, weight="mix", channel_axis=1, bias=None)
        >>> channel_axis(Mixer()), weight_of(Mixer()).shape
        (1, torch.Size([8, 16]))
    """
    if not weight.isidentifier():
        raise ValueError(f"weight must be the name of a parameter, got {weight!r}")
    if isinstance(channel_axis, int) and channel_axis < 0:
        raise ValueError(f"channel_axis must be >= 0 or a function, got {channel_axis}")
    _KINDS[type] = LayerKind(weight, bias, channel_axis, one_input=one_input)


def kind_of(module: nn.Module) -> LayerKind | None:
    """What is known about a layer's type or the nearest of its base classes; None of any other module."""
    return kind_of_type(_CLASS(module))


def kind_of_type(type: type[nn.Module]) -> LayerKind | None:
    """What is known about a layer class or the nearest of its base classes; None of any other class."""
    for base in type.__mro__:
        found = _KINDS.get(base) or _KINDS.get(f"{base.__module__}.{base.__qualname__}")
        if found is not None:
            return found
    return None


def kind_names() -> list[str]:
    """Class names of the known types."""
    names: list[str] = []
    for kind in _KINDS:
        if kind is RecurrentWeight:
            names += ["LSTM", "GRU", "RNN"]
        else:
            names.append(kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__)
    return list(dict.fromkeys(names))


def type_names(layer: nn.Module) -> list[str]:
    """Names of a layer's class and its base classes; of a recurrent module's weight, those of the module."""
    named = layer.owner if isinstance(layer, RecurrentWeight) else layer
    return [base.__name__ for base in _CLASS(named).__mro__]


def weight_name(module: nn.Module) -> str:
    """Name of the layer's weight; ``weight`` where the type is not known."""
    kind = kind_of(module)
    return "weight" if kind is None else kind.weight


def find_weight(module: nn.Module) -> nn.Parameter | None:
    """The weight of a layer, or None where it has no such parameter (now)."""
    return module._parameters.get(weight_name(module))


def weight_of(module: nn.Module) -> nn.Parameter:
    """The weight of a layer that has one."""
    weight = find_weight(module)
    assert weight is not None, f"{type(module).__name__} has no weight"
    return weight


def find_bias(module: nn.Module) -> nn.Parameter | None:
    """The bias of a layer, or None where it has none."""
    kind = kind_of(module)
    name = "bias" if kind is None else kind.bias
    return None if name is None else module._parameters.get(name)


def channel_axis(module: nn.Module) -> int:
    """Axis of the output channels in the weight of a layer."""
    kind = kind_of(module)
    axis = 0 if kind is None else kind.channel_axis
    return axis if isinstance(axis, int) else axis(module)


def weight_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield ``(path, layer)`` of every layer of a known type, a shared layer once for each of its paths."""
    for path, layer in named_layers(module, remove_duplicate=False):
        if kind_of(layer) is not None:
            yield path, layer
