"""Measures on the device which kernel and which knobs are best for every layer, and remembers that in a file."""

from tvm_schedules.tuner.database import Database, default_database
from tvm_schedules.tuner.search import Tuned, Tuning

__all__ = ["Database", "Tuned", "Tuning", "default_database"]
