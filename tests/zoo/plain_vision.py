"""Networks for pictures in plain torch: MLPerf Tiny, detection, segmentation, super-resolution, generators."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.models import CifarResNet
from tests.zoo.network import Example, Network, images, vectors


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU):
    """Convolution, batch normalization, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        act(),
    )


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    """MobileNets (Howard et al., 2017), figure 3."""
    return nn.Sequential(conv(inputs, inputs, 3, stride, inputs), conv(inputs, outputs, 1))


def classifier(body: Sequence[nn.Module], channels: int, classes: int) -> nn.Module:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet8() -> Example:
    """MLPerf Tiny, image classification: one block a stage."""
    return Example(CifarResNet(1), (images(3, 32),))


def mobilenet_v1() -> Example:
    """MLPerf Tiny, visual wake words: a quarter of the channels, 96x96."""
    plan = [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), *[(128, 128, 1)] * 5]
    plan += [(128, 256, 2), (256, 256, 1)]
    body = [conv(3, 8, 3, 2), *(separable(*one) for one in plan)]
    return Example(classifier(body, 256, 2), (images(3, 96),))


def ds_cnn() -> Example:
    """MLPerf Tiny, keyword spotting: 49 frames of 10 coefficients."""
    body = [nn.Conv2d(1, 64, (10, 4), 2, (5, 1)), nn.BatchNorm2d(64), nn.ReLU(), *(separable(64, 64) for _ in range(4))]
    return Example(classifier(body, 64, 12), (images(1, 49, 10),))


def autoencoder() -> Example:
    """MLPerf Tiny, anomaly detection."""
    sizes = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return Example(nn.Sequential(*layers, nn.Linear(128, 640)), (vectors(640),))


class ChannelShuffle(nn.Module):
    """A unit of ShuffleNet V2 (Ma et al., 2018), figure 3c."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.right = nn.Sequential(conv(half, half, 1), conv(half, half, 3, 1, half, nn.Identity), conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.right(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_net() -> Example:
    body = [conv(3, 32, 3, 2), *(ChannelShuffle(32) for _ in range(3)), conv(32, 64, 1), *(ChannelShuffle(64),)]
    return Example(classifier(body, 64, 10), (images(3, 64),))


class DenseLayer(nn.Module):
    """Densely Connected Convolutional Networks (Huang et al., 2017): norm, ReLU, convolution, joined to its input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def dense_net() -> Example:
    body = [nn.Conv2d(3, 16, 3, 2, 1), *(DenseLayer(16 + 12 * i, 12) for i in range(5)), nn.BatchNorm2d(76), nn.ReLU()]
    return Example(classifier(body, 76, 10), (images(3, 48),))


class SqueezeExcite(nn.Module):
    """Squeeze-and-Excitation Networks (Hu et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)
        self.down, self.up = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        return x + y * gate[:, :, None, None]


def senet() -> Example:
    return Example(classifier([conv(3, 32, 3, 2), *(SqueezeExcite(32) for _ in range(3))], 32, 10), (images(3, 64),))


class UNet(nn.Module):
    """Ronneberger et al., 2015: transposed convolutions on the way up, or interpolation."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        sizes = [16, 32, 64]
        self.down = nn.ModuleList(conv(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.middle = conv(64, 64)
        ups = [
            nn.ConvTranspose2d(c, c, 2, 2) if transposed else nn.Upsample(scale_factor=2, mode="bilinear")
            for c in sizes
        ]
        self.up = nn.ModuleList(ups)
        self.join = nn.ModuleList([conv(32, 16), conv(64, 16), conv(128, 32)])
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.down:
            x = layer(x)
            kept.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, join, skip in zip(reversed(self.up), reversed(self.join), reversed(kept), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.last(x)


class C2f(nn.Module):
    """The block of today's one-stage detectors: halves, bottlenecks of the second one, everything joined."""

    def __init__(self, channels: int, repeats: int, inputs: int | None = None, residual: bool = True) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.last = (
            conv(inputs or channels, channels, 1, act=nn.SiLU),
            conv(half * (2 + repeats), channels, 1, act=nn.SiLU),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(half, half, act=nn.SiLU), conv(half, half, act=nn.SiLU)) for _ in range(repeats)
        )
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]) if self.residual else block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class PyramidPooling(nn.Module):
    """Pooling three times, each result joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = (
            conv(channels, channels // 2, 1, act=nn.SiLU),
            conv(channels * 2, channels, 1, act=nn.SiLU),
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, 1, 2))
        return self.last(torch.cat(parts, 1))


class Detector(nn.Module):
    """A one-stage detector of the nano size: backbone, path aggregation, boxes as distributions of 16 bins."""

    def __init__(self, classes: int = 80, size: int = 320) -> None:
        super().__init__()
        a, b, c, d, e = 16, 32, 64, 128, 256

        def down(i: int, o: int) -> nn.Module:
            return conv(i, o, 3, 2, act=nn.SiLU)

        self.stem = nn.Sequential(down(3, a), down(a, b), C2f(b, 1), down(b, c), C2f(c, 2))
        self.middle, self.deep = (
            nn.Sequential(down(c, d), C2f(d, 2)),
            nn.Sequential(down(d, e), C2f(e, 1), PyramidPooling(e)),
        )
        self.up1, self.up2 = C2f(d, 1, e + d, False), C2f(c, 1, d + c, False)
        self.down1, self.down2 = down(c, c), down(d, d)
        self.join1, self.join2 = C2f(d, 1, c + d, False), C2f(e, 1, d + e, False)
        self.boxes = nn.ModuleList(self._head(n, 64, 64) for n in (c, d, e))
        self.kinds = nn.ModuleList(self._head(n, max(c, 80), classes) for n in (c, d, e))
        self.classes = classes
        anchors, strides = [], []
        for stride in (8, 16, 32):
            side = torch.arange(size // stride) + 0.5
            y, x = torch.meshgrid(side, side, indexing="ij")
            anchors.append(torch.stack([x, y]).flatten(1))
            strides.append(torch.full((anchors[-1].shape[1],), float(stride)))
        self.register_buffer("anchors", torch.cat(anchors, 1))
        self.register_buffer("strides", torch.cat(strides))
        self.register_buffer("bins", torch.arange(16.0).reshape(1, 16, 1, 1))

    @staticmethod
    def _head(inputs: int, hidden: int, outputs: int) -> nn.Module:
        parts = conv(inputs, hidden, act=nn.SiLU), conv(hidden, hidden, act=nn.SiLU), nn.Conv2d(hidden, outputs, 1)
        return nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        middle = self.middle(fine)
        deep = self.deep(middle)
        p4 = self.up1(torch.cat([F.interpolate(deep, scale_factor=2), middle], 1))
        p3 = self.up2(torch.cat([F.interpolate(p4, scale_factor=2), fine], 1))
        p4 = self.join1(torch.cat([self.down1(p3), p4], 1))
        p5 = self.join2(torch.cat([self.down2(p4), deep], 1))
        heads = [
            torch.cat([box(p), kind(p)], 1).flatten(2)
            for box, kind, p in zip(self.boxes, self.kinds, (p3, p4, p5), strict=True)
        ]
        box, kind = torch.cat(heads, 2).split([64, self.classes], 1)
        sides = (box.unflatten(1, (4, 16)).transpose(1, 2).softmax(1) * self.bins).sum(1)
        low, high = sides.chunk(2, 1)
        begin, end = self.anchors - low, self.anchors + high
        return torch.cat([torch.cat([(begin + end) / 2, end - begin], 1) * self.strides, kind.sigmoid()], 1)


class CenterHeads(nn.Module):
    """Objects as Points (Zhou et al., 2019): heat map, size and offset, peaks kept by pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(3, 24, 3, 2), conv(24, 32, 3, 2), conv(32, 48, 3, 2), nn.ConvTranspose2d(48, 32, 4, 2, 1)
        )
        self.heat, self.size, self.offset = (nn.Sequential(conv(32, 32), nn.Conv2d(32, n, 1)) for n in (5, 2, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self.body(x))
        heat = self.heat(x).sigmoid()
        return heat * (F.max_pool2d(heat, 3, 1, 1) == heat), self.size(x), self.offset(x)


class AnchorHead(nn.Module):
    """SSD (Liu et al., 2016): boxes of anchors decoded, scores of two scales joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(conv(3, 32, 3, 2), conv(32, 48, 3, 2)), conv(48, 64, 3, 2)
        self.boxes, self.kinds = (nn.ModuleList(nn.Conv2d(c, 6 * n, 3, padding=1) for c in (48, 64)) for n in (4, 7))
        self.register_buffer("anchors", torch.rand(6 * (16 * 16 + 8 * 8), 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = [self.first(x)]
        maps.append(self.second(maps[0]))

        def rows(heads: nn.ModuleList, width: int) -> Tensor:
            found = [
                head(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, width) for head, m in zip(heads, maps, strict=True)
            ]
            return torch.cat(found, 1)

        box = rows(self.boxes, 4)
        center = self.anchors[:, :2] + box[..., :2] * 0.1 * self.anchors[:, 2:]
        size = self.anchors[:, 2:] * torch.exp(box[..., 2:] * 0.2)
        return torch.cat([center - size / 2, center + size / 2], -1), rows(self.kinds, 7).softmax(-1)


def espcn() -> Example:
    """Super-resolution by sub-pixels (Shi et al., 2016)."""
    layers = nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()
    return Example(nn.Sequential(*layers, nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3)), (images(1, 32),))


class Edsr(nn.Module):
    """Enhanced residual blocks (Lim et al., 2017) without normalization, the input added in bicubic size."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 12, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(32), nn.Conv2d(32, 32, 3, padding=1))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        for block in self.blocks:
            y = y + 0.1 * block(y)
        large = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
        return F.pixel_shuffle(self.tail(y), 2) + large


def dcgan() -> Example:
    """The generator of Radford et al., 2016, 64x64."""
    layers: list[nn.Module] = [nn.Unflatten(1, (100, 1, 1))]
    for index, (a, b) in enumerate([(100, 256), (256, 128), (128, 64), (64, 32)]):
        layers += [
            nn.ConvTranspose2d(a, b, 4, *((1, 0) if index == 0 else (2, 1)), bias=False),
            nn.BatchNorm2d(b),
            nn.ReLU(),
        ]
    return Example(nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh()), (vectors(100),))


class Vae(nn.Module):
    """Auto-Encoding Variational Bayes (Kingma and Welling, 2014), the mean in place of a draw."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(1, 16, 3, 2), conv(16, 32, 3, 2), nn.Flatten(), nn.Linear(32 * 49, 40))
        self.decoder = nn.Sequential(
            nn.Linear(20, 32 * 49),
            nn.ReLU(),
            nn.Unflatten(1, (32, 7, 7)),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logarithm = self.encoder(x).chunk(2, 1)
        return self.decoder(mean), mean, logarithm


class StyleBlock(nn.Module):
    """Instance normalization and adaptive scales of a vector: style transfer (Huang and Belongie, 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv, self.last = (
            nn.Conv2d(3, 32, 9, padding=4),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.Conv2d(32, 3, 9, padding=4),
        )
        self.style = nn.Linear(16, 64)
        self.norm = nn.InstanceNorm2d(32)
        self.pad = nn.ReflectionPad2d(2)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, 1)
        y = F.relu(self.norm(self.first(self.pad(x))) * (1 + scale) + shift)
        return torch.tanh(self.last(F.relu(self.norm(self.conv(y)))))[:, :, 2:-2, 2:-2]


NETWORKS = {
    "resnet8": Network("MLPerf Tiny", resnet8),
    "mobilenet_v1_025": Network("MLPerf Tiny", mobilenet_v1),
    "ds_cnn": Network("MLPerf Tiny", ds_cnn),
    "autoencoder": Network("MLPerf Tiny", autoencoder),
    "shufflenet_units": Network("classification", shuffle_net),
    "densenet_block": Network("classification", dense_net),
    "senet_blocks": Network("classification", senet),
    "unet_transposed": Network("segmentation", lambda: Example(UNet(True), (images(3, 64),))),
    "unet_bilinear": Network("segmentation", lambda: Example(UNet(False), (images(3, 64),))),
    "detector_nano": Network("detection", lambda: Example(Detector(), (images(3, 320),)), aim=3.0),
    "center_heads": Network("detection", lambda: Example(CenterHeads(), (images(3, 64),))),
    "anchor_head": Network("detection", lambda: Example(AnchorHead(), (images(3, 64),))),
    "espcn": Network("super-resolution", espcn),
    "edsr": Network("super-resolution", lambda: Example(Edsr(), (images(3, 32),))),
    "dcgan": Network("generator", dcgan),
    "vae": Network("generator", lambda: Example(Vae(), (images(1, 28),))),
    "style_transfer": Network("generator", lambda: Example(StyleBlock(), (images(3, 48), vectors(16)))),
}
