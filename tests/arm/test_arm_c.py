"""The C form of networks on 64-bit, 32-bit and microcontroller ARM CPUs under QEMU: the host's numbers, bit for bit."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tvm_schedules
from tests.tvm_schedules.backends.c import c_runner as portable
from tests.tvm_schedules.nets import resnet

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="zig is missing: pip install ziglang"),
]

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "c"
# zig's target and CPU, QEMU and its CPU. QEMU 7.2's user mode cannot start M-profile CPUs; their code is part of what
# the "max" CPU runs. The Cortex-A9 multiplies and adds with two roundings, the M3, M0 and ARM11 have no floating point.
CPUS = {
    "cortex-a53": ("aarch64-freestanding", "cortex_a53", "qemu-aarch64", "cortex-a53"),
    "cortex-a7": ("arm-freestanding-eabihf", "cortex_a7", "qemu-arm", "cortex-a7"),
    "cortex-a9": ("arm-freestanding-eabihf", "cortex_a9", "qemu-arm", "cortex-a9"),
    "arm1176": ("arm-freestanding-eabi", "arm1176jzf_s", "qemu-arm", "arm1176"),
    "cortex-m7": ("thumb-freestanding-eabihf", "cortex_m7+fp_armv8d16sp", "qemu-arm", "max"),
    "cortex-m4": ("thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp", "qemu-arm", "max"),
    "cortex-m3": ("thumb-freestanding-eabi", "cortex_m3", "qemu-arm", "max"),
    "cortex-m0": ("thumb-freestanding-eabi", "cortex_m0", "qemu-arm", "max"),
}
MODEL = resnet([(16, 1), (24, 2), (24, 1)], 13, 0.7)


def zig(target: str, cpu: str, *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, f"-mcpu={cpu}", "-O2", "-g0"]
    done = subprocess.run([*command, "-fno-sanitize=all", *map(str, arguments)], capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]


@pytest.mark.parametrize("name", sorted(CPUS))
def test_same_numbers_as_on_the_host(tmp_path: Path, name: str) -> None:
    target, cpu, qemu, model = CPUS[name]
    if shutil.which(qemu) is None:
        pytest.skip(f"{qemu} is not installed (Debian: apt-get install qemu-user)")
    plan = portable.generate(MODEL, tmp_path)
    program = tmp_path / "program"
    zig(target, cpu, f"-I{tmp_path}", HERE / "start.c", tmp_path / "model.c", "-o", program)
    host = portable.host_model(MODEL, tmp_path / "host")
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=plan.inputs[0].shape).astype(np.float32)
        (ours,) = portable.run_program([qemu, "-cpu", model, str(program)], plan, [x])
        np.testing.assert_array_equal(ours, host(x))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tvm_schedules.build(MODEL, tmp_path_factory.mktemp("c") / "out", "c").path


def test_example_runs_here(artifact: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    subprocess.run(["cmake", "-S", EXAMPLE, "-B", tmp_path, f"-DMODEL_DIR={artifact}"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", tmp_path], check=True, capture_output=True)
    done = subprocess.run([tmp_path / "demo"], capture_output=True, text=True)
    assert "bit for bit" in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize("broken", [False, True])
def test_example_runs_on_a_cortex_m7_board(artifact: Path, tmp_path: Path, broken: bool) -> None:
    """Without an operating system: vectors, memory map and floating point unit of QEMU's MPS2 board.

    The commands are the documented ones, but for zig in the place of GCC, which builds for a Cortex-M7.
    """
    for tool in ("qemu-system-arm", "cmake"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: apt-get install {tool})")
    folder = tmp_path / "model"
    shutil.copytree(artifact, folder)
    if broken:
        text = (folder / "model.c").read_text()
        assert "(float)sum[k], scale" in text
        (folder / "model.c").write_text(text.replace("(float)sum[k], scale", "(float)sum[k], -scale"))
    lines = [line.strip() for line in (EXAMPLE / "README.md").read_text().splitlines()]
    build = [line for line in lines if "build/m4" in line]
    assert len(build) == 3
    seven = (("gcc.cmake -DCORE=cortex-m4", "zig.cmake"), ("mps2-an386", "mps2-an500"))
    for old, new in (("$PWD/out", folder), ("build/m4", tmp_path / "m7"), *seven):
        assert any(old in line for line in build)
        build = [line.replace(old, str(new)) for line in build]
    for line in build[:2]:
        # CMake looks for zig in the environment that is active, which a test's need not be.
        env = {**os.environ, "VIRTUAL_ENV": sys.prefix}
        made = subprocess.run(["sh", "-c", line], cwd=EXAMPLE.parents[1], capture_output=True, text=True, env=env)
        assert not made.returncode, made.stdout + made.stderr
        assert "warning" not in made.stderr
    done = subprocess.run(build[2].split(), capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    said = "the output differs" if broken else "bit for bit"
    assert said in done.stderr, done.stdout + done.stderr  # semihosting writes there
    assert done.returncode == int(broken)
