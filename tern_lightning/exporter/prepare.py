"""A plain float copy of the user's module, and the ternary weights found in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tern_lightning.exporter.errors import ExportError
from tern_lightning.nn.activation_quantizer import remove_fake_quantizers
from tern_lightning.nn.copies import fix_normalized_weights, independent_copy
from tern_lightning.nn.layer_types import channel_axis, find_weight, weight_layers, weight_of
from tern_lightning.nn.learned_input import write_learned_inputs
from tern_lightning.nn.recurrent_weights import layer_at
from tern_lightning.nn.swap import make_plain
from tern_lightning.nn.ternary_layers import swapped_layers, ternary_layers
from tern_lightning.ternary_tensor import TernaryTensor

#: Fewest weights of an output channel for which equal values are evidence rather than chance.
MIN_FAN_IN = 3
#: Fewest weights of a layer that has one pair of levels.
MIN_WEIGHTS = 8
_NARROW = (torch.bfloat16, torch.float16)


def plain_copy(module: nn.Module, ternary: Mapping[str, TernaryTensor] | None = None) -> nn.Module:
    """Return an independent float32 copy on the CPU in evaluation mode, whose plain layers hold the ternary weights.

    Inputs with trained levels are rounded by the operators that the file shall have.

    Args:
        module: Any module; neither it nor its training flag is touched.
        ternary: Weights by layer path that replace those of the module.

    Raises:
        ExportError: The module cannot be copied, or ``ternary`` names a layer that it does not have or of another
            shape.
    """
    twin = reference_copy(module)
    write_learned_inputs(twin)
    weights = {path: layer.ternary() for path, layer in ternary_layers(module).items()} | dict(ternary or {})
    make_plain(twin)
    layers = dict(weight_layers(twin))
    for path, weight in weights.items():
        if path not in layers:
            raise ExportError(f"ternary names {path!r}, which is not a convolution or linear layer of the module")
        parameter = find_weight(layers[path])
        if parameter is None or tuple(parameter.shape) != weight.shape:
            shape = None if parameter is None else tuple(parameter.shape)
            raise ExportError(f"ternary[{path!r}] has shape {weight.shape}, the layer's weight {shape}")
        parameter.data = weight.dequantize().cpu()
    return twin


def reference_copy(module: nn.Module, quantized: bool = False) -> nn.Module:
    """Return an independent float32 copy on the CPU in evaluation mode.

    Args:
        module: Any module.
        quantized: Keep the fake quantization of activations, which is removed otherwise.

    Raises:
        ExportError: The module cannot be copied.
    """
    try:
        twin = independent_copy(module)
    except Exception as error:
        raise ExportError(
            f"cannot copy {type(module).__name__} for the export: {error}. Modules of your own must work with "
            "copy.deepcopy: make what they hold besides tensors and modules copyable, or leave it out before the export"
        ) from error
    if not quantized:
        remove_fake_quantizers(twin)
    # Levels are rounded as the module computes; a wider latent weight would have others, and other codes.
    narrow = {
        path: layer.ternary() for path, layer in ternary_layers(twin).items() if weight_of(layer).dtype in _NARROW
    }
    if narrow:
        make_plain(twin)
    twin = twin.to("cpu").float().eval()
    for path, weight in narrow.items():
        weight_of(layer_at(twin, path)).data = weight.dequantize().cpu()
    fix_normalized_weights(twin)
    return twin


def find_ternary(module: nn.Module, ternary: Mapping[str, TernaryTensor] | None = None) -> dict[str, TernaryTensor]:
    """Return the ternary weight of every layer that has one, by path.

    A layer is ternary when ``ternary`` has it, when a callback made it so (it has ``.ternary()``), or when its float
    weights are exactly ternary by value in every output channel. Values count only where they are evidence: at least
    ``MIN_FAN_IN`` weights a channel, or one pair of levels for at least ``MIN_WEIGHTS`` weights.
    """
    found = {path: layer.ternary() for path, layer in ternary_layers(module).items()} | dict(ternary or {})
    latent = {id(layer) for _, layer in swapped_layers(module)}
    for path, layer in weight_layers(module):
        if path not in found and id(layer) not in latent:
            own = find_weight(layer)
            weight = None if own is None else from_values(own, channel_axis(layer))
            if weight is not None:
                found[path] = weight
    return {path: _on_cpu(weight) for path, weight in found.items()}


def from_values(weight: Tensor, axis: int) -> TernaryTensor | None:
    """Recognize a weight that is exactly ternary by value, unless it is too small for that to mean anything."""
    found = TernaryTensor.from_values(weight.detach().cpu(), axis)
    if found is None:
        return None
    fan_in = weight.numel() // found.channels
    one_level = found.positive.shape[1] == 1
    return found if fan_in >= MIN_FAN_IN or (one_level and weight.numel() >= MIN_WEIGHTS) else None


def check_finite(module: nn.Module) -> None:
    """Raise ExportError naming the first tensors of ``module`` that hold NaN or infinity.

    Infinities are what masks of attention are made of: they are refused in what is trained or measured only.
    """
    measured = {
        f"{path}.{name}" if path else name
        for path, part in module.named_modules(remove_duplicate=False)
        if "running_var" in part._buffers
        for name in part._buffers
    }
    tensors = [*module.named_parameters(), *module.named_buffers(remove_duplicate=False)]
    strict = {name for name, _ in module.named_parameters()} | measured
    bad = [
        name
        for name, value in tensors
        if value.is_floating_point() and (value.isnan().any() or (name in strict and value.isinf().any()))
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ExportError(
            f"NaN or infinity in {', '.join(bad[:3])}{more}: training diverged or the checkpoint is damaged"
        )


def check_not_empty(ternary: Mapping[str, TernaryTensor]) -> None:
    """Raise ExportError naming the ternary layers that have only zeros."""
    empty = [path for path, weight in ternary.items() if not weight.codes.any()]
    if empty:
        raise ExportError(
            f"all weights of {', '.join(empty)} are zero: the layer computes nothing. Lower its sparsity or threshold, "
            "prune every layer by its share (PruningSchedule's scope='layer'), or allow it (allow_zero_layers=True, "
            "--allow-zero-layers)"
        )


def _on_cpu(weight: TernaryTensor) -> TernaryTensor:
    tensors = (weight.codes.cpu(), weight.positive.detach().cpu(), weight.negative.detach().cpu())
    return TernaryTensor(*tensors, channel_axis=weight.channel_axis)
