"""From a trained module to standard ONNX with two-bit ternary weights, and on to a library on disk."""

# The public names are in __init__.pyi.
from tern_lightning._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
