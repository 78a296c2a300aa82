"""Estimates against what builds give: exact bytes, and times of a table whose coefficients are known."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvm_schedules
from tests.properties import examples
from tests.tvm_schedules.artifact_nets import conv_net, exact_net
from tests.tvm_schedules.estimate.test_fit import made_table
from tests.tvm_schedules.nets import Net
from tvm_schedules.artifact import store
from tvm_schedules.backends.c.parts import Part
from tvm_schedules.bench.profile import profile
from tvm_schedules.bench.profile_networks import networks, shortcuts
from tvm_schedules.cli.estimate import parser, print_estimates
from tvm_schedules.errors import EstimateError, TargetError, TernError, UnsupportedOperatorError
from tvm_schedules.estimate import table as tables
from tvm_schedules.estimate.c_features import _operator
from tvm_schedules.estimate.curves import _of_layers
from tvm_schedules.estimate.estimate import estimate
from tvm_schedules.estimate.features import NAMES, features, group
from tvm_schedules.estimate.lowered import lower
from tvm_schedules.pipeline import read_graph
from tvm_schedules.targets.registry import resolve


@pytest.mark.parametrize("target", ["host", "c"])
def test_memory_and_weights_are_those_of_the_build(tmp_path: Path, target: str) -> None:
    artifact = tvm_schedules.build(conv_net(), tmp_path / "out", target, verify=False)
    (said,) = estimate(tmp_path / "out", [target])
    memory, inputs = artifact.metadata["memory"], artifact.metadata["inputs"]
    assert said.ram["arena"] == memory["arena_bytes"]
    assert said.ram["constants"] == memory["constant_bytes"]
    assert said.ram["inputs"] == sum(4 * prod(entry["shape"]) for entry in inputs)
    assert [(step.name, step.kernel) for step in said.steps] == [
        (step["name"], step["kernel"]) for step in artifact.metadata["steps"]
    ]
    layers = {layer["name"]: layer for layer in artifact.metadata["layers"]}
    for step in said.steps:
        if step.name in layers:
            assert step.weight_bytes == layers[step.name]["bytes"]
            assert step.zeros == layers[step.name]["sparsity"]
    if target == "host":
        assert said.stored["weights"] == (tmp_path / "out" / store.WEIGHTS).stat().st_size
        assert said.ram_bytes == sum(said.ram.values())
    else:
        assert said.stored["tables"] == memory["constant_bytes"]
        assert said.ram_bytes == sum(said.ram.values()) - said.ram["constants"], "tables of C are in flash"


def test_times_are_coefficients_times_counts() -> None:
    table = made_table()
    (said,) = estimate(conv_net(), ["host"], [table])
    counted = lower(read_graph(conv_net()), resolve("host")).counted()
    assert said.seconds == pytest.approx(sum(table.fit.value(*one) for one in counted), rel=1e-9)
    assert [step.seconds for step in said.steps] == [table.fit.value(*one) for one in counted[:-1]]
    assert said.error == table.error
    assert said.source == "made up on a device, 2026-11-29"
    guessed = [step.seconds for step in said.steps if not step.known]
    assert said.unknown == pytest.approx(sum(filter(None, guessed)) / said.seconds)


def test_cycles_are_divided_by_the_clock() -> None:
    slow, fast = (estimate(conv_net(), [name], [made_table(target=name, unit="cycles")])[0] for name in ("pi4", "pi5"))
    assert "Pi" not in slow.source
    times = [sum(step.seconds or 0 for step in one.steps) for one in (slow, fast)]
    same = lower(read_graph(conv_net()), resolve("pi4")).counted()
    fit = made_table(unit="cycles").fit
    assert slow.seconds == pytest.approx(sum(fit.value(*one) for one in same) / 1.8e9)
    assert times[1] < times[0]


def test_instructions_are_cycles_by_a_factor_that_the_source_states() -> None:
    (said,) = estimate(conv_net(), ["cortex-m4"], [made_table(target="cortex-m4", unit="instructions")])
    fit = made_table(unit="instructions").fit
    instructions = sum(fit.value(*one) for one in lower(read_graph(conv_net()), resolve("c")).counted())
    assert said.seconds == pytest.approx(instructions * 1.4 / 168e6)
    assert "1.4 cycles each, which is assumed" in said.source


@pytest.mark.parametrize(("name", "each"), [("HardSwish", 26), ("Sigmoid", 64)])
def test_instructions_of_activation_functions_are_added(name: str, each: int) -> None:
    """Microcontrollers' tables are of networks without any; layers that are computed in parts count once."""
    made, times = [], []
    for activation in ("Relu", name):
        net = Net((1, 4, 20, 20))
        y = net.op(activation, net.op("Conv", net.quantize("input_0"), net.weight((32, 4, 1, 1), 0.5), net.bias(32)))
        y = net.op("Conv", net.quantize(y), net.weight((4, 32, 1, 1), 0.5), net.bias(4))
        model = net.model(y)
        (said,) = estimate(model, ["cortex-m4"], [made_table(target="cortex-m4", unit="instructions")])
        fit = made_table(unit="instructions").fit
        made.append(sum(fit.value(*one) for one in lower(read_graph(model), resolve("c")).counted()))
        times.append(said.seconds)
    assert times[0] == pytest.approx(made[0] * 1.4 / 168e6)
    assert times[1] == pytest.approx((made[1] + 32 * 20 * 20 * each) * 1.4 / 168e6)


def test_attention_counts_whole_panels_and_more_tokens_take_more() -> None:
    """Products of queries and keys: every panel of keys is whole, whatever their number."""
    counts = []
    for tokens in (17, 24, 50):
        net = Net((1, 2, tokens, 16))
        turned = net.op("Transpose", "input_0", perm=[0, 1, 3, 2])
        weights = net.op("Softmax", net.op("MatMul", "input_0", turned), axis=-1)
        made = lower(read_graph(net.model(net.op("MatMul", weights, "input_0"))), resolve("host"))
        (step,) = [step for step in made.steps if step.kernel == "attention"]
        numbers = dict(zip(NAMES, features(step), strict=True))
        assert numbers["operations"] >= 2 * tokens * (16 * tokens + tokens * 16) / step.spec.lanes
        assert numbers["rows"] == 2 * tokens
        counts.append(numbers["operations"])
    assert counts == sorted(counts)


def test_a_call_counts_what_caches_have_no_room_for() -> None:
    numbers = {}
    for name, width in (("small", 64), ("large", 2048)):
        net = Net((1, width))
        weight = net.weight((width, width), 0.5, int8=True)
        model = net.model(net.op("Gemm", net.quantize("input_0"), weight, transB=1))
        values = lower(read_graph(model), resolve("host")).counted()[-1][1]
        numbers[name] = dict(zip(NAMES, values, strict=True))
    assert numbers["small"]["far"] == 0
    assert numbers["large"]["far"] > 0


@examples(10)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(3, 20), st.sampled_from([1, 3]), st.floats(0.1, 0.95))
def test_counts_follow_from_the_codes(channels: int, outputs: int, size: int, k: int, zeros: float) -> None:
    """Vectors that a sparse kernel adds: one for every weight that is not zero and every vector of the image's run."""
    net = Net((1, channels, size, size), seed=channels)
    weight = net.weight((outputs, channels, k, k), zeros, int8=True)
    model = net.model(net.quantize(net.op("Conv", net.quantize("input_0"), weight, pads=[k // 2] * 4)))
    steps = [step for step in lower(read_graph(model), resolve("pi4")).steps if step.kernel == "sparse"]
    for step in steps:
        numbers = dict(zip(NAMES, features(step), strict=True))
        pitch = step.spec.x.pitch[1]
        vectors = -(-((size - 1) * pitch + size) // 16)
        assert numbers["operations"] == pytest.approx(step.spec.taps * vectors)
        assert numbers["ends"] == outputs * vectors
        assert numbers["call"] == 1


@pytest.mark.parametrize("size", [2, 4])
def test_counts_of_shared_zeros_are_taps_lists_and_what_lists_are_added_to(size: int) -> None:
    """Groups of channels with the same zeros: a tap is read once for the group, and all sign patterns have lists."""
    net = Net((1, 32, 15, 15), seed=size)
    weight = net.weight((8, 32, 3, 3), 0.5, int8=True, shared=size)
    model = net.model(net.quantize(net.op("Conv", net.quantize("input_0"), weight, pads=[1] * 4)))
    (step,) = (step for step in lower(read_graph(model), resolve("pi4")).steps if step.kernel == "patterns")
    counts = dict(zip(NAMES, features(step), strict=True))
    spec, vectors = step.spec, -(-step.spec.pixels // 16)
    blocks, patterns, groups = -(-vectors // spec.block), 2 ** (size - 1), 8 // size
    assert spec.size == size
    assert counts["loads"] == step.info["nonzero_macs"] / 225 / size * vectors
    assert counts["rounds"] == spec.taps * blocks
    assert counts["rows"] == 2 * patterns * groups * blocks
    assert counts["operations"] == counts["loads"] + patterns * size * groups * vectors
    assert counts["ends"] == 8 * vectors


@pytest.mark.parametrize(("target", "kernel", "each"), [("pi4", "dense_widened", 1), ("pi5", "dense_panel", 4)])
def test_counts_of_dense_layers_are_vectors_of_products(target: str, kernel: str, each: int) -> None:
    net = Net((1, 8, 12, 12))
    weight = net.weight((12, 8, 3, 3), None, int8=True)
    y = net.op("Conv", net.quantize("input_0", 0.1, 3), weight, net.bias(12), strides=[2, 2])
    lowered = lower(read_graph(net.model(net.quantize(y, 0.1, 3))), resolve(target))
    (step,) = (step for step in lowered.steps if step.kernel == kernel)
    counts = dict(zip(NAMES, features(step), strict=True))
    vectors = -(-step.spec.pixels // (16 // each))
    assert counts["operations"] == 12 * 8 * 9 / each * vectors
    assert counts["loads"] == counts["operations"] / step.spec.tile


def test_counts_of_c_are_words_blocks_and_the_parts_of_a_layer() -> None:
    """A 3x3 layer over 10x10 pixels, in rows of 11: 109 of them, seven blocks of 16, the last of four words."""
    codes = np.random.default_rng(0).integers(-1, 2, (8, 8, 3, 3))
    net = Net((1, 8, 10, 10))
    y = net.op("Conv", net.quantize("input_0", 0.1, 8), net.ternary(codes, np.full(8, 0.1)), pads=[1] * 4)
    made = lower(read_graph(net.model(net.quantize(y))), resolve("c"))
    (step, function) = next(one for one in made.named() if one[0].kernel == "sparse")
    taps = np.count_nonzero(codes)
    call, *loops = features(step, function)[:6]
    assert (call, loops) == (1.0, [taps * 28, taps * 7, 8 * 72, 8 * 28, 8 * 7])
    assert group(step, function) == "sparse tern_ternary_u8 to uint8"
    part = Part(step.name, step.kernel, step.spec, step.make, step.args, step.info, 2, 4, step.name)
    assert features(part, function)[1:6] == [number / 4 for number in loops]


def test_steps_of_a_layer_in_parts_are_the_layer_s() -> None:
    """Their times, zeros and bytes count for it, in the steps and in the curves that budgets choose by."""
    model = dict(shortcuts())["shortcut2"]
    (said,) = estimate(model, ["cortex-m4"])
    apart = [step for step in said.steps if step.layer != step.name]
    layers = {step.layer for step in apart if step.kernel == "sparse"}
    assert layers
    for layer in layers:
        own = [step for step in apart if step.layer == layer]
        assert len({step.name for step in own}) == len(own) > 1
        assert all(step.zeros is not None and step.weight_bytes > 0 for step in own)
        assert _of_layers(said, [layer])[layer] == pytest.approx(sum(step.seconds or 0.0 for step in own))


@pytest.mark.parametrize(
    ("fields", "operations"),
    [
        ({"pairs": 2, "rows": 3, "keys": 5, "depth": 7, "width": 11}, 2 * 3 * 5 * 18),
        ({"pairs": 2, "rows": 3, "inner": 5, "columns": 7}, 210),
        ({"length": 3, "batch": 1, "directions": 2, "gates": 4, "units": 8}, 3 * 2 * 4 * 8 * 8),
        ({"images": 1, "groups": 2, "inputs": 3, "outputs": 5, "height": 7, "width": 7, "to_height": 14,
          "to_width": 14, "kernel": [4, 4]}, 2 * 3 * 5 * 49 * 16),
        ({"images": 6, "height": 4, "width": 4, "to_height": 8, "to_width": 8}, 6 * 64),
        ({"dims": [6, 5, 0, 0], "rows": 6}, 30),
        ({"outer": 2, "count": 3, "inner": 5, "wide": 4}, 30),
        ({"outer": 2, "rows": 3, "count": 5, "inner": 1}, 30),
        ({}, 1),
    ],
)  # fmt: skip
def test_operators_of_c_count_products_or_elements(fields: dict[str, Any], operations: int) -> None:
    assert _operator(fields)[0] == operations


def test_unrolled_layers_of_several_terms_are_a_group_of_their_own() -> None:
    """Their sums are multiplied by levels, which those of one term are not."""
    avx2 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}'
    groups = {
        name: {key for key, _ in lower(read_graph(model), resolve(avx2)).counted() if key.startswith("straight")}
        for name, model in networks()
        if name in ("image2", "terms6")
    }
    assert groups == {"image2": {"straight float32"}, "terms6": {"straight float32 in terms"}}


def test_kernels_of_c_are_functions_and_descriptions() -> None:
    made = lower(read_graph(conv_net()), resolve("c"))
    counts = made.kernels()
    assert counts.pop("descriptions") == len(made.steps) == len(made.functions)
    assert set(counts) == set(made.functions)
    assert set(counts.values()) == {1}
    assert made.tables[""] >= max(made.tables[core] for core in ("plain", "dsp", "mve")) > 0


@pytest.mark.parametrize("target", ["pi3", "pi4", "pi5", "cortex-m4", "cortex-m7", "cortex-m55"])
def test_boards_have_tables_with_an_error_bar(target: str) -> None:
    (said,) = estimate(conv_net(), [target])
    assert said.seconds is not None
    assert 0 < said.seconds < 0.1
    assert said.error is not None
    assert said.error < 0.15
    assert said.unknown < 0.2
    assert said.stored["code"] > 1000


def test_more_zeros_take_less_time() -> None:
    times = []
    for zeros in (0.2, 0.6, 0.9):
        net = Net((1, 32, 24, 24), seed=1)
        weight = net.weight((32, 32, 3, 3), zeros, int8=True)
        model = net.model(net.quantize(net.op("Conv", net.quantize("input_0"), weight, pads=[1] * 4)))
        (said,) = estimate(model, ["host"], [made_table()])
        times.append(said.seconds)
    assert times == sorted(times, reverse=True)


def test_what_cannot_be_estimated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EstimateError, match="targets must be CPUs, cortex-m4, cortex-m7, cortex-m55 or c, got 'opencl'"
    ):
        estimate(conv_net(), ["opencl"])
    with pytest.raises(TargetError, match="target must be one of"):
        estimate(conv_net(), ["toaster"])
    with pytest.raises(EstimateError, match="measured for pi4 is for none of the targets host"):
        estimate(conv_net(), ["host"], [made_table(target="pi4")])
    with pytest.raises(EstimateError, match="does not exist; give an"):
        estimate(tmp_path / "no.onnx")


def test_the_target_that_has_no_code_is_named() -> None:
    net = Net((1, 4, 9, 9))
    size = net.const(np.array([1, 1, 2, 2], np.float32))
    model = net.model(net.op("Resize", "input_0", "", size, mode="cubic"))
    with pytest.raises(
        UnsupportedOperatorError,
        match=r"^cortex-m4: target c has no code for .*without target cortex-m4 the others can be estimated: host, pi4",
    ):
        estimate(model, ["host", "cortex-m4", "pi4"])


def test_a_target_without_a_table_has_bytes_and_no_time() -> None:
    (said,) = estimate(conv_net(), ["neoverse-n1"])
    assert said.seconds is None
    assert said.error is None
    assert "--measured" in said.source
    assert said.stored["weights"] > 0


def test_a_profile_measures_every_step(tmp_path: Path) -> None:
    model = exact_net()
    table = profile(rounds=1, seconds=0.02, models=[("small", model), ("other", conv_net())])
    steps = len(lower(read_graph(model), resolve("host")).steps)
    assert sum(row.network == "small" for row in table.rows) == steps + 1
    assert all(row.value >= 0 for row in table.rows)
    assert max(row.value for row in table.rows) < 1
    assert {library.network for library in table.libraries} == {"small", "other"}
    assert all(library.code > 4096 and library.metadata > 500 for library in table.libraries)
    tables.write(tmp_path / "table.json", table)
    assert tables.read(tmp_path / "table.json").target == "host"


@pytest.mark.parametrize("targets", ["host,pi4", "c"])
def test_the_command_prints_json_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], targets: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(conv_net().SerializeToString())
    assert print_estimates(path, parser().parse_args([str(path), "--targets", targets, "--json"])) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["target"] for entry in found] == targets.split(",")
    assert all(np.isfinite(entry["ram_bytes"]) and entry["stored_bytes"] for entry in found)
    assert print_estimates(path, parser().parse_args([str(path), "--targets", targets, "--steps"])) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}:" in printed for name in targets.split(",")), "the source of the times"
    with pytest.raises(TernError, match="--targets must be one name or several"):
        print_estimates(path, parser().parse_args([str(path), "--targets", ","]))
