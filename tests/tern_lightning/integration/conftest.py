"""Speed of the tests that export."""

from tests.tern_lightning.exporter.conftest import _one_operator_table

__all__ = ["_one_operator_table"]
