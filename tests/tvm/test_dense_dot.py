"""The dense kernel of dot products against onnxruntime, with every size of its blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_schedules.choice import Choice
from tvm_schedules.compile import compile_model
from tvm_schedules.kernels.dot import available
from tvm_schedules.kernels.epilogue import every_fourth, fours
from tvm_schedules.targets import resolve

from .nets import Runner, run_onnx
from .test_kernels import STEP, Case, build, cases

pytestmark = pytest.mark.skipif(available(resolve("host")) is None, reason="needs a CPU with 8-bit dot products")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases(), st.integers(1, 4), st.integers(1, 6))
def test_random_convolutions(case: Case, block: int, tile: int) -> None:
    case = replace(case, terms=1, zero=case.zero or 0, rows=case.rows + 3, fan=case.fan + 3)
    net, y, out = build(case)

    def choose(graph: object, target: object) -> dict[str, Choice]:
        nodes = graph.nodes  # type: ignore[attr-defined]
        numbers = {"block": block, "tile": tile}
        return {node.name: Choice.of("dense_dot", numbers) for node in nodes if node.op == "Conv"}

    runner = Runner(compile_model(net.model(y), resolve("host"), None, choose))
    assert "dense_dot" in {entry["kernel"] for entry in runner.plan["steps"]}
    rng = np.random.default_rng(case.seed)
    inputs = [rng.normal(size=s).astype(np.float32) for s in ((case.batch, case.groups * case.fan, *case.dims), out)]
    for want, have in zip(run_onnx(net.model(y), *inputs), runner(*inputs), strict=True):
        if case.out_zero is None:
            np.testing.assert_allclose(have, want, rtol=2e-4, atol=2e-4)
        else:
            steps = np.abs(have - want) / STEP
            assert steps.max(initial=0) < 1.01
            assert (steps > 0.5).mean() < 0.02


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_orders_of_pixels_are_those_of_shifts_and_of_unpacking(lanes: int) -> None:
    words = np.arange(4 * lanes, dtype=np.uint8).view(np.uint32)
    assert every_fourth(lanes) == [int(w >> 8 * i & 255) for i in range(4) for w in words]
    # Four rows of bytes; unpacked twice within every 16 bytes, each 32 bits hold a column.
    taps = [np.arange(4 * lanes).reshape(-1, 16) for _ in range(4)]
    ends = [np.s_[:, :8], np.s_[:, 8:]]
    pairs = [[np.stack([a[end], b[end]], 2).reshape(-1, 8, 2) for end in ends] for a, b in (taps[:2], taps[2:])]
    columns = [
        np.concatenate([low[:, half], high[:, half]], 2)
        for low, high in zip(*pairs, strict=True)
        for half in (slice(0, 4), slice(4, 8))
    ]
    assert all((part == part[:, :, :1]).all() for part in columns)
    assert fours(lanes) == [int(pixel) for part in columns for pixel in part[:, :, 0].ravel()]
