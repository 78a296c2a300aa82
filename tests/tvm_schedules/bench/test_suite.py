"""The benchmark suite, with peers that are small scripts and results that are made up where figures matter."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tvm_schedules.bench import micro, networks
from tvm_schedules.bench.suite import baseline, prepare, run, show
from tvm_schedules.bench.suite.cases import CASES, Case
from tvm_schedules.cli.suite import main
from tvm_schedules.errors import BenchError, TernError
from tvm_schedules.targets.registry import resolve
from tvm_schedules.verify.reference import reference_session

# -- networks ----------------------------------------------------------------------------------------------------------


def zeros_of(model: onnx.ModelProto) -> list[float]:
    found = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT2:
            raw = np.frombuffer(tensor.raw_data, np.uint8)
            codes = np.stack([raw >> shift & 3 for shift in (0, 2, 4, 6)], 1).ravel()[: np.prod(tensor.dims)]
            assert set(np.unique(codes)) <= {0, 1, 3}  # no -2
            found.append(float((codes == 0).mean()))
    return found


@pytest.mark.parametrize(("name", "ternary"), [("resnet20", 20), ("mlp", 2), ("linear1024x1024", 1)])
def test_networks_have_the_asked_zeros(name: str, ternary: int) -> None:
    """ResNet-20 has 21 convolutions with its two projections, of which the stem is dense."""
    found = zeros_of(networks.build(name, 0.8))
    assert len(found) == ternary
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)


def test_cases_are_networks_that_can_be_made() -> None:
    known = {**networks.NETWORKS, **networks.LINEAR, **networks.LAYERS}
    assert {case.network for case in CASES.values()} == set(known)
    shared = CASES["resnet18-shared4"]
    assert (shared.network, shared.shared, CASES["resnet18"].network) == ("resnet18", 4, "resnet18")


def test_counts_of_multiplications_are_those_of_the_papers() -> None:
    """PERF tables of peers count 40.8 M for ResNet-20, 1814 M for ResNet-18, 300.8 M for MobileNetV2."""
    for name, wanted in (("resnet20", 40.8e6), ("resnet18", 1814e6), ("mobilenetv2", 300.8e6)):
        shape, make = networks.NETWORKS[name]
        net = networks.RandomNet(shape, 0.8, None, 0)
        graph = onnx.shape_inference.infer_shapes(net.model(make(net))).graph
        sizes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)
        }
        weights = {t.name: list(t.dims) for t in graph.initializer}
        total = 0
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm"):
                source = next((n.input[0] for n in graph.node if n.output[0] == node.input[1]), node.input[1])
                total += int(np.prod(sizes[node.output[0]])) * int(np.prod(weights[source][1:]))
        assert total == pytest.approx(wanted, rel=2e-3), name


def test_ranges_are_used_and_little_is_lost() -> None:
    """The 8-bit network is near the float one on the inputs that it was made with."""
    x = networks.samples("resnet20")[:1]
    outputs = []
    for activations in ("uint8", "float32"):
        session = reference_session(networks.build("resnet20", 0.8, activations))
        outputs.append(session.run(None, {"input_0": x})[0])
    assert np.abs(outputs[0] - outputs[1]).max() < 0.1 * np.abs(outputs[1]).max()


def test_nbits_file_computes_the_layer() -> None:
    import onnxruntime

    model = networks.build("linear1024x1024", 0.5)
    x = networks.samples("linear1024x1024")[:1]
    expected = reference_session(model).run(None, {"input_0": x})[0]
    session = onnxruntime.InferenceSession(networks.matmul_nbits(model).SerializeToString())
    (actual,) = session.run(None, {"input_0": x})
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()
    with pytest.raises(ValueError, match="must be one ternary linear layer, got 3"):
        networks.matmul_nbits(networks.build("mlp", 0.5))


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"name must be one of resnet20, .*, got 'vgg'"):
        networks.build("vgg", 0.5)
    with pytest.raises(ValueError, match=r"zeros must be in \[0, 1\), got 1"):
        networks.build("mlp", 1.0)


# -- preparing and measuring -------------------------------------------------------------------------------------------

FAKE_WORKER = """#!{python}
import json, sys, time
config = json.loads(sys.argv[-1])
if "prepare" in config:
    if "source" in config:
        open(config["output"], "w").write("made of " + config["source"])
    if config["prepare"] == {broken!r}:
        print(json.dumps({{"failed": "this engine is broken"}})); sys.exit(1)
    print(json.dumps({{"versions": {{config["prepare"]: "1.0"}}}})); sys.exit()
print(json.dumps({{"load_seconds": 0.1, "error": 0.0}}), flush=True)
for line in sys.stdin:
    print(json.dumps({{"us": [2000.0, 1000.0, 3000.0], "others": 0.0}}), flush=True)
"""


def fake_python(path: Path, broken: str = "") -> str:
    """An "interpreter" that is a worker itself, whatever script it is told to run: every run takes 2 ms."""
    path.write_text(FAKE_WORKER.format(python=sys.executable, broken=broken))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A case of one small layer that is compared with peers."""
    recipe = ((1, 8, 6, 6), networks._one_conv(8, 3))
    monkeypatch.setitem(networks.LAYERS, "tiny", recipe)
    monkeypatch.setitem(CASES, "tiny", Case("tiny", "network", {80: 1.8}))
    return "tiny"


def test_suite_from_end_to_end(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = dict.fromkeys(("add_u8", "dot_i8", "fma_f32", "read_l1", "read_l2"), 100.0)
    monkeypatch.setattr(micro, "measure_apart", lambda *args: rates)
    pythons = [f"--peer-python=openvino={fake_python(tmp_path / 'ov')}"]
    pythons += [f"--peer-python=executorch={fake_python(tmp_path / 'et', 'executorch')}"]
    files = {name: tmp_path / f"{name}.json" for name in ("results", "base")}
    options = ["--only", tiny, "--threads", "1", "--quick", "--work", str(tmp_path / "work"), *pythons]
    options += ["--json", str(files["results"])]
    assert main([*options, "--write-baseline", str(files["base"]), "--plot", str(tmp_path / "plot.svg")]) == 0
    entry = json.loads(files["results"].read_text())["entries"]["tiny/1"]
    rows = {row["name"]: row for row in entry["engines"]}
    assert list(rows) == ["tern 50%", "tern 80%", "tern 90%", "onnxruntime int8", "OpenVINO int8"]
    assert rows["OpenVINO int8"]["median_ms"] == 2.0
    assert rows["OpenVINO int8"]["min_ms"] == 1.0
    skipped = {skip["name"]: skip["reason"] for skip in entry["skipped"]}
    assert skipped["ExecuTorch XNNPACK int8"] == "this engine is broken"
    assert "--peer-python deepsparse=PYTHON" in skipped["DeepSparse int8"]
    ours = rows["tern 80%"]["rounds_ms"]
    ratio = entry["ratios"]["tern 80%"]["peers"]["OpenVINO int8"]["ratio"]
    assert ratio == pytest.approx(np.median([2.0 / value for value in ours]))
    assert entry["steps"]["tern 80%"][1]["us"] > 0
    assert (tmp_path / "plot.svg").stat().st_size > 5000
    text = capsys.readouterr().out
    assert "OpenVINO int8" in text
    assert "of ceiling" in text

    # A second run measures nothing: what was finished is kept, and nothing has moved.
    before = files["results"].read_text()
    assert main([*options, "--compare", str(files["base"])]) == 0
    assert files["results"].read_text() == before
    assert "0 of 3 ratios moved" in capsys.readouterr().out


def test_an_interrupted_run_goes_on(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "contenders", lambda *args: ([], []))
    monkeypatch.setattr(micro, "build", lambda *args: None)
    monkeypatch.setattr(micro, "measure_apart", lambda *args: {"read_l1": 1.0})
    measured: list[int] = []

    def fake(found: Any, threads: int, *args: Any) -> dict[str, Any]:
        if threads == 2 and measured == [1]:
            raise KeyboardInterrupt
        measured.append(threads)
        return {"threads": threads, "load": [None, None], "engines": [], "ratios": {}, "steps": {}, "skipped": []}

    monkeypatch.setattr(run, "run_case", fake)
    monkeypatch.setattr("tvm_schedules.engines.system.usable_cpus", lambda: [0, 1])
    options = ["--only", tiny, "--quick", "--json", str(tmp_path / "r.json"), "--work", str(tmp_path)]
    assert main(options) == 130
    assert list(json.loads((tmp_path / "r.json").read_text())["entries"]) == ["tiny/1"]
    measured.append(0)
    assert main(options) == 0
    assert measured == [1, 0, 2]  # the first one was not measured again
    capsys.readouterr()


def test_wrong_files_and_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "other.json").write_text("{}")
    for options, message in (
        (["--json", str(tmp_path / "bad.json")], "is damaged"),
        (["--json", str(tmp_path / "other.json")], "is not a file of this suite"),
        (["--compare", str(tmp_path / "bad.json")], "the baseline .* is damaged"),
        (["--compare", str(tmp_path / "none.json")], "cannot read the baseline"),
        (["--only", "vgg"], "--only must name cases or groups .* got vgg"),
        (["--threads", "0"], "--threads must be numbers from 1 to"),
        (["--rounds", "0"], "must be positive, got 0"),
    ):
        assert main(["--work", str(tmp_path), *options]) == 1
        assert re.search(message, " ".join(capsys.readouterr().err.split())), message


def test_a_file_is_made_anew_when_its_source_changes(tmp_path: Path) -> None:
    made: list[str] = []

    def make(path: Path) -> None:
        made.append(path.name)
        path.write_text("x")

    for stamp in ("a", "a", "b"):
        prepare._kept(tmp_path / "f", stamp, make)
    assert made == ["f", "f"]

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        prepare._kept(tmp_path / "f", "c", fail)
    prepare._kept(tmp_path / "f", "c", make)
    assert made == ["f"] * 3  # half a file does not count


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(TernError, match="python cannot be started"):
        prepare.ask_peer(str(tmp_path / "python"), {"prepare": "openvino"})
    with pytest.raises(TernError, match=r"not installed: .*nncf"):
        prepare.ask_peer(sys.executable, {"prepare": "openvino"})


# -- figures -----------------------------------------------------------------------------------------------------------


def engine(name: str, rounds: list[float], ours: bool = False, zeros: int | None = None) -> dict[str, Any]:
    return {"name": name, "rounds_ms": rounds, "min_ms": min(rounds), "ours": ours, "zeros": zeros, "floats": False}


def test_ratios_by_hand() -> None:
    ours = engine("tern 80%", [1.0, 2.0, 1.0], True, 80)
    peers = [engine("a", [3.0, 4.0, 4.0]), engine("b", [2.0, 2.0, 2.0], zeros=80), engine("c", [0.1] * 3, zeros=90)]
    (row,) = run.ratios([ours, *peers]).values()
    assert row["best"] == "b"
    assert set(row["peers"]) == {"a", "b"}  # c has other zeros
    assert row["peers"]["a"] == {"ratio": 3.0, "of_min": 3.0, "noise": pytest.approx((3.5 - 2.5) / 2 / 3)}
    assert row["peers"]["b"]["ratio"] == 2.0  # of 2, 1, 2


def base(ratio: float, noise: float, peer: str = "a") -> dict[str, Any]:
    numbers = {"ratio": ratio, "of_min": ratio, "noise": noise}
    return {
        "machine": {"cpu": "x", "cores": 2},
        "entries": {"mlp/1": {"ratios": {"tern 80%": {"best": peer, "peers": {peer: numbers}}}}},
    }


@pytest.mark.parametrize(
    ("new", "noise", "verdict"),
    [(2.06, 0.0, "same"), (1.7, 0.0, "SLOWER"), (2.4, 0.0, "faster"), (2.4, 0.15, "same")],
)
def test_moves_within_noise_are_no_moves(new: float, noise: float, verdict: str) -> None:
    (change,) = baseline.compare(base(2.0, noise), base(new, noise))
    assert change.verdict == verdict
    assert change.change == pytest.approx(new / 2 - 1)


def test_a_ratio_is_held_against_the_same_peer() -> None:
    (change,) = baseline.compare(base(2.0, 0.0), base(1.0, 0.0, peer="b"))
    assert change.verdict == "not measured"
    lines = [item for item in show.comparison([change], same_machine=False) if isinstance(item, str)]
    assert "another machine" in lines[-1]


def test_share_of_the_ceiling_by_hand() -> None:
    """1e6 taps in 10 us are 100 Gadd/s; half of what the L1 cache gives."""
    step = {"kernel": "sparse", "us": 10.0, "nonzero_macs": 1e6, "macs": 5e6, "operand": "uint8"}
    assert show.shares(step, {"read_l1": 200.0}) == {"compute": pytest.approx(0.5)}
    step = {"kernel": "straight", "us": 10.0, "nonzero_macs": 1e5, "macs": 5e6, "operand": "float32"}
    assert show.shares(step, {"add_f32": 20.0, "read_l1": 7.0}) == {"compute": pytest.approx(0.5)}
    step = {"kernel": "linear_dot", "us": 10.0, "macs": 2e6, "operand": "uint8", "bytes_weights": 500_000}
    assert show.shares(step, {"dot_i8": 400.0, "read_l2": 100.0}) == {
        "compute": pytest.approx(0.5),
        "memory": pytest.approx(0.5),
    }


def test_probe_kernels_compute_what_is_counted(tmp_path: Path) -> None:
    """Additions of ones grow as the rounds say; a read returns the exclusive or of what was read."""
    import tvm

    from tvm_schedules.runtime.buffers import aligned

    spec = resolve("host")
    micro.build(spec, tmp_path / "micro.so")
    library = tvm.runtime.load_module(str(tmp_path / "micro.so"))
    lanes = spec.vector_bytes // 4
    x, out, counts = aligned(micro.LARGEST), aligned(1 << 18), aligned(12).view(np.int32)
    words = x.view(np.int32)
    words[: 33 * lanes] = np.random.default_rng(0).integers(0, 1 << 30, 33 * lanes)
    counts[:] = 1, 2, 16
    for name, first in (("micro_read", 0), ("micro_across", 1)):
        library[name](*(tvm.runtime.from_dlpack(a) for a in (words, out.view(np.int32), counts)))
        expected = np.bitwise_xor.reduce(words[first : first + 32 * lanes].reshape(2, 2, 8, lanes), axis=1)
        assert np.array_equal(out.view(np.int32)[: 16 * lanes].reshape(2, 8, lanes), expected)
    x[:] = 0
    counts[:] = 1, 1, 0
    x.view(np.float32)[: micro.ACCUMULATORS * lanes] = 1
    x.view(np.float32)[micro.ACCUMULATORS * lanes : (micro.ACCUMULATORS + 2) * lanes] = np.repeat([1, 0.5], lanes)
    if "fma_f32" in micro._operations(spec):
        library["micro_fma_f32"](*(tvm.runtime.from_dlpack(a) for a in (x.view("f4"), out.view("f4"), counts)))
        assert np.all(out.view(np.float32)[: micro.ACCUMULATORS * lanes] == 1 + 0.5 * micro.ROUND)


def test_a_failed_ceiling_says_so(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="measuring the machine's ceilings failed"):
        micro.measure_apart(tmp_path / "none.so", [99999])
