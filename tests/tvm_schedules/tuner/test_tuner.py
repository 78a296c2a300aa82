"""The tuner: choices given to kernels, what is measured, what is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvm_schedules
from tern_lightning.cli.export import main as export_main
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, run_onnx
from tests.tvm_schedules.processes import Process
from tvm_schedules import compat
from tvm_schedules.backends.cpu.compile import ENTRY
from tvm_schedules.backends.cpu.kernels.common.dot_product import available
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.errors import TunerError
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Fused, Graph
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.packing import registry as constants
from tvm_schedules.passes import prepare
from tvm_schedules.targets import host_cpu as cpu
from tvm_schedules.targets.registry import TargetSpec, resolve
from tvm_schedules.tuner import Tuning, search
from tvm_schedules.tuner.alone import Alone, candidates, pattern
from tvm_schedules.tuner.measure import Library, LocalDevice, RemoteDevice, in_turns, library
from tvm_schedules.tuner.show import excess

ROOT = Path(__file__).parents[3]


def small_net(zeros: float = 0.7, channels: int = 8, seed: int = 0, convolutions: int = 1) -> onnx.ModelProto:
    """Ternary convolutions and a ternary linear layer, which has one candidate on CPUs without dot products."""
    net = Net((1, channels, 6, 6), seed=seed)
    x = net.quantize("input_0", 0.02, 128)
    for _ in range(convolutions):
        conv = net.op("Conv", x, net.weight((channels, channels, 3, 3), zeros), net.bias(channels), pads=[1] * 4)
        x = net.quantize(net.op("Relu", conv))
    x = net.op("Flatten", x)
    return net.model(net.op("Gemm", x, net.weight((20, channels * 36), zeros), net.bias(20), transB=1))


DOT_PRODUCTS = available(resolve("host")) is not None
TUNED = 3 if DOT_PRODUCTS or "avx2" in resolve("host").features else 2
"""Layers with a choice of two convolutions and a linear layer."""


def graph_of(model: onnx.ModelProto) -> Graph:
    return prepare(read(read_model(model)))


def layers_of(graph: Graph) -> list[Fused]:
    return [node for node in graph.nodes if isinstance(node, Fused)]


def outputs(
    model: onnx.ModelProto, x: np.ndarray, configs: Mapping[str, ScheduleConfig]
) -> tuple[np.ndarray, dict[str, Any]]:
    compiled = compile_model(model, resolve("host"), None, lambda graph, target: configs)
    plan = compiled.plan
    y = compat.tensor(np.zeros(plan.outputs[0].shape, np.float32))
    arena = compat.tensor(np.random.default_rng(0).integers(0, 256, plan.arena_bytes).astype(np.uint8))
    memory = compat.tensor(constants.expand(plan.constants, plan.constant_bytes, compiled.arrays))
    compiled.module[ENTRY](compat.tensor(x), y, arena, memory, 0, len(plan.steps))
    return y.numpy(), plan


class FakeDevice:
    """Says what a candidate takes; the micro-library is compiled all the same."""

    def __init__(self, us: Any) -> None:
        self.us, self.calls = us, 0

    def time(self, made: Library, target: TargetSpec, threads: int, turns: int) -> np.ndarray:
        self.calls += 1
        return np.array([[self.us(index) * 1e-6 for index in range(made.count)]] * turns)


def tune(tmp_path: Path, device: Any, graph: Graph, target: str = "host", **options: Any) -> Tuning:
    tuning = Tuning(tmp_path / "db.json", device=device, turns=3, **options)
    tuning.choose(graph, resolve(target), lambda line: None)
    return tuning


# -- choices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1])
def test_every_candidate_computes_the_same(layer: int) -> None:
    model = small_net()
    graph = graph_of(model)
    node = layers_of(graph)[layer]
    x = np.random.default_rng(1).normal(size=(1, 8, 6, 6)).astype(np.float32)
    (expected,) = run_onnx(model, x)
    found = candidates(CpuLowering(graph, resolve("host")), node)
    assert len({alone.taken for alone in found}) == len(found) > (2 if layer == 0 or DOT_PRODUCTS else 0)
    by_kernel = {str(alone.taken).split()[0]: alone for alone in found}
    several = [*by_kernel.values(), *found[1::5]]  # every kernel, and some of the rest: each one is a compilation
    for alone in several:
        assert alone.taken is not None
        actual, plan = outputs(model, x, {node.name: alone.taken})
        step = next(step for step in plan.steps if step.name == node.name)
        assert ScheduleConfig.of(step.kernel, step.info["choice"]) == alone.taken
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max(), str(alone.taken)


def test_a_pooling_that_reads_rows_has_no_other_layout() -> None:
    net = Net((1, 4, 20, 20))
    x = net.quantize(net.op("Relu", net.op("Conv", net.quantize("input_0", 0.02, 0), net.weight((8, 4, 1, 1), 0.5))))
    pooled = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    # The same phases of the same tensor as the pooling's own would be.
    beside = net.op("Conv", x, net.weight((8, 8, 3, 3), 0.5, 1), pads=[1] * 4, strides=[2, 2])
    graph = graph_of(net.model(net.op("Add", net.quantize(pooled), net.quantize(beside))))
    base = CpuLowering(graph, resolve("host"))
    pool = next(node for node in layers_of(graph) if node.op == "MaxPool")
    assert [str(alone.taken).split()[0] for alone in candidates(base, pool)] == ["pool_rows"]


def test_what_a_choice_leaves_open_is_the_cost_models() -> None:
    graph = graph_of(small_net())
    node, target = layers_of(graph)[0], resolve("host")
    usual = Alone(CpuLowering(graph, target), node, None, {}).taken
    assert usual is not None
    number, value = next((name, value + 1) for name, value in usual.knobs if name == "chunks")
    other = Alone(CpuLowering(graph, target), node, ScheduleConfig.of(usual.kernel, {number: value}), {}).taken
    assert other == usual.with_knobs(**{number: value})
    # Numbers of another kernel, or a kernel that does not take the layer, do no harm.
    lowering = CpuLowering(graph, target, {node.name: ScheduleConfig.of("linear", {number: value})})
    lowering.run()
    assert lowering.configs.chosen[node.name] == usual


def test_choices_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="a schedule configuration must be a kernel's name and integers"):
        ScheduleConfig.from_json({"kernel": "sparse", "block": "wide"})


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_library_runs_each_candidate_on_its_own_weights() -> None:
    """Each candidate writes the layer's output into its part of the arena: the same one, from the same input."""
    graph, target = graph_of(small_net()), resolve("host")
    node = layers_of(graph)[1]
    found = candidates(CpuLowering(graph, target), node)
    if len(found) < 3:
        pytest.skip("without dot products a linear layer has one candidate")
    made = library(found, target)
    results = []
    for which, alone in enumerate(found):
        (step,) = alone.steps
        source, out = step.args[0].root.place, step.args[-1].root.place
        assert source is not None
        assert out is not None
        memory = np.zeros_like(made.arena)
        memory[source.offset : source.offset + 8 * 36] = np.random.default_rng(3).integers(0, 256, 8 * 36)
        arena, weights = compat.tensor(memory), compat.tensor(made.constants)
        made.module["tune_main"](arena, weights, which)
        results.append(arena.numpy()[out.offset : out.offset + 80].view(np.float32))
    assert np.abs(results[0]).max() > 0
    for result in results:
        assert np.allclose(result, results[0], rtol=1e-5, atol=1e-5)
    # Candidates have their places by now: another library of some of them needs room for these.
    assert library(found[1:3], target).arena.size == made.arena.size


def test_times_are_of_this_machine() -> None:
    graph, target = graph_of(small_net()), resolve("host")
    found = candidates(CpuLowering(graph, target), layers_of(graph)[0])[:2]
    times = LocalDevice().time(library(found, target), target, 1, 3)
    assert times.shape == (3, 2)
    assert np.all((times > 0) & (times < 1))


def test_candidates_take_turns_and_the_hopeless_ones_do_not() -> None:
    calls: list[int] = []

    def seconds(which: int, number: int) -> float:
        calls.append(which)
        return [1e-4, 2e-4, 9e-4][which]

    times = in_turns(seconds, 3, 8)
    assert times.tolist() == [[1e-4, 2e-4, 9e-4]] * 8
    turns = [tuple(calls[-32:][at : at + 4]) for at in range(0, 32, 4)]
    assert set(turns) == {(0, 0, 1, 1), (1, 1, 0, 0)}  # in any order, each once before its time is taken
    assert calls.count(2) == 3  # once to warm up, twice to see


def test_a_board_gets_the_library() -> None:
    import tvm

    class Board:
        """A board without a wire."""

        threads = 0

        def set_threads(self, library: Any, count: int) -> None:
            self.threads = count

        def load(self, path: Path) -> Any:
            return tvm.runtime.load_module(str(path))

        def tensor(self, array: np.ndarray) -> Any:
            return compat.tensor(array)

        def time(self, loaded: Any, function: str, arguments: list[Any], number: int, repeat: int) -> list[float]:
            evaluator = loaded.time_evaluator(function, tvm.cpu(), number=number, repeat=repeat)
            return list(evaluator(*arguments).results)

    graph, target, board = graph_of(small_net()), resolve("host"), Board()
    found = candidates(CpuLowering(graph, target), layers_of(graph)[0])[:2]
    times = RemoteDevice(board).time(library(found, target), target, 2, 2)
    assert board.threads == 2
    assert times.shape == (2, 2)
    assert np.all((times > 0) & (times < 1))


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_the_fastest_is_chosen_and_small_gains_are_not(tmp_path: Path) -> None:
    graph = graph_of(small_net())
    found = candidates(CpuLowering(graph, resolve("host")), layers_of(graph)[0])
    tuned = tune(tmp_path / "a", FakeDevice(lambda index: 5.0 if index == 3 else 10.0), graph).layers[0]
    assert tuned.chosen == found[3].taken
    assert (tuned.model, tuned.tuned_us, tuned.model_us) == (found[0].taken, 5.0, 10.0)
    tuned = tune(tmp_path / "b", FakeDevice(lambda index: 9.8 if index == 3 else 10.0), graph).layers[0]
    assert tuned.chosen == found[0].taken
    assert excess([tuned]) == 0


def test_numbers_that_helped_are_combined(tmp_path: Path) -> None:
    of = ScheduleConfig.of
    us = {of("k", {"a": 1, "b": 1}): 10.0, of("k", {"a": 2, "b": 1}): 8.0}
    us |= {of("k", {"a": 1, "b": 3}): 9.0, of("k", {"a": 1, "b": 4}): 11.0, of("l", {"a": 9}): 9.5}
    assert search._combined(of("k", {"a": 2, "b": 1}), us) == of("k", {"a": 2, "b": 3})


def test_a_second_export_measures_nothing(tmp_path: Path) -> None:
    graph = graph_of(small_net())
    first = tune(tmp_path, FakeDevice(lambda index: 10.0 - index / 100), graph)

    def never(index: int) -> float:
        raise AssertionError("measured again")

    second = tune(tmp_path, FakeDevice(never), graph)
    assert [layer.chosen for layer in second.layers] == [layer.chosen for layer in first.layers]
    assert all(layer.reused for layer in second.layers)
    assert not any(layer.reused for layer in first.layers)


def test_keys_tell_layers_apart(tmp_path: Path) -> None:
    """Other threads, targets and zeros are measured; other weights with as many zeros are not."""
    device = FakeDevice(lambda index: 10.0)
    tune(tmp_path, device, graph_of(small_net(channels=64)))
    calls = device.calls
    tune(tmp_path, device, graph_of(small_net(channels=64, seed=1)))
    assert device.calls == calls
    assert pattern(layers_of(graph_of(small_net(0.5)))[0]) != pattern(layers_of(graph_of(small_net(0.9)))[0])
    for options in ({"threads": 3}, {"target": "a72"}):
        before = device.calls
        tune(tmp_path, device, graph_of(small_net(channels=64)), **options)  # type: ignore[arg-type]
        assert device.calls > before, options


def test_an_interruption_loses_nothing(tmp_path: Path) -> None:
    graph = graph_of(small_net(convolutions=2))
    count = len(tune(tmp_path / "whole", FakeDevice(lambda index: 10.0), graph).layers)
    assert count > 1

    class Interrupted(FakeDevice):
        def time(self, *args: Any) -> np.ndarray:
            if self.calls == 1:
                raise KeyboardInterrupt
            return super().time(*args)

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path, Interrupted(lambda index: 10.0), graph)
    assert len(json.loads((tmp_path / "db.json").read_text())["entries"]) == 1
    device = FakeDevice(lambda index: 10.0)
    tuning = tune(tmp_path, device, graph)
    assert [layer.reused for layer in tuning.layers] == [True] + [False] * (count - 1)
    assert device.calls == count - 1


WRITER = """
import sys
from tvm_schedules.tuner import Database

database = Database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for index in range(40):
    database.put(f"{sys.argv[2]}{index}", {"us": {"k": 1.0}})
"""


def test_processes_that_write_at_once_lose_no_entry(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "db.json")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, name], **pipes, cwd=ROOT) for name in "abc"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=60)
        assert writer.returncode == 0
    found = json.loads((tmp_path / "db.json").read_text())["entries"]
    assert found.keys() == {f"{name}{index}" for name in "abc" for index in range(40)}
    assert os.listdir(tmp_path) == ["db.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged .*; delete it to measure again, or name another one"),
        ("[]", "is not a tuning database of this version"),
        ('{"format": 0, "entries": {}}', "is not a tuning database of this version"),
    ],
)
def test_a_damaged_database_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "db.json").write_text(text)
    with pytest.raises(TunerError, match=message):
        tune(tmp_path, FakeDevice(lambda index: 10.0), graph_of(small_net()))
    assert (tmp_path / "db.json").read_text() == text


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    graph = graph_of(small_net())
    tune(tmp_path, FakeDevice(lambda index: 10.0), graph)
    data = json.loads((tmp_path / "db.json").read_text())
    for entry in data["entries"].values():
        del entry["us"]
    (tmp_path / "db.json").write_text(json.dumps(data))
    with pytest.raises(TunerError, match=r"entry for '.*' in the tuning database .* is damaged \(KeyError: 'us'\)"):
        tune(tmp_path, FakeDevice(lambda index: 10.0), graph)


def test_another_cpu_needs_a_board(tmp_path: Path) -> None:
    with pytest.raises(TunerError, match=r"is not one for target 'pi4': give a board .*--tune-board"):
        Tuning(tmp_path / "db.json").choose(graph_of(small_net()), resolve("pi4"), lambda line: None)
    with pytest.raises(ValueError, match="threads must be an integer from 1 to 128, got 0"):
        Tuning(threads=0)
    with pytest.raises(TypeError, match=r"threads must be an integer from 1 to 128, got 2\.0"):
        Tuning(threads=2.0)  # type: ignore[arg-type]


# -- from a user's side ------------------------------------------------------------------------------------------------


def test_export_tunes_and_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(small_net(convolutions=2), tmp_path / "net.onnx")
    arguments = [str(tmp_path / "net.onnx"), "-o", str(tmp_path / "out"), "--tune", str(tmp_path / "db.json")]
    assert export_main([*arguments, "--tune-threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "tune 1 of 3" in text
    assert "the cost model's choices take" in text
    metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
    assert [layer["reused"] for layer in metadata["tuning"]] == [False] * TUNED
    by_name = {step["name"]: step for step in metadata["steps"]}
    for layer in metadata["tuning"]:
        assert {"kernel": by_name[layer["name"]]["kernel"], **by_name[layer["name"]]["choice"]} == layer["chosen"]
    assert tvm_schedules.load(tmp_path / "out")(np.zeros((1, 8, 6, 6), np.float32)).shape == (1, 20)
    for wrong, message in (
        ([*arguments[:3], "--tune-threads", "1"], "need --tune"),
        ([*arguments[:3], "--tune-key", "pi4"], "need --tune"),
        ([*arguments, "--tune-key", "pi4"], "--tune-key needs --tune-board or --tune-tracker"),
        ([*arguments, "--tune-board", "a:1", "--tune-tracker", "b:1"], "either --tune-board or --tune-tracker"),
    ):
        assert export_main(wrong) == 1
        assert message in capsys.readouterr().err


def test_export_tunes_on_a_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over loopback; a board whose CPU is not the target's is told so before anything runs there."""
    onnx.save(small_net(convolutions=2), tmp_path / "net.onnx")
    arguments = [str(tmp_path / "net.onnx"), "--tune", str(tmp_path / "db.json"), "--tune-threads", "1"]
    other = "a76" if cpu.architecture() == "x86_64" else '{"kind": "llvm", "mtriple": "x86_64-linux-gnu"}'
    serve = [sys.executable, "-m", "tvm_schedules.cli.board", "serve", "--port=0", "--key=pi4"]
    with Process(serve) as board:
        arguments += ["--tune-board", board.address]
        assert export_main([*arguments, "-o", str(tmp_path / "out")]) == 1
        assert "did not open a session with key 'board'" in capsys.readouterr().err
        arguments += ["--tune-key", "pi4"]
        assert export_main([*arguments, "-o", str(tmp_path / "out")]) == 0
        metadata = json.loads((tmp_path / "out" / "metadata.json").read_text())
        assert [layer["reused"] for layer in metadata["tuning"]] == [False] * TUNED
        entries = json.loads((tmp_path / "db.json").read_text())["entries"].values()
        assert {entry["device"] for entry in entries} == {board.address}
        capsys.readouterr()
        assert export_main([*arguments, "-o", str(tmp_path / "other"), "--tvm-target", other]) == 1
        assert "the network was built for" in capsys.readouterr().err


def test_only_cpus_are_tuned(tmp_path: Path) -> None:
    with pytest.raises(TunerError, match="tuning is for CPUs"):
        tvm_schedules.build(small_net(), tmp_path / "out", "sm_86", tune=tmp_path / "db.json", verify=False)


def test_the_default_database_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm_schedules.tuner import default_database

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_database() == tmp_path / "tern-lightning" / "tuning.json"
