"""Measures on the device which kernel and which numbers are best for every layer, and remembers that in a file."""

from .database import Database, default_database
from .search import Tuned, Tuning

__all__ = ["Database", "Tuned", "Tuning", "default_database"]
