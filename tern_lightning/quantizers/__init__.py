"""Ternary quantizers as modules, found by name. Every module of this package is imported and registers its method."""

import importlib
import pkgutil

from tern_lightning.quantizers.base import Quantizer, get_quantizer, quantizer_names, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Quantizer", "get_quantizer", "quantizer_names", "register"]
