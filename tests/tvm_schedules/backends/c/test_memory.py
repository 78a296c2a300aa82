"""The C form stays inside its memory, compiles without a warning and needs no library."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.tvm_schedules.backends.c import c_runner as portable
from tests.tvm_schedules.backends.c.test_c_target import VARIANTS, random
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import STEP
from tests.tvm_schedules.nets import Net, resnet
from tvm_schedules.backends import toolchain as linking
from tvm_schedules.backends.c.runtime import OPTIONS


def sanitized_nets() -> dict[str, onnx.ModelProto]:
    nets = {"residual": resnet([(8, 1), (16, 2), (16, 1)], 9, 0.6)}
    net = Net((2, 3, 7, 5))
    x = net.quantize("input_0", STEP, 5)
    x = net.op("Conv", x, net.weight((6, 3, 3, 2), 0.2, terms=2), strides=[2, 1], pads=[2, 0, 3, 1], dilations=[1, 2])
    x = net.op("MaxPool", net.quantize(x, STEP, 90), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0])
    x = net.op("Conv", x, net.weight((6, 1, 3, 3), None, int8=True), group=6, pads=[1] * 4)
    x = net.op("AveragePool", x, kernel_shape=[2, 2], pads=[1, 1, 1, 1])
    x = net.op("Conv", x, net.weight((4, 3, 1, 1), 0.5), net.bias(4), group=2)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    nets["mixed"] = net.model(net.op("Gemm", net.quantize(x), net.weight((5, 4), 0.4), transB=1))
    net = Net((1, 3, 40))
    x = net.op("Conv", "input_0", net.weight((8, 3, 5), 0.3), pads=[2, 2], strides=[3])
    x = net.op("Relu", net.op("Conv", x, net.weight((8, 8, 3), None), pads=[1, 1]))
    nets["float, one dimension"] = net.model(net.op("Conv", x, net.weight((2, 8, 14), 0.9)))
    net = Net((33, 20))
    x = net.op("Gemm", net.quantize("input_0", STEP, 100), net.weight((7, 20), 0.5), net.bias(7), transB=1)
    nets["rows"] = net.model(net.op("Gemm", net.quantize(net.op("Relu", x)), net.weight((3, 7), None), transB=1))
    net = Net((1, 2, 3, 4, 5))
    x = net.quantize("input_0", STEP, 100)
    nets["three dimensions"] = net.model(net.op("Conv", x, net.weight((3, 2, 2, 3, 3), 0.5), pads=[1] * 6))
    net = Net((1, 32, 11, 9))
    x = net.op("Conv", net.quantize("input_0", STEP, 9), net.weight((8, 32, 3, 3), 0.02, shared=4), pads=[1] * 4)
    x = net.quantize(net.op("Relu", x), STEP, 0)
    x = net.quantize(net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), STEP, 0)
    x = net.quantize(net.op("Conv", x, net.weight((6, 8, 3, 3), 0.5, shared=2), net.bias(6), pads=[1] * 4), STEP, 90)
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    nets["shared zeros and pools"] = net.model(net.quantize(x, STEP, 90))
    return nets


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", sorted(sanitized_nets()))
def test_nothing_outside_the_memory_is_touched(tmp_path: Path, name: str, variant: str) -> None:
    """Every tensor in memory of its own, of its own size: AddressSanitizer and UndefinedBehaviorSanitizer."""
    compiler = portable.sanitizer()
    if compiler is None:
        pytest.skip("no C compiler with sanitizers")
    model = sanitized_nets()[name]
    plan = portable.generate(model, tmp_path)
    inputs = [random(*entry.shape) for entry in plan.inputs]
    portable.apart(tmp_path)
    program = portable.build_program(tmp_path, plan, [*compiler, *VARIANTS[variant]])
    wanted = portable.as_list(portable.host_model(model, tmp_path / "plain")(*inputs))
    for ours, theirs in zip(portable.run_program([str(program)], plan, inputs), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(sanitized_nets()))
def test_nothing_undefined_is_done(tmp_path: Path, name: str) -> None:
    """clang's checks, which stop at an offset to a NULL pointer too; gcc's do not see that."""
    if not linking._has_zig():
        pytest.skip("ziglang is not installed")
    plan = portable.generate(sanitized_nets()[name], tmp_path)
    command = [sys.executable, "-m", "ziglang", "cc", "-std=c99", "-O1", "-fsanitize=undefined"]
    program = portable.build_program(tmp_path, plan, [*command, "-fsanitize-trap=undefined"])
    portable.run_program([str(program)], plan, [random(*entry.shape) for entry in plan.inputs])


def test_the_sanitizer_test_can_fail(tmp_path: Path) -> None:
    compiler = portable.sanitizer()
    if compiler is None:
        pytest.skip("no C compiler with sanitizers")
    model = sanitized_nets()["residual"]
    plan = portable.generate(model, tmp_path)
    portable.apart(tmp_path)
    path = tmp_path / "model.c"
    path.write_text(re.sub(r"\.height = 5\b", ".height = 90", path.read_text()))
    program = portable.build_program(tmp_path, plan, compiler)
    with pytest.raises(AssertionError, match="AddressSanitizer"):
        portable.run_program([str(program)], plan, [random(*entry.shape) for entry in plan.inputs])


def test_source_compiles_without_a_warning_and_needs_no_library(tmp_path: Path) -> None:
    compiler = next((name for name in ("gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        pytest.skip("no gcc or clang")
    for name, model in sanitized_nets().items():
        folder = tmp_path / name.replace(" ", "_")
        portable.generate(model, folder)
        command = [
            compiler,
            *OPTIONS,
            "-Wall",
            "-Wextra",
            "-Wconversion",
            "-Wno-sign-conversion",
            "-Wdouble-promotion",
            "-Wfloat-equal",
            "-Werror",
            "-pedantic",
        ]
        command += ["-c", str(folder / "model.c"), "-o", str(folder / "model.o")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, done.stderr[:3000]
        if shutil.which("nm"):
            wanted = subprocess.run(
                ["nm", "-u", str(folder / "model.o")], capture_output=True, text=True
            ).stdout.split()
            assert set(wanted) <= {"U", "memcpy", "memset", "_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
