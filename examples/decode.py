"""A language model that writes one token at a time: a compiled step, and a cache that stays in place.

The network is a small Llama (RMS normalization, rotary positions, grouped heads, a gated layer) with ternary weights.
It is trained on nothing, so what it writes means nothing; the compiled step writes what torch writes.

    python -m examples.decode --tokens 24
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tern_lightning as tl
import tvm_schedules
from tern_lightning.exporter import write_onnx
from tvm_schedules.runtime.stateful import Stateful


@dataclass(frozen=True)
class Sizes:
    """Of a network: ``length`` is how many tokens its cache has room for."""

    words: int = 96
    width: int = 64
    layers: int = 2
    heads: int = 4
    groups: int = 2
    length: int = 32

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


class Block(nn.Module):
    """Attention to what is in the cache, and a gated layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, narrow = sizes, sizes.groups * sizes.head
        self.before, self.between = nn.RMSNorm(sizes.width), nn.RMSNorm(sizes.width)
        self.query = nn.Linear(sizes.width, sizes.width, bias=False)
        self.key, self.value = (nn.Linear(sizes.width, narrow, bias=False) for _ in range(2))
        self.out = nn.Linear(sizes.width, sizes.width, bias=False)
        self.gate, self.up = (nn.Linear(sizes.width, 3 * sizes.width, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * sizes.width, sizes.width, bias=False)

    def forward(self, x: Tensor, place: Tensor, turn: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """A token ``x [1, width]`` at a place; the caches ``[1, groups, length, head]`` come back with it in them."""
        sizes, y = self.sizes, self.before(x)
        query = rotated(self.query(y).view(1, sizes.heads, 1, sizes.head), turn)
        key = rotated(self.key(y).view(1, sizes.groups, 1, sizes.head), turn)
        # This is what a compiled step does where the cache lies: one row is written, nothing else.
        keys = keys.index_copy(2, place, key)
        values = values.index_copy(2, place, self.value(y).view(1, sizes.groups, 1, sizes.head))
        seen = torch.arange(sizes.length) <= place
        query = query.view(1, sizes.groups, sizes.heads // sizes.groups, sizes.head)
        scores = query @ keys.transpose(2, 3) / sizes.head**0.5
        weights = scores.masked_fill(~seen, -1e4).softmax(-1)
        x = x + self.out((weights @ values).reshape(1, sizes.width))
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), keys, values


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Heads with the position in them, by rotations of pairs of their numbers."""
    first, second = x.chunk(2, -1)
    cosine, sine = turn.cos(), turn.sin()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class Decoder(nn.Module):
    """One step: the token at a place, and the caches of all layers; gives the next token's scores, and the caches."""

    def __init__(self, sizes: Sizes = Sizes()) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.words, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.last = nn.RMSNorm(sizes.width)
        self.head = nn.Linear(sizes.width, sizes.words, bias=False)

    def forward(self, token: Tensor, place: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """``token`` and ``place`` int64 ``[1]``; keys and values of every layer ``[1, groups, length, head]``."""
        half = self.sizes.head // 2
        turn = place * 10_000.0 ** (-torch.arange(half) / half)
        x, kept = self.words(token), []
        for block, keys, values in zip(self.blocks, caches[::2], caches[1::2], strict=True):
            x, keys, values = block(x, place, turn, keys, values)
            kept += [keys, values]
        return self.head(self.last(x)), *kept

    def empty(self) -> list[Tensor]:
        """Caches of nothing."""
        sizes = self.sizes
        return [torch.zeros(1, sizes.groups, sizes.length, sizes.head) for _ in range(2 * sizes.layers)]


def ternary_decoder(sizes: Sizes = Sizes(), seed: int = 0) -> Decoder:
    """A network whose linear layers are ternary, apart from the last one."""
    torch.manual_seed(seed)
    net = Decoder(sizes)
    tl.ternarize(net, rules=[tl.Rule("head", None), tl.Rule("*", "absmean")])
    return net.eval()


def compiled(net: Decoder, folder: Path) -> Stateful:
    """The step as a library, whose caches stay in it from call to call."""
    model = write_onnx(net, (torch.tensor([3]), torch.tensor([1]), *net.empty())).model
    step = tvm_schedules.build(model, folder).load()
    caches = [entry["name"] for entry in step.inputs[2:]]
    return step.stateful(dict(zip([entry["name"] for entry in step.outputs[1:]], caches, strict=True)))


def write(step: Stateful, prompt: Sequence[int], count: int) -> list[int]:
    """The most likely tokens after a prompt."""
    step.reset()
    tokens = list(prompt)
    for place in range(len(prompt) + count - 1):
        scores = step(np.array([tokens[place]]), np.array([place]))
        if place + 1 == len(tokens):
            tokens.append(int(scores.argmax()))
    return tokens


def main() -> None:
    """Writes some tokens with a compiled step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=24, help="how many to write")
    count = parser.parse_args().tokens
    net = ternary_decoder(Sizes(length=count + 8))
    with TemporaryDirectory() as folder:
        step = compiled(net, Path(folder) / "step")
        print(f"in place: {', '.join(step.in_place)}")
        print(*write(step, [5, 17, 2], count))


if __name__ == "__main__":
    main()
