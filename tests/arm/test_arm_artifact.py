"""Artifacts for ARM, run by QEMU on an emulated board that has TVM's runtime and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvm_schedules
from tests.arm import board
from tests.tvm import artifact_nets
from tests.tvm.nets import resnet
from tvm_schedules.artifact import load_samples

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(board.missing() is not None, reason=str(board.missing())),
]

RUN = """
import sys
import numpy as np
from tvm_schedules import load
from tvm_schedules.artifact import load_samples
model = load(sys.argv[1], threads=int(sys.argv[3]))
inputs, _ = load_samples(sys.argv[1])
np.save(sys.argv[2], np.stack([model(*run) for run in inputs]))
heavy = {"onnx", "onnxruntime", "torch", "tvm.relax"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(scope="module", autouse=True)
def ready() -> None:
    """The board, or a skip where its packages cannot be fetched."""
    try:
        board.prepare()
    except board.BoardError as error:
        pytest.skip(str(error))


def run_on_board(artifact: Path, cpu: str, tmp_path: Path, threads: int = 1) -> np.ndarray:
    script, output = tmp_path / "run.py", tmp_path / "out.npy"
    script.write_text(RUN)
    done = board.run([str(script), str(artifact), str(output), str(threads)], cpu)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.asarray(np.load(output))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("host") / "out"
    tvm_schedules.build(artifact_nets.conv_net(), path)
    return path


@pytest.mark.parametrize(
    ("target", "cpu", "threads"),
    [("arm", "cortex-a53", 1), ("pi3", "cortex-a53", 2), ("pi4", "cortex-a72", 1), ("pi5", "cortex-a76", 1)],
)
def test_board_and_host_agree(target: str, cpu: str, threads: int, host: Path, tmp_path: Path) -> None:
    artifact = tvm_schedules.build(artifact_nets.conv_net(), tmp_path / "out", target)
    inputs, expected = load_samples(artifact.path)
    model = tvm_schedules.load(host)
    here = np.stack([model(*run) for run in inputs])
    there = run_on_board(artifact.path, cpu, tmp_path, threads)
    # Integer layers agree bit for bit; the float layer at the end adds in another order.
    np.testing.assert_allclose(there, here, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(there, np.stack([run[0] for run in expected]), rtol=0.05, atol=0.05)


def test_integer_outputs_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    model = artifact_nets.integer_net()
    tvm_schedules.build(model, tmp_path / "host")
    tvm_schedules.build(model, tmp_path / "arm", "pi4")
    here = tvm_schedules.load(tmp_path / "host")
    inputs, _ = load_samples(tmp_path / "arm")
    there = run_on_board(tmp_path / "arm", "cortex-a72", tmp_path)
    np.testing.assert_array_equal(there, np.stack([here(*run) for run in inputs]))


@pytest.mark.parametrize(("target", "cpu"), [("pi4", "cortex-a72"), ("pi5", "cortex-a76")])
def test_resnet20_gives_the_same_classes_and_numbers_as_on_the_host(target: str, cpu: str, tmp_path: Path) -> None:
    stages = [(16, 1)] * 3 + [(32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)]
    model = resnet(stages, 32, zeros=0.8)
    tvm_schedules.build(model, tmp_path / "host")
    artifact = tvm_schedules.build(model, tmp_path / "arm", target)
    here = tvm_schedules.load(tmp_path / "host")
    inputs, _ = load_samples(artifact.path)
    there, wanted = run_on_board(artifact.path, cpu, tmp_path), np.stack([here(*run) for run in inputs])
    # The last layer leaves the 8-bit domain: its scale and bias are float, and may differ in the last bit.
    np.testing.assert_allclose(there, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    np.testing.assert_array_equal(there.argmax(-1), wanted.argmax(-1))


def test_dot_product_library_is_refused_on_a_cpu_without_it(tmp_path: Path) -> None:
    artifact = tvm_schedules.build(artifact_nets.conv_net(), tmp_path / "out", "a76")
    code = f"import tvm_schedules; tvm_schedules.load({str(artifact.path)!r})"
    done = board.run(["-c", code], "cortex-a72")
    assert done.returncode == 1, done.stderr[-3000:]  # an exception, not the signal of an illegal instruction
    last = done.stderr.strip().splitlines()[-1]
    assert "CpuFeatureError" in last
    assert "does not have: dotprod, fullfp16, lse, rdm; export it for target 'arm'" in last
