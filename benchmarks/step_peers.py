"""Fake quantization of weights by other packages, for comparison in :mod:`benchmarks.step_cost`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def inner_convolutions(network: nn.Module) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    """All convolutions but the first, with their parents: the layers that TernaryCallback makes ternary in ResNets."""
    found = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Conv2d)
    ]
    return found[1:]


def brevitas_ternary(network: nn.Module) -> nn.Module:
    """Brevitas's ternary weights, one constant scale per layer."""
    from brevitas.nn import QuantConv2d
    from brevitas.quant.ternary import SignedTernaryWeightPerTensorConst

    return _brevitas(network, QuantConv2d, SignedTernaryWeightPerTensorConst)


def brevitas_int8(network: nn.Module) -> nn.Module:
    """Brevitas's 8-bit weights, scale from the largest magnitude of the layer."""
    from brevitas.nn import QuantConv2d
    from brevitas.quant import Int8WeightPerTensorFloat

    return _brevitas(network, QuantConv2d, Int8WeightPerTensorFloat)


def _brevitas(network: nn.Module, layer_class: type, quantizer: type) -> nn.Module:
    for parent, name, layer in inner_convolutions(network):
        new = layer_class(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            bias=layer.bias is not None,
            weight_quant=quantizer,
        )
        new.weight.data.copy_(layer.weight.data)
        setattr(parent, name, new)
    return network


class _Reshaped(nn.Module):
    """Gives a quantizer for matrices the weight of a convolution."""

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, weight: Tensor) -> Tensor:
        """The quantized weight."""
        return self.quantizer(weight.flatten(1)).view_as(weight)


def torchao_int8(network: nn.Module) -> nn.Module:
    """Torchao's 8-bit weights, one scale per output channel."""
    from torch.nn.utils.parametrize import register_parametrization
    from torchao.quantization.qat import IntxFakeQuantizeConfig
    from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer

    for _, _, layer in inner_convolutions(network):
        config = IntxFakeQuantizeConfig(torch.int8, granularity="per_channel", is_symmetric=True)
        register_parametrization(layer, "weight", _Reshaped(IntxFakeQuantizer(config)), unsafe=True)
    return network


def torch_int8(network: nn.Module) -> nn.Module:
    """Torch's own fused fake quantization of 8-bit weights, one scale per layer."""
    from torch.ao.nn.qat import Conv2d
    from torch.ao.quantization import default_qat_qconfig

    for parent, name, layer in inner_convolutions(network):
        layer.qconfig = default_qat_qconfig  # type: ignore[assignment]
        setattr(parent, name, Conv2d.from_float(layer))
    return network


PEERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "brevitas ternary": brevitas_ternary,
    "brevitas int8": brevitas_int8,
    "torchao int8": torchao_int8,
    "torch.ao int8": torch_int8,
}
"""What turns a float network into a quantized one, by name; ImportError where the package is not installed."""
