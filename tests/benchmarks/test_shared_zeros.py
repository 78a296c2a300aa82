"""The benchmark of shared zeros: its networks are what it says, and every kernel is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.low_bit import Layer
from benchmarks.measured_pages import shared_zeros
from benchmarks.shared_zeros import codes, main, ternary_network
from tests.tvm_schedules.nets import Runner

LAYER = Layer(5, 4, 8, 3)


@pytest.mark.parametrize("group", [1, 2, 4])
def test_zeros_are_where_channels_share_them(group: int) -> None:
    found = codes(Layer(64, 4, 64, 3), 0.8, group, np.random.default_rng(0))[0]
    assert 1 - np.count_nonzero(found) / found.size == pytest.approx(0.8, abs=0.02)
    groups = found.reshape(-1, group, *found.shape[1:]) != 0
    assert (groups.any(1) == groups.all(1)).all()
    if group == 1:
        pairs = found.reshape(-1, 2, *found.shape[1:]) != 0
        assert (pairs.any(1) != pairs.all(1)).any()


def test_the_network_of_floats_is_the_layer() -> None:
    values = codes(LAYER, 0.5, 2, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(1, 5, 4, 4)).astype(np.float32)
    found = Runner(ternary_network(LAYER, values, True))(x)[0]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x[0], ((0, 0), (1, 1), (1, 1))), (3, 3), (1, 2))
    np.testing.assert_allclose(found[0], np.einsum("chwij,ocij->ohw", windows, values[0]), rtol=1e-5, atol=1e-5)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    assert main(["--layer", "16x8x16x3", "--turns", "5", "--json", str(out)]) == 0
    data = json.loads(out.read_text())
    assert {(row["inputs"], row["zeros"], row["group"]) for row in data["rows"]} >= {("f32", 0.5, 4), ("u8", 0.8, 1)}
    for row in data["rows"]:
        assert min(row["single_us"], row["shared_us"], row["onnxruntime_us"], row["gadds"], row["ceiling"]) > 0
    assert capsys.readouterr().out.count("16x8x8") == len(data["rows"]) == 10
    assert sum(line.startswith("| 16, 8x8 | float |") for line in shared_zeros(data)) == 5
