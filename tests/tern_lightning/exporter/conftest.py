"""Speed of the export tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_operator_table() -> Iterator[None]:
    """Let torch.onnx read its operator library once and not at every export: most of the time of a small export."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        original = ONNXRegistry.__dict__["from_torchlib"]
    except (ImportError, KeyError):  # another torch: only slower
        yield
        return
    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    yield
    ONNXRegistry.from_torchlib = original
