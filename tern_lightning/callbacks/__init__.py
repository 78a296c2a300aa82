"""Lightning callbacks for ternary networks, and the presets that build them."""

# The public names are in __init__.pyi.
from tern_lightning._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
