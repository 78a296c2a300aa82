"""Artifacts for ARM, run by QEMU on an emulated board that has TVM's runtime and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tvm_schedules
from tests.arm import board
from tests.tvm_schedules import artifact_nets
from tests.tvm_schedules.nets import few_bits, resnet
from tvm_schedules.artifact import load_samples, store

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(board.missing() is not None, reason=str(board.missing())),
]

TARGETS = [("arm", "cortex-a53"), ("a53", "cortex-a53"), ("a72", "cortex-a72"), ("a76", "cortex-a76")]
RUN = """
import sys
import numpy as np
from tvm_schedules import load
from tvm_schedules.artifact import load_samples, store
artifact, output, compare = sys.argv[1:]
inputs, _ = load_samples(artifact)
found = []
for threads in (1, 2):
    model = load(artifact, threads=threads)
    found.append(np.stack([model(*run) for run in inputs]))
heavy = {"onnx", "onnxruntime", "torch", "tvm.relax"} & set(sys.modules)
assert not heavy, heavy
peers = [("model", "DISABLE", True), ("model", "ENABLE", False), ("int8", "ENABLE", True)]
for file, level, fuse in peers if compare == "True" else ():
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}_ALL")
    if not fuse:  # onnxruntime has no integer convolution of 2-bit weights
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(f"{artifact}/{file}.onnx", options)
    names = [entry.name for entry in session.get_inputs()]
    found.append(np.stack([session.run(None, dict(zip(names, run)))[0] for run in inputs]))
np.save(output, np.stack(found))
"""


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    """The board, or a skip where its packages cannot be fetched."""
    try:
        board.prepare()
    except board.BoardError as error:
        pytest.skip(str(error))


def run_on_board(artifact: Path, cpu: str, tmp_path: Path, compare: bool = False) -> np.ndarray:
    """Outputs ``[way, run, ...]``: with one thread and with two, then those of onnxruntime in three settings."""
    file, output = tmp_path / "run.py", tmp_path / "out.npy"
    file.write_text(RUN)
    done = board.run([str(file), str(artifact), str(output), str(compare)], cpu)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.asarray(np.load(output))


@pytest.fixture(scope="module")
def exact() -> onnx.ModelProto:
    return artifact_nets.exact_net()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, exact: onnx.ModelProto) -> Path:
    path = tmp_path_factory.mktemp("host") / "out"
    tvm_schedules.build(exact, path)
    return path


@pytest.mark.parametrize(("target", "cpu"), TARGETS)
def test_board_and_host_and_onnxruntime_on_the_board_agree_bit_for_bit(
    target: str, cpu: str, exact: onnx.ModelProto, host: Path, tmp_path: Path
) -> None:
    artifact = tvm_schedules.build(exact, tmp_path / "out", target)
    assert artifact.metadata["target"]["architecture"] == "aarch64"
    inputs, expected = load_samples(artifact.path)
    model = tvm_schedules.load(host)
    here = np.stack([model(*run) for run in inputs])
    assert len(np.unique(here)) > 8  # outputs that tell something
    np.testing.assert_array_equal(here, np.stack([run[0] for run in expected]))
    # The same file with its weights in 8 bits: onnxruntime then runs its integer kernels for the board's CPU.
    wide = onnx.ModelProto.FromString(exact.SerializeToString())
    for tensor in wide.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT2:
            values = numpy_helper.to_array(tensor).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(wide, artifact.path / "int8.onnx")
    ways = run_on_board(artifact.path, cpu, tmp_path, compare=True)
    assert len(ways) == 5
    for found in ways:
        np.testing.assert_array_equal(found, here)


@pytest.mark.parametrize(("target", "cpu"), TARGETS[:1] + TARGETS[2:])
def test_any_scales_give_the_same_integers_as_on_the_host(target: str, cpu: str, tmp_path: Path) -> None:
    model = artifact_nets.integer_net()
    tvm_schedules.build(model, tmp_path / "host")
    tvm_schedules.build(model, tmp_path / "arm", target)
    here = tvm_schedules.load(tmp_path / "host")
    inputs, _ = load_samples(tmp_path / "arm")
    for found in run_on_board(tmp_path / "arm", cpu, tmp_path):
        np.testing.assert_array_equal(found, np.stack([here(*run) for run in inputs]))


@pytest.mark.parametrize(("target", "cpu"), [("pi4", "cortex-a72"), ("pi5", "cortex-a76")])
def test_resnet20_gives_the_same_classes_and_numbers_as_on_the_host(target: str, cpu: str, tmp_path: Path) -> None:
    stages = [(16, 1)] * 3 + [(32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)]
    model = resnet(stages, 32, zeros=0.8)
    tvm_schedules.build(model, tmp_path / "host")
    artifact = tvm_schedules.build(model, tmp_path / "arm", target)
    here = tvm_schedules.load(tmp_path / "host")
    inputs, _ = load_samples(artifact.path)
    there, wanted = run_on_board(artifact.path, cpu, tmp_path)[0], np.stack([here(*run) for run in inputs])
    # The last layer leaves the 8-bit domain: its scale and bias are float, and may differ in the last bit.
    np.testing.assert_allclose(there, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    np.testing.assert_array_equal(there.argmax(-1), wanted.argmax(-1))


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, exact: onnx.ModelProto) -> Path:
    path = tmp_path_factory.mktemp("versions") / "out"
    tvm_schedules.build(exact, path, "arm")
    return path


VERSIONS = {"cortex-a72": "arm", "cortex-a76": "arm-dotprod", "max,sve=off": "arm-i8mm"}


@pytest.mark.parametrize(("cpu", "version"), VERSIONS.items())
def test_an_artifact_for_any_arm_has_the_version_of_a_core(
    cpu: str, version: str, versions: Path, host: Path, tmp_path: Path
) -> None:
    inputs, _ = load_samples(versions)
    here = np.stack([tvm_schedules.load(host)(*run) for run in inputs])
    for found in run_on_board(versions, cpu, tmp_path):
        np.testing.assert_array_equal(found, here)
    code = f"import tvm_schedules; print(tvm_schedules.load({str(versions)!r}).metadata['target']['name'])"
    done = board.run(["-c", code], cpu)
    assert done.stdout.strip() == version, done.stderr[-3000:]


def test_versions_may_be_left_out_and_not_exchanged(versions: Path, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("without", "other")]
    for place in places:
        shutil.copytree(versions, place)
    shutil.rmtree(places[0] / "core-arm-dotprod")
    written = json.loads((places[1] / "core-arm-dotprod/metadata.json").read_text())
    store.write_metadata(places[1] / "core-arm-dotprod", {**written, "created": "later"})
    code = "import sys, tvm_schedules; print(tvm_schedules.load(sys.argv[1]).metadata['target']['name'])"
    assert board.run(["-c", code, str(places[0])], "cortex-a76").stdout.strip() == "arm"
    done = board.run(["-c", code, str(places[1])], "cortex-a76")
    assert "core-arm-dotprod is damaged: it is not the one that was exported with" in done.stderr


def test_dot_product_library_is_refused_on_a_cpu_without_it(tmp_path: Path) -> None:
    artifact = tvm_schedules.build(artifact_nets.conv_net(), tmp_path / "out", "a76")
    code = f"import tvm_schedules; tvm_schedules.load({str(artifact.path)!r})"
    done = board.run(["-c", code], "cortex-a72")
    assert done.returncode == 1, done.stderr[-3000:]  # an exception, not the signal of an illegal instruction
    last = done.stderr.strip().splitlines()[-1]
    assert "CpuFeatureError" in last
    assert "this machine (Cortex-A72) does not have: dotprod, fullfp16, lse, rdm; export it for target 'arm'" in last


@pytest.mark.parametrize(("target", "middle"), [("a72", "narrow"), ("a76", "dense_panel")])
def test_bits_are_counted_as_on_the_host(target: str, middle: str, tmp_path: Path) -> None:
    model = few_bits()
    x = np.random.default_rng(0).normal(size=(3, 24, 11, 13)).astype(np.float32)
    built = tvm_schedules.build(model, tmp_path / "out", target, samples=x)
    kernels = [layer["kernel"] for layer in built.metadata["layers"]]
    assert kernels == ["popcount", middle, "popcount_linear"]
    found = run_on_board(tmp_path / "out", dict(TARGETS)[target], tmp_path)
    host = tvm_schedules.build(model, tmp_path / "host", samples=x).load()
    for way in found:
        np.testing.assert_array_equal(way, [host(row[None]) for row in x])
