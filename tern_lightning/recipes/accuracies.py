"""Accuracies that papers and their authors' code state, top-1 in per cent: what presets are held against."""

from __future__ import annotations

from tern_lightning.recipes.preset import Result

_TABLE = "table in the authors' code"


def _results(data: str, accuracies: dict[str, tuple[float, float]], where: str = _TABLE) -> tuple[Result, ...]:
    """Results by network: of the ternary one, of the float one."""
    return tuple(Result(name, data, reached, of, where=where) for name, (reached, of) in accuracies.items())


def _lost(data: str, points: dict[str, float]) -> tuple[Result, ...]:
    """Points lost by network, as an abstract has them."""
    return tuple(Result(name, data, lost=lost, where="abstract") for name, lost in points.items())


SWS_CIFAR10 = _results(
    "CIFAR-10",
    {
        "ResNet-20": (91.65, 91.70),
        "ResNet-32": (92.48, 92.36),
        "ResNet-44": (92.71, 92.47),
        "ResNet-56": (92.86, 92.68),
    },
)
SWS_IMAGENET = _results(
    "ImageNet",
    {
        "AlexNet": (57.21, 61.78),
        "ResNet-18": (66.01, 69.75),
        "ResNet-34": (70.95, 73.31),
        "ResNet-50": (74.00, 76.13),
    },
)
SWS_FLOAT_ENDS = _results("ImageNet", {"AlexNet": (58.59, 61.78)})
REL2 = _results("ImageNet", {"ResNet-18": (68.35, 69.75)})
REL4 = _results("ImageNet", {"ResNet-18": (69.44, 69.75)})
TGA = _lost("ImageNet", {"ResNet-18": 3.9, "ResNet-34": 2.52, "ResNet-50": 2.16})
TTQ = _lost("CIFAR-10", {"ResNet-32": -0.04, "ResNet-44": -0.16, "ResNet-56": -0.36})
EC2T_CIFAR10 = _results("CIFAR-10", {"ResNet-20": (91.01, 91.67)}, "the authors' table, 63.9 % zeros")
EC2T_CIFAR100 = _results("CIFAR-100", {"ResNet-44, scaled": (80.13, 81.47)}, "the authors' table, 90.5 % zeros")
EC2T_IMAGENET = _results("ImageNet", {"EfficientNet-B1": (75.05, 78.43)}, "the authors' table, with the pruning")
HALOC = (*_lost("CIFAR-10", {"ResNet-20": -0.07, "VGG-16": -0.38}), *_lost("ImageNet", {"ResNet-18": -0.9}))
