"""The benchmark of zeros: its networks have the zeros that it says, and every kernel is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.low_bit import INPUTS, Layer, main, network, patterns
from tests.tvm_schedules.nets import Runner
from tvm_schedules.backends.cpu.kernels import popcount_conv as popcount
from tvm_schedules.targets.registry import resolve


def test_patterns_have_their_zeros() -> None:
    layer = Layer(64, 4, 64, 3)
    for name, codes in patterns(layer, 2, np.random.default_rng(0)):
        assert codes.shape == (2, 64, 64, 3, 3)
        if name == "no zeros":
            assert codes.all()
            continue
        share, kind = int(name.split("%")[0]) / 100, name.split()[-1]
        eights = codes.any(0).reshape(64, 8, 8, 9)
        found = {"digits": codes, "weights": codes.any(0), "eights": eights.any(2)}[kind]
        assert 1 - np.count_nonzero(found) / found.size == pytest.approx(share, abs=0.02)


def test_the_network_is_the_layer() -> None:
    layer = Layer(5, 4, 3, 3)
    codes = patterns(layer, 2, np.random.default_rng(0))[2][1]
    x = np.arange(80, dtype=np.float32).reshape(1, 5, 4, 4) % 5 - 1
    found = Runner(network(layer, codes, INPUTS["2"]))(x)[0]
    weight, padded = codes[0] + 0.5 * codes[1], np.pad(np.clip(x, 0, 3), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded[0], (3, 3), (1, 2))
    np.testing.assert_array_equal(found[0], np.einsum("chwij,ocij->ohw", windows, weight))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    options = ["--layer", "8x5x4x1", "--inputs", "ternary", "--digits", "1", "--turns", "1", "--json", str(out)]
    assert main(options) == 0
    text = capsys.readouterr().out
    assert "inputs ternary, weights of 1 ternary digit" in text
    rows = json.loads(out.read_text())[0]["rows"]
    assert rows[0]["pattern"] == "no zeros"
    assert rows[0]["potential"] == 1.0
    wanted = {"narrow", "sparse"} | ({"popcount"} if popcount.counts_bytes(resolve("host")) else set())
    assert all(wanted <= set(row["microseconds"]) and min(row["microseconds"].values()) > 0 for row in rows)


@pytest.mark.parametrize("text", ["64x56", "64x56x64x0", "axbxcxd"])
def test_layers_are_checked(text: str) -> None:
    with pytest.raises(ValueError, match="CHANNELSxSIZExOUTPUTSxKERNEL"):
        Layer.parse(text)
