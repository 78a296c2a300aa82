"""Well-known networks in plain PyTorch, to train, to export and to measure.

The CIFAR ResNets follow "Deep Residual Learning for Image Recognition" (He et al., 2016), section 4.2, with the
shortcut without parameters (option A). ResNet-18 and MobileNetV2 have torchvision's parameter names, so that its
checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution with "same" padding and without bias, and its batch normalization."""
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
        width: Channels of the first stage; the others have two and four times as many.
        stride: Of the first convolution; 2 makes everything after it four times cheaper.
        inputs: Channels of an image.
    """

    def __init__(self, blocks: int, classes: int = 10, width: int = 16, stride: int = 1, inputs: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, width, 3, stride)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(width, width, blocks)
        self.layer2 = self._stage(width, 2 * width, blocks)
        self.layer3 = self._stage(2 * width, 4 * width, blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)
        initialize(self)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        grows = inputs != outputs
        first = BasicBlock(inputs, outputs, 2 if grows else 1, SubsampledShortcut(outputs - inputs) if grows else None)
        return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, None) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, inputs, H, W]``, 32x32 or about so large -> logits ``[N, classes]``."""
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
        initialize(self)

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
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, 224, 224]`` -> logits ``[N, num_classes]``."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class SmallMobileNet(nn.Module):
    """Inverted residuals for images of about 32x32: MobileNetV2's blocks, 96 k parameters.

    Args:
        classes: Number of classes.
        inputs: Channels of an image.
    """

    STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 64, 2, 1))

    def __init__(self, classes: int = 10, inputs: int = 3) -> None:
        super().__init__()
        features: list[nn.Module] = [nn.Sequential(*conv_bn(inputs, 16, 3, 1), nn.ReLU6(inplace=True))]
        channels = 16
        for expansion, outputs, repeats, stride in self.STAGES:
            for index in range(repeats):
                features.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expansion))
                channels = outputs
        features.append(nn.Sequential(*conv_bn(channels, 256, 1), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(256, classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, inputs, H, W]`` -> logits ``[N, classes]``."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class MLP(nn.Module):
    """784-1024-1024-10 with batch normalization and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (784, 1024):
            layers += [nn.Linear(inputs, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(1024, 10))
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels ``[N, 784]`` -> logits ``[N, 10]``."""
        return self.layers(x)


class Transformer(nn.Module):
    """Three encoder layers of width 512 with 8 heads (Vaswani et al., 2017, table 3, half of the base model's encoder).

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Embedded tokens ``[N, length, 512]`` -> logits ``[N, classes]``."""
        return self.head(self.encoder(x).mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (3, 32, 32)),
    "resnet32": (resnet32, (3, 32, 32)),
    "resnet44": (resnet44, (3, 32, 32)),
    "resnet56": (resnet56, (3, 32, 32)),
    "resnet18": (ResNet18, (3, 224, 224)),
    "mobilenetv2": (MobileNetV2, (3, 224, 224)),
    "mlp": (MLP, (784,)),
    "transformer": (Transformer, (128, 512)),
}
"""Constructor and shape of one input of every network, by name."""


def initialize(model: nn.Module) -> None:
    """Weights as in "Delving Deep into Rectifiers" (He et al., 2015), eq. 10; normalization starts as the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
