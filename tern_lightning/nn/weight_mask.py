"""Which weights of a layer are pruned: one mask for every callback, quantizer, metric and report.

A mask belongs to a layer without being a parameter or a buffer, so that optimizers, averaged copies and checkpoints see
the model that they know. Layers that share a weight, and averaged copies of a layer, share the mask.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tern_lightning.functional.blocks import pieces, scratch
from tern_lightning.nn.layer_types import find_weight, weight_of
from tern_lightning.nn.recurrent_weights import named_layers
from tern_lightning.products import as_factor

MASK_ATTRIBUTE = "_weight_mask"


class WeightMask:
    """The weights that are kept: those that every owner keeps.

    An owner's part is bool, or int8 for weights of several ternary terms: how many terms, counted from the first, a
    weight may have.

    Example:
        >>> import torch
        >>> mask = WeightMask()
        >>> mask.set("a", torch.tensor([True, True, False]))
        >>> mask.set("b", torch.tensor([True, False, True]))
        >>> mask.keep
        tensor([ True, False, False])
        >>> mask.set("a", None)
        >>> mask.keep
        tensor([ True, False,  True])
    """

    def __init__(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._keep: Tensor | None = None
        self._limit: Tensor | None = None

    @property
    def keep(self) -> Tensor | None:
        """bool, the weight's shape, True where a weight is kept; None where nothing is pruned."""
        return self._keep

    @property
    def limit(self) -> Tensor | None:
        """int8, the weight's shape, the largest number of terms of every weight; None where no owner limits it."""
        return self._limit

    def part(self, owner: str) -> Tensor | None:
        """The weights that ``owner`` keeps, or None where it has no part."""
        return self._parts.get(owner)

    def set(self, owner: str, keep: Tensor | None) -> None:
        """Replace the part of ``owner``; None takes it away.

        Raises:
            TypeError: ``keep`` is neither bool nor int8.
            ValueError: Another owner's part has another shape.
        """
        self._parts.pop(owner, None)
        if keep is not None:
            if keep.dtype not in (torch.bool, torch.int8):
                raise TypeError(f"keep must be bool or int8, got {keep.dtype}")
            for other, part in self._parts.items():
                if part.shape != keep.shape:
                    shapes = f"{tuple(keep.shape)}, that of {other!r} has {tuple(part.shape)}"
                    raise ValueError(f"all parts of a mask must have the weight's shape, got {shapes}")
            self._parts[owner] = keep.detach().clone()
        self._join()

    def on(self, device: torch.device) -> Tensor | None:
        """``keep`` on a device, to which the mask moves."""
        if self._keep is not None and self._keep.device != device:
            self._parts = {owner: part.to(device) for owner, part in self._parts.items()}
            self._join()
        return self._keep

    def _join(self) -> None:
        self._keep = self._limit = None
        for part in self._parts.values():
            here = part != 0
            self._keep = here if self._keep is None else self._keep & here.to(self._keep.device)
            if part.dtype == torch.int8:
                self._limit = part if self._limit is None else torch.minimum(self._limit, part.to(self._limit.device))


def weight_mask(layer: nn.Module) -> WeightMask:
    """The mask of a layer; a layer that has none gets one that keeps everything."""
    if MASK_ATTRIBUTE not in layer.__dict__:
        layer.__dict__[MASK_ATTRIBUTE] = WeightMask()
    found: WeightMask = layer.__dict__[MASK_ATTRIBUTE]
    return found


def share_mask(mask: WeightMask, layers: Iterable[nn.Module]) -> None:
    """Give layers that share a weight, and averaged copies of them, one mask."""
    for layer in layers:
        layer.__dict__[MASK_ATTRIBUTE] = mask


def mask_of(layer: nn.Module) -> Tensor | None:
    """The weights that are kept, on the weight's device, or None where nothing is pruned."""
    mask: WeightMask | None = layer.__dict__.get(MASK_ATTRIBUTE)
    if mask is None:
        return None
    weight = find_weight(layer)
    return mask.keep if weight is None else mask.on(weight.device)


def masks(module: nn.Module) -> dict[str, Tensor]:
    """The masks of all layers that have pruned weights, by module path."""
    found = ((path, mask_of(layer)) for path, layer in named_layers(module))
    return {path: keep for path, keep in found if keep is not None}


@torch.no_grad()
def clear(tensor: Tensor, keep: Tensor) -> None:
    """Set what is not kept of a tensor to zero: as a product, because ``masked_fill_`` takes ten times as long."""
    for block, flags in pieces(tensor, keep):
        block.mul_(scratch(block).copy_(as_factor(flags)))


@torch.no_grad()
def apply_mask(layer: nn.Module) -> None:
    """Set the pruned weights of a layer to zero."""
    keep, weight = mask_of(layer), find_weight(layer)
    if keep is not None and weight is not None:
        clear(weight, keep)


def prune(layer: nn.Module, keep: Tensor | None, owner: str = "user") -> None:
    """Set what ``owner`` keeps of a layer's weight, and the pruned weights to zero.

    Args:
        layer: A layer with a weight.
        keep: bool, the weight's shape, True where a weight is kept, or int8, how many ternary terms it may have; None
            takes the owner's part away (weights that were pruned stay zero until they are trained).
        owner: Who decides; a weight is kept where every owner keeps it.

    Raises:
        ValueError: ``keep`` does not have the weight's shape.
    """
    weight = weight_of(layer)
    if keep is not None and keep.shape != weight.shape:
        raise ValueError(f"keep must have the weight's shape {tuple(weight.shape)}, got {tuple(keep.shape)}")
    weight_mask(layer).set(owner, None if keep is None else keep.to(weight.device))
    apply_mask(layer)
