"""Sparse ternary neural networks: training in PyTorch Lightning, export to ONNX and to device libraries."""

# The public names are in __init__.pyi.
from tern_lightning._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
