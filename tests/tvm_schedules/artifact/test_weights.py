"""The file of an artifact's arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tvm_schedules.artifact import weights
from tvm_schedules.errors import ArtifactError
from tvm_schedules.ir.plan import Constant, Span

DTYPES = st.sampled_from(["u1", "i1", "<u2", "<i4", "<f4", "<f8"])
ARRAYS = DTYPES.flatmap(lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0)))

RAW = Constant("raw", {"size": [1, 2]}, {"scale": "conv.scale"}, {"scale": Span(0, 4)})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), ARRAYS, max_size=6))
def test_arrays_come_back(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    weights.write(tmp_path / "weights.npz", arrays, [RAW])
    found, constants = weights.read(tmp_path / "weights.npz")
    assert constants == [RAW]
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "index", [[["a", "|O", [1]]], [["a", "<f4", [3]]], [["a", "<f4", [-1]]], [["a", "<f4", [1]]], [["a", "|S8", [1]]]]
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, index: list[Any]) -> None:
    text = np.frombuffer(json.dumps({"arrays": index, "constants": []}).encode(), np.uint8)
    np.savez(tmp_path / "weights.npz", index=text, data=np.zeros(8, np.uint8))
    with pytest.raises(ArtifactError, match="export it again"):
        weights.read(tmp_path / "weights.npz")
