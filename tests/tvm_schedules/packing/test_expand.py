"""What a plan's constants become: every packing gets its arguments from JSON, and the memory has all of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.packing.codes import random_codes
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.plan import Constant, Span
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.packing import (
    bitplanes,
    dense_conv,
    dense_conv_dot,
    dense_conv_panel,
    dense_conv_winograd,
    depthwise_conv_dot,
    gpu_conv_dot,
    gpu_linear_dot,
    linear,
    linear_dot,
    linear_pairs,
    linear_widened,
    panel_lists,
    pattern_lists,
    pool,
    popcount_linear,
    recurrent,
    tap_lists,
)
from tvm_schedules.packing.registry import LARGEST_GAP, PACKINGS, expand, halo_from, window_from

RNG = np.random.default_rng(0)
WINDOW = Window((1, 3, 2), (1, 2, 1), ((0, 0), (1, 0), (1, 1)), (1, 1, 2), 2)
X = Halo(1, 6, (1, 5, 6), "uint8", (8, 12), (0, 1, 1), (0, 1, 1), WINDOW.strides, 7.0)
PLACED = {"window": asdict(WINDOW), "x": asdict(X)}
CODES = random_codes(RNG, (1, 4, 3, 1, 3, 2), 0.4)
TWO = random_codes(RNG, (2, 4, 3, 1, 3, 2), 0.4)
ROWS = random_codes(RNG, (1, 5, 40), 0.4)
NUMBERS = RNG.integers(-99, 100, (4, 3, 1, 3, 2)).astype(np.int8)
SQUARE = RNG.integers(-99, 100, (4, 3, 1, 3, 3)).astype(np.int8)
ONE, LEVELS = np.float32([[1]]), RNG.uniform(0.5, 2, (2, 4)).astype(np.float32)
TERMS = TWO[:, :3, :, 0, 0, 0]
SUMS = (TERMS * LEVELS[:, :3, None]).sum(0)
SHARE = np.ones((1, 4), np.float32)
DEPTHWISE = Window((1, 3, 2), (1, 2, 1), ((0, 0), (1, 0), (1, 1)), (1, 1, 2), 6)
CHANNELS = RNG.integers(-99, 100, (6, 1, 1, 3, 2)).astype(np.int8)
GROUPS = pattern_lists.members(np.abs(TWO).max(0).reshape(4, -1), 2, 2)
MEMBERS = pattern_lists.members(np.abs(CODES[0]).reshape(4, -1), 2, 2)
ADDRESS = tap_lists.addresses(WINDOW, X)
PANEL = dense_conv_panel.Panel(X, WINDOW, 4, True)


def stored(codes: np.ndarray, levels: np.ndarray = ONE) -> dict[str, np.ndarray]:
    return TernaryTensor(codes, levels, levels).stored


def both(packing: str, params: dict[str, Any], codes: np.ndarray, values: np.ndarray, pack: Any) -> list[Any]:
    """A packing that takes ternary codes of one term, and 8-bit weights as they are."""
    shape = {"shape": list(codes.shape)}
    return [
        (packing, stored(codes), params | shape, pack(codes[0])),
        (packing, {"values": values}, params | shape, pack(values)),
    ]


BLOCK = {"bytes": 4, "shared": True, "length": 32, "tile": 4}
FLAT = {"places": [0, 7, 2, 4, 5, 9], "channel": 10, "limit": 5, "share": 2, "unroll": 3}
CASES: list[tuple[str, dict[str, np.ndarray], dict[str, Any], dict[str, np.ndarray]]] = [
    ("raw", {"a": LEVELS}, {}, {"a": LEVELS}),
    ("taps", stored(CODES), PLACED | {"shape": CODES.shape, "limit": 3, "index": "uint16", "share": 2},
     tap_lists.pack(CODES, SHARE, WINDOW, X, 3, "uint16", 2)),
    ("taps", stored(TWO, LEVELS), PLACED | {"shape": TWO.shape, "limit": 3, "index": "int32", "share": 1},
     tap_lists.pack(TWO, LEVELS, WINDOW, X, 3, "int32", 1)),
    *both("panel", {**FLAT, "channels": 2}, CODES, CODES[0],
          lambda codes: panel_lists.pack(codes.reshape(4, 3, 6), **FLAT, panel=2)),  # type: ignore[arg-type]
    ("patterns", stored(CODES), PLACED | {"shape": CODES.shape, "size": 2, "index": "int32"},
     pattern_lists.pack_bounded(CODES[0].reshape(4, -1), ADDRESS, MEMBERS, "int32")),
    ("patterns", stored(CODES), PLACED | {"shape": CODES.shape, "size": 2, "index": "uint16", "limit": 4},
     {key: array for key, array in pattern_lists.pack(
         CODES.reshape(1, 4, -1), SHARE, ADDRESS, MEMBERS, 4, "uint16", 3 * X.phases * X.plane, 2,
     ).items() if key != "levels"}),
    ("patterns", stored(TWO, LEVELS), PLACED | {"shape": TWO.shape, "size": 2, "index": "uint16", "limit": 4},
     pattern_lists.pack(TWO.reshape(2, 4, -1), LEVELS, ADDRESS, GROUPS, 4, "uint16", 3 * X.phases * X.plane, 2)),
    ("words", stored(TWO, LEVELS), PLACED | {"shape": TWO.shape, "planes": 2, "limit": 3},
     bitplanes.pack(TWO, LEVELS, WINDOW, X, 2, 3)),
    ("dense", {"values": NUMBERS}, PLACED | {"tile": 2, "dtype": "float32"},
     dense_conv.pack(NUMBERS, WINDOW, X, 2, "float32", False)),
    ("dense", {"values": NUMBERS}, PLACED | {"tile": 2, "dtype": "int16", "pairs": True},
     dense_conv.pack(NUMBERS, WINDOW, X, 2, "int16", True)),
    *both("dense_dot", PLACED | {"tile": 2}, CODES, NUMBERS, lambda w: dense_conv_dot.pack(w, WINDOW, X, 2)),
    *both("dense_panel", PLACED | BLOCK, CODES, NUMBERS, lambda w: dense_conv_panel.pack(w, PANEL, 32, 4)),
    *both("winograd", {"tile": 8}, SQUARE.clip(-1, 1)[None], SQUARE,
          lambda w: {"values": dense_conv_winograd.pack(w, 8)}),
    ("depthwise_dot", {"values": CHANNELS}, {"window": asdict(DEPTHWISE), "x": asdict(X)},
     depthwise_conv_dot.pack(CHANNELS, DEPTHWISE, X)),
    ("mask", {}, {"x": asdict(X), "size": [1, 2, 5], "length": 99}, {"mask": X.mask((1, 2, 5), 99)}),
    *(("divisor", {}, PLACED | {"size": [1, 2, 5], "length": 99, "include_pad": pad},
       {"divisor": pool.divisors(X, WINDOW, (1, 2, 5), 99, pad)}) for pad in (False, True)),
    ("linear", stored(ROWS), {"shape": ROWS.shape, "dtype": "int8", "padded": 8},
     {"values": linear.pack(ROWS[0], "int8", 8, 8)}),
    ("linear", stored(ROWS, 2 * ONE), {"shape": ROWS.shape, "dtype": "float32", "padded": 8, "width": 4},
     {"values": linear.pack(ROWS[0], "float32", 8, 4)}),
    ("linear", stored(TWO[..., 0, 0, 0], LEVELS), {"shape": TWO.shape[:3], "dtype": "float32", "padded": 4},
     {"values": linear.pack((TWO[..., 0, 0, 0] * LEVELS[:, :, None]).sum(0), "float32", 4, 4)}),
    ("linear", {"values": NUMBERS[:, :, 0, 0, 0]}, {"dtype": "float32", "padded": 8, "width": 4},
     {"values": linear.pack(NUMBERS[:, :, 0, 0, 0], "float32", 8, 4)}),
    # Of 16 inputs, those whose codes are stored plus one: 1 in artifacts of earlier releases stands for 12.
    *(("linear_dot", stored(ROWS), {"shape": ROWS.shape, "ternary": True, "lanes": 4, "tile": 2, "plus": given},
       {"values": linear_dot.pack(ROWS[0], True, 4, 2, plus)})
      for given, plus in ((0, 0), (1, 12), (12, 12), (16, 16))),
    ("linear_dot", {"values": ROWS[0]}, {"ternary": False, "lanes": 8, "tile": 1, "plus": 0},
     {"values": linear_dot.pack(ROWS[0], False, 8, 1, 0)}),
    *both("linear_pairs", {"ternary": True, "tile": 2}, ROWS, ROWS[0],
          lambda w: {"values": linear_pairs.pack(w, True, 2)}),
    *both("linear_widened", {"ternary": False, "tile": 2}, ROWS, ROWS[0],
          lambda w: {"values": linear_widened.pack(w, False, 2)}),
    ("popcount_linear", stored(ROWS), {"shape": ROWS.shape, "vector": 4, "tile": 2}, popcount_linear.pack(ROWS, 4, 2)),
    ("recurrent", {f"{d}.codes": stored(ROWS[:, :4, 2 * d : 2 * d + 2])["codes"] for d in (0, 1)},
     {"shapes": [[1, 4, 2]] * 2, "gates": 2, "dtype": "int8", "padded": 4},
     {"values": recurrent.pack([ROWS[0, :4, :2], ROWS[0, :4, 2:4]], 2, "int8", 4)}),
    ("recurrent", {f"0.{name}": array for name, array in stored(TERMS, LEVELS[:, :3]).items()},
     {"shapes": [[2, 3, 3]], "gates": 1, "dtype": "float32", "padded": 4},
     {"values": recurrent.pack([SUMS], 1, "float32", 4)}),
    ("recurrent", {"0.values": LEVELS.T[:, :2]}, {"shapes": [[4, 2]], "gates": 2, "dtype": "float32", "padded": 4},
     {"values": recurrent.pack([LEVELS.T[:, :2]], 2, "float32", 4)}),
    *both("gpu_conv_dot", PLACED | {"tile": 2, "slices": 3, "plus": 128}, CODES, NUMBERS,
          lambda w: gpu_conv_dot.pack(w, WINDOW, X, 2, 3, 128)),
    *both("gpu_linear_dot", {"ternary": True, "lanes": 2, "vector": 4, "rows": 6}, ROWS, ROWS[0],
          lambda w: {"words": gpu_linear_dot.pack(w, True, 2, 4, 6)}),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: CASES[case][0])
def test_arguments_come_from_json(case: int) -> None:
    packing, arrays, params, want = CASES[case]
    found = PACKINGS[packing](arrays, json.loads(json.dumps(params)))
    assert set(found) == set(want)
    for name, array in want.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_there_is_a_case_of_every_packing() -> None:
    assert {case[0] for case in CASES} == set(PACKINGS)


def test_geometry_comes_from_json() -> None:
    assert window_from(json.loads(json.dumps(asdict(WINDOW)))) == WINDOW
    assert halo_from(json.loads(json.dumps(asdict(X)))) == X


ARRAYS = {"first": np.float32([1, 2, 3]), "second": np.arange(5, dtype=np.uint8)}


def constants(**changed: Span) -> list[Constant]:
    spans = {"first": Span(8, 12), "second": Span(0, 5)} | changed
    return [Constant("raw", {}, {name: name}, {name: span}) for name, span in spans.items()]


@pytest.mark.parametrize("nbytes", [20, 21, 20 + LARGEST_GAP])
def test_every_constant_is_in_its_place_and_zeros_elsewhere(nbytes: int) -> None:
    memory = expand(constants(), nbytes, ARRAYS)
    assert (memory.dtype, memory.size) == (np.uint8, nbytes)
    assert memory[:8].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert memory[8:20].view(np.float32).tolist() == [1, 2, 3]
    assert not memory[20:].any()


def test_no_constants_are_no_memory() -> None:
    assert expand([], 0, {}).size == 0
    assert expand([], LARGEST_GAP, {}).size == LARGEST_GAP
    with pytest.raises(ValueError, match="constants end at 0 bytes"):
        expand([], LARGEST_GAP + 1, {})


@pytest.mark.parametrize(
    ("changed", "nbytes", "message"),
    [
        ({}, 19, "constants end at 20 bytes, the plan says 19"),
        ({}, 21 + LARGEST_GAP, f"constants end at 20 bytes, the plan says {21 + LARGEST_GAP}"),
        ({"second": Span(-1, 5)}, 20, "constants end at 20 bytes, the plan says 20"),
        ({"second": Span(0, 4)}, 20, "constant 'second': expanded to 5 bytes, the plan says 4"),
        ({"first": Span(8, 16)}, 24, "constant 'first': expanded to 12 bytes, the plan says 16"),
    ],
)
def test_plans_that_do_not_fit_are_refused(changed: dict[str, Span], nbytes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand(constants(**changed), nbytes, ARRAYS)


def test_a_stored_array_that_is_missing() -> None:
    with pytest.raises(KeyError, match="second"):
        expand(constants(), 20, {"first": ARRAYS["first"]})
