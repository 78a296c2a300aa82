"""How the gallery of tutorials is made: the order of its scripts, and what their output leaves out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

ORDER = [
    "ternary_digits.py",
    "prune.py",
    "activations.py",
    "groups.py",
    "budgets.py",
    "distillation.py",
    "post_training.py",
    "transformer.py",
    "your_module.py",
    "fashion_mnist.py",
    "plain_pytorch.py",
    "export_and_inspect.py",
    "raspberry_pi.py",
    "jetson.py",
    "cortex_m.py",
    "opencl.py",
]


NOISY = (
    "lightning", "lightning.pytorch", "lightning.fabric", "onnxscript", "onnx_ir", "tern_lightning", "tvm_schedules",
)  # fmt: skip
"""Loggers whose messages are about no tutorial."""


class Order:
    """Sorts the scripts of a folder as :data:`ORDER`; others come after them by name."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self, name: str) -> tuple[int, str]:
        """The key of a script."""
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def quiet(settings: dict[str, Any], script: str) -> None:
    """Leave out what Lightning and the exporter say about devices and passes: no tutorial is about that."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
