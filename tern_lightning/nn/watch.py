"""What a module was called with and what its layers gave, noted while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@dataclass
class Seen:
    """One stretch of watching.

    Attributes:
        calls: Arguments, keyword arguments and result of every call of the module, in order.
        outputs: What the chosen layers gave, call by call, by path.
    """

    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = field(default_factory=list)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


class Watch:
    """Notes calls of a module and outputs of its layers, in :meth:`watching` only.

    Args:
        module: The module.
        paths: Layers in it whose outputs are noted.

    Raises:
        AttributeError: There is no layer of such a path.
    """

    def __init__(self, module: nn.Module, paths: Sequence[str] = ()) -> None:
        self.seen: Seen | None = None
        layers = {path: module.get_submodule(path) for path in paths}
        self._handles: list[RemovableHandle] = [module.register_forward_hook(self._call, with_kwargs=True)]
        self._handles += [
            layer.register_forward_hook(lambda _module, _args, output, path=path: self._output(path, output))
            for path, layer in layers.items()
        ]

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Note what happens inside; calls without gradients are left out where gradients are on at its begin."""
        self.seen, self._with_gradients = Seen(), torch.is_grad_enabled()
        try:
            yield self.seen
        finally:
            self.seen = None

    def remove(self) -> None:
        """Take the hooks from the module."""
        for handle in self._handles:
            handle.remove()

    def _call(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.seen is not None and torch.is_grad_enabled() == self._with_gradients:
            self.seen.calls.append((args, kwargs, output))

    def _output(self, path: str, output: Any) -> None:
        if self.seen is not None and torch.is_grad_enabled() == self._with_gradients:
            self.seen.outputs.setdefault(path, []).append(output)
