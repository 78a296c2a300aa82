"""Networks for sound, text, points and graphs in plain torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.network import Example, Network, images, tokens, vectors, waves


def m5() -> Example:
    """Dai et al., 2017: convolutions over raw sound."""
    layers: list[nn.Module] = []
    for a, b, kernel, stride in [(1, 32, 80, 16), (32, 32, 3, 1), (32, 64, 3, 1), (64, 64, 3, 1)]:
        layers += [nn.Conv1d(a, b, kernel, stride), nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(4)]
    layers += [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 35), nn.LogSoftmax(1)]
    return Example(nn.Sequential(*layers), (waves(1, 8000),))


class TemporalBlock(nn.Module):
    """TC-ResNet (Choi et al., 2019): frequencies are channels, 9 taps over time."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv1d(inputs, outputs, 9, 2, 4, bias=False),
            nn.Conv1d(outputs, outputs, 9, 1, 4, bias=False),
        )
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm1d(outputs) for _ in range(3))
        self.short = nn.Conv1d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + F.relu(self.norm3(self.short(x))))


def tc_resnet8() -> Example:
    blocks = [TemporalBlock(16, 24), TemporalBlock(24, 32), TemporalBlock(32, 48)]
    body = [
        nn.Conv1d(40, 16, 3, padding=1, bias=False),
        *blocks,
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(48, 12),
    ]
    return Example(nn.Sequential(*body), (waves(40, 98),))


class WaveBlock(nn.Module):
    """WaveNet (van den Oord et al., 2016): dilated causal convolution, gate, residual and skip."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv, self.out = (
            nn.Conv1d(channels, 2 * channels, 2, dilation=dilation),
            nn.Conv1d(channels, 2 * channels, 1),
        )
        self.dilation = dilation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.conv(F.pad(x, (self.dilation, 0))).chunk(2, 1)
        residual, skip = self.out(torch.tanh(value) * torch.sigmoid(gate)).chunk(2, 1)
        return x + residual, skip


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 32, 1), nn.Conv1d(32, 64, 1)
        self.blocks = nn.ModuleList(WaveBlock(32, 2**i) for i in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total = torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.last(F.relu(total))


class ConformerBlock(nn.Module):
    """Gulati et al., 2020, figure 1: half feed-forward, attention, convolution, half feed-forward."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)) for _ in range(2)
        )
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.gated, self.depth, self.out = (
            nn.Conv1d(width, 2 * width, 1),
            nn.Conv1d(width, width, 15, padding=7, groups=width),
            nn.Conv1d(width, width, 1),
        )
        self.batch = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed[0](self.norms[0](x))
        y = self.norms[1](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.gated(self.norms[2](x).transpose(1, 2)), 1)
        x = x + self.out(F.silu(self.batch(self.depth(y)))).transpose(1, 2)
        return self.norms[4](x + 0.5 * self.feed[1](self.norms[3](x)))


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.join = nn.Linear(16 * 20, 64)
        self.blocks, self.last = nn.Sequential(ConformerBlock(64), ConformerBlock(64)), nn.Linear(64, 30)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x[:, None])
        return self.last(self.blocks(self.join(x.transpose(1, 2).flatten(2)))).log_softmax(-1)


class TextCnn(nn.Module):
    """Kim, 2014: kernels of three widths over embeddings, the largest value of each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(500, 64), nn.Linear(96, 4)
        self.convs = nn.ModuleList(nn.Conv1d(64, 32, k) for k in (3, 4, 5))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)
        return self.last(torch.cat([F.relu(conv(x)).amax(2) for conv in self.convs], 1))


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, its last step classified."""

    def __init__(self, kind: type[nn.Module], **options: object) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(100, 32), kind(32, 48, batch_first=True, **options)
        self.last = nn.Linear(48 * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.layer(self.embed(ids))[0][:, -1])


class UnrolledCell(nn.Module):
    """A cell called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTMCell(24, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.last(state[0])


class StreamingGru(nn.Module):
    """One step with the state as input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(40, 48), nn.GRU(48, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, new = self.layer(F.relu(self.first(x)), state.transpose(0, 1))
        return self.last(y), new.transpose(0, 1)


class Translator(nn.Module):
    """torch.nn.Transformer with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(60, 32), nn.Embedding(60, 32)
        self.body = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.last = nn.Linear(32, 60)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(10))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.last(self.body(self.source(source), self.target(target), tgt_mask=self.mask, tgt_is_causal=True))


class Encoder(nn.Module):
    """torch.nn.TransformerEncoder over patches."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 8, 8)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first, activation="gelu")
        self.body, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.first(x).flatten(2).transpose(1, 2)).mean(1))


class Mixer(nn.Module):
    """MLP-Mixer (Tolstikhin et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 48, 8, 8), nn.Linear(48, 10)
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(4))
        self.spots, self.channels = (
            nn.ModuleList(nn.Sequential(nn.Linear(n, h), nn.GELU(), nn.Linear(h, n)) for _ in range(2))
            for n, h in ((36, 64), (48, 96))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).flatten(2).transpose(1, 2)
        for index in range(2):
            x = x + self.spots[index](self.norms[2 * index](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[index](self.norms[2 * index + 1](x))
        return self.last(x.mean(1))


class RmsNorm(nn.Module):
    """As language models of today write it out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class DecodeLayer(nn.Module):
    """A layer of a language model at one token: rotary positions, a cache of keys and values, a gated product."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.depth = heads, width // heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up, self.down = (
            nn.Linear(width, hidden, bias=False),
            nn.Linear(width, hidden, bias=False),
            nn.Linear(hidden, width, bias=False),
        )
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)

    def forward(self, x: Tensor, cache: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` [1, 1, width], ``cache`` [1, 2, heads, steps, depth], ``angle`` [1, depth / 2]."""
        y = self.norm1(x)
        q, k, v = (layer(y).view(1, 1, self.heads, self.depth).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self._turn(q, angle), self._turn(k, angle)
        keys, values = torch.cat([cache[:, 0], k], 2)[:, :, 1:], torch.cat([cache[:, 1], v], 2)[:, :, 1:]
        weights = (q @ keys.transpose(-1, -2) / math.sqrt(self.depth)).softmax(-1)
        x = x + self.o((weights @ values).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), torch.stack([keys, values], 1)

    @staticmethod
    def _turn(x: Tensor, angle: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


class DecodeStep(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(1000, width), nn.Linear(width, 1000, bias=False)
        self.layers = nn.ModuleList(DecodeLayer(width, heads, hidden) for _ in range(layers))
        self.norm = RmsNorm(width)

    def forward(self, token: Tensor, angle: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        x, kept = self.embed(token), []
        for index, layer in enumerate(self.layers):
            x, new = layer(x, cache[:, index], angle)
            kept.append(new)
        return self.last(self.norm(x)), torch.stack(kept, 1)


class PointNet(nn.Module):
    """Qi et al., 2017: a transform that the points give, shared layers, the largest value over the points."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU())
        self.matrix = nn.Linear(64, 9)
        self.body = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 128, 1), nn.ReLU())
        self.last = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, points: Tensor) -> Tensor:
        matrix = self.matrix(self.turn(points).amax(2)).view(-1, 3, 3) + torch.eye(3)
        return self.last(self.body(matrix @ points).amax(2))


class GraphConv(nn.Module):
    """Kipf and Welling, 2017, on a graph that is known: messages added up where their edges end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("edges", torch.randint(0, 30, (2, 90), generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges[0], self.edges[1]
        for layer in (self.first, self.second):
            messages = layer(x)[source]
            x = F.relu(torch.zeros(x.shape[0], messages.shape[1]).index_add(0, target, messages))
        return self.last(x)


class Assigning(nn.Module):
    """Writes into slices of a tensor, as moving averages and position codes do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = torch.zeros_like(y)
        z[:, 1:] = self.middle(F.relu(y))[:, :-1]
        z[:, 0] = y[:, 0]
        return self.last(z)


class Queries(nn.Module):
    """DETR (Carion et al., 2020): learned queries, a position code from a convolution of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.place = nn.Conv2d(3, 32, 8, 8), nn.Conv2d(2, 32, 1)
        self.query = nn.Embedding(6, 32)
        layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
        self.decoder, self.kinds, self.boxes = nn.TransformerDecoder(layer, 2), nn.Linear(32, 5), nn.Linear(32, 4)
        side = torch.linspace(-1, 1, 6)
        self.register_buffer("grid", torch.stack(torch.meshgrid(side, side, indexing="ij"))[None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = (self.body(x) + self.place(self.grid)).flatten(2).transpose(1, 2)
        found = self.decoder(self.query.weight.expand(x.shape[0], -1, -1), memory)
        return self.kinds(found), self.boxes(found).sigmoid()


def decode_step(layers: int, width: int, hidden: int, steps: int) -> Example:
    heads = 4
    cache = 0.5 * vectors(layers, 2, heads, steps, width // heads)
    angles = torch.rand(len(cache), width // heads // 2) * 3
    return Example(DecodeStep(layers, width, heads, hidden), (tokens(1000, 1), angles, cache))


NETWORKS = {
    "m5": Network("sound", m5),
    "tc_resnet8": Network("sound", tc_resnet8),
    "wavenet": Network("sound", lambda: Example(WaveNet(), (waves(1, 256),))),
    "conformer": Network("sound", lambda: Example(Conformer(), (waves(64, 80),))),
    "text_cnn": Network("text", lambda: Example(TextCnn(), (tokens(500, 40),))),
    "lstm": Network("recurrent", lambda: Example(Recurrent(nn.LSTM), (tokens(100, 20),))),
    "lstm_two_layers": Network("recurrent", lambda: Example(Recurrent(nn.LSTM, num_layers=2), (tokens(100, 12),))),
    "gru_both_ways": Network("recurrent", lambda: Example(Recurrent(nn.GRU, bidirectional=True), (tokens(100, 20),))),
    "rnn": Network("recurrent", lambda: Example(Recurrent(nn.RNN), (tokens(100, 20),))),
    "lstm_cell": Network("recurrent", lambda: Example(UnrolledCell(), (vectors(8, 24),))),
    "gru_streaming": Network("recurrent", lambda: Example(StreamingGru(), (vectors(1, 40), vectors(1, 48)))),
    "nn_transformer": Network("transformer", lambda: Example(Translator(), (tokens(60, 12), tokens(60, 10)))),
    "encoder_post_norm": Network("transformer", lambda: Example(Encoder(False), (images(3, 48),))),
    "encoder_pre_norm": Network("transformer", lambda: Example(Encoder(True), (images(3, 48),))),
    "mlp_mixer": Network("transformer", lambda: Example(Mixer(), (images(3, 48),))),
    "decode_step": Network("language", lambda: decode_step(4, 256, 688, 128), aim=2.5),
    "decode_step_small": Network("language", lambda: decode_step(1, 64, 128, 16)),
    "learned_queries": Network("detection", lambda: Example(Queries(), (images(3, 48),))),
    "pointnet": Network("points", lambda: Example(PointNet(), (vectors(3, 128),))),
    "gcn_index_add": Network("graph", lambda: Example(GraphConv(), (torch.randn(30, 16),), None)),
    "slice_assignment": Network("graph", lambda: Example(Assigning(), (vectors(6, 8),))),
}
