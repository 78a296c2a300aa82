"""Well-known networks in plain PyTorch, to train, to export and to measure.

The CIFAR ResNets follow "Deep Residual Learning for Image Recognition" (He et al., 2016), section 4.2, with the
shortcut without parameters (option A). ResNet-18 and MobileNetV2 have torchvision's parameter names, so that its
checkpoints load.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution with "same" padding and without bias, and its batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class SubsampledShortcut(nn.Module):
    """Option A of He et al.: every second pixel, new channels are zero. No parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` -> ``[N, C + channels, ceil(H / 2), ceil(W / 2)]``."""
        front = self.channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, front, self.channels - front))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, outputs, 3, stride)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv_bn(outputs, outputs)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` -> ``[N, outputs, H / stride, W / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """ResNet for 32x32 images, ``6 * blocks + 2`` layers: 3 -> 5 -> 7 -> 9 blocks are ResNet-20, 32, 44 and 56.

    Args:
        blocks: Residual blocks in each of the three stages.
        classes: Number of classes.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        initialise(self)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        grows = inputs != outputs
        first = BasicBlock(inputs, outputs, 2 if grows else 1, SubsampledShortcut(outputs - inputs) if grows else None)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, None) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, 32, 32]`` -> logits ``[N, classes]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def resnet20(classes: int = 10) -> CifarResNet:
    """ResNet-20 for CIFAR."""
    return CifarResNet(3, classes)


def resnet32(classes: int = 10) -> CifarResNet:
    """ResNet-32 for CIFAR."""
    return CifarResNet(5, classes)


def resnet44(classes: int = 10) -> CifarResNet:
    """ResNet-44 for CIFAR."""
    return CifarResNet(7, classes)


def resnet56(classes: int = 10) -> CifarResNet:
    """ResNet-56 for CIFAR."""
    return CifarResNet(9, classes)


class ResNet18(nn.Module):
    """ResNet-18 for ImageNet (He et al., 2016, table 1), with torchvision's names.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 64, 7, 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(64, 64, 1)
        self.layer2 = self._stage(64, 128, 2)
        self.layer3 = self._stage(128, 256, 2)
        self.layer4 = self._stage(256, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512, num_classes)
        initialise(self)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        shortcut = nn.Sequential(*conv_bn(inputs, outputs, 1, stride)) if stride != 1 else None
        return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs, 1, None))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, 224, 224]`` -> logits ``[N, num_classes]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection: "MobileNetV2" (Sandler et al., 2018), figure 4."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(nn.Sequential(*conv_bn(inputs, hidden, 1), nn.ReLU6(inplace=True)))
        layers.append(nn.Sequential(*conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True)))
        self.conv = nn.Sequential(*layers, *conv_bn(hidden, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` -> ``[N, outputs, H / stride, W / stride]``."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 for ImageNet (Sandler et al., 2018, table 2), with torchvision's names.

    Args:
        num_classes: Number of classes.
    """

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        features: list[nn.Module] = [nn.Sequential(*conv_bn(3, 32, 3, 2), nn.ReLU6(inplace=True))]
        channels = 32
        for expansion, outputs, repeats, stride in self.STAGES:
            for index in range(repeats):
                features.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expansion))
                channels = outputs
        features.append(nn.Sequential(*conv_bn(channels, 1280, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, 224, 224]`` -> logits ``[N, num_classes]``."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class MLP(nn.Module):
    """784-1024-1024-10 with batch normalisation and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (784, 1024):
            layers += [nn.Linear(inputs, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(1024, 10))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels ``[N, 784]`` -> logits ``[N, 10]``."""
        return self.layers(x)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32)),
    "resnet32": (resnet32, (3, 32, 32)),
    "resnet44": (resnet44, (3, 32, 32)),
    "resnet56": (resnet56, (3, 32, 32)),
    "resnet18": (ResNet18, (3, 224, 224)),
    "mobilenetv2": (MobileNetV2, (3, 224, 224)),
    "mlp": (MLP, (784,)),
}
"""Constructor and shape of one input of every network, by name."""


def initialise(model: nn.Module) -> None:
    """Weights as in "Delving Deep into Rectifiers" (He et al., 2015), eq. 10; normalisation starts as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def random_inputs(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """Random inputs ``[count, *shape]`` that differ from one another more than noise does: patches of several sizes.

    The average over its pixels is nearly the same for every image of independent pixels, and so is what a network with
    average pooling says about it.
    """
    random = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        return torch.randn(count, *shape, generator=random)
    total = torch.zeros(count, *shape)
    for cells in (1, 2, 4, 8, 32):
        coarse = torch.randn(count, shape[0], min(cells, shape[1]), min(cells, shape[2]), generator=random)
        total += F.interpolate(coarse, size=shape[1:], mode="nearest")
    return total / math.sqrt(5)


@torch.no_grad()
def randomly_ternary(model: nn.Module, shape: tuple[int, ...], zeros: float = 0.8, seed: int = 0) -> nn.Module:
    """Give a network random weights that are ternary by value, for benchmarks and tests without training.

    The first layer, the last one and depthwise convolutions keep dense weights. What training would give is imitated on
    :func:`random_inputs`, so that the network tells inputs apart and does not amplify roundings until nothing else is
    left (a deep random one does, MobileNetV2 by a factor of several hundred): statistics of normalisation are
    estimated, most normalised values pass ReLU, residual branches are damped, and the last layer looks at the four
    directions in which its inputs differ most.

    Args:
        model: The network; it is changed.
        shape: Shape of one input, without the batch.
        zeros: Fraction of zero weights, in [0, 1).
        seed: Of weights and inputs.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: ``zeros`` is out of range.
    """
    if not 0 <= zeros < 1:
        raise ValueError(f"zeros must be in [0, 1), got {zeros}")
    random = torch.Generator().manual_seed(seed)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        weight, channels = layer.weight, layer.weight.shape[0]
        deviation = math.sqrt(2 / weight[0].numel())
        if layer in (layers[0], layers[-1]) or weight.shape[1] == 1:
            weight.copy_(deviation * torch.randn(weight.shape, generator=random))
            continue
        codes = (torch.rand(weight.shape, generator=random) >= zeros) * torch.randn(
            weight.shape, generator=random
        ).sign()
        spread = 0.75 + 0.5 * torch.rand(channels, generator=random)
        levels = spread * deviation / math.sqrt(1 - zeros)
        weight.copy_(codes * levels.reshape(-1, *[1] * (weight.ndim - 1)))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        nn.init.constant_(norm.bias, 1.5)
        norm.momentum = None
    for block in model.modules():
        if isinstance(block, BasicBlock | InvertedResidual):
            last = block.bn2 if isinstance(block, BasicBlock) else block.conv[-1]
            nn.init.constant_(last.get_parameter("weight"), 0.3)
    inputs = random_inputs(shape, 32, seed + 1)
    model.train()(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    features: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda _, args: features.append(args[0]))
    model.eval()(inputs)
    hook.remove()
    centre = features[0].mean(0)
    _, strengths, directions = torch.linalg.svd(features[0] - centre, full_matrices=False)
    rows = torch.randn(len(layers[-1].weight), 4, generator=random) / strengths[0] * math.sqrt(len(inputs))
    layers[-1].weight.copy_(rows @ directions[:4])
    nn.init.zeros_(layers[-1].get_parameter("bias")).sub_(layers[-1].weight @ centre)
    return model
