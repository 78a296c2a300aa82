"""Layers in parts: the same numbers in less memory; inputs in the arena."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest

from benchmarks.mcu.networks import live_bytes
from tests.tvm_schedules.backends.c import c_runner as portable
from tests.tvm_schedules.backends.c.test_c_target import random
from tests.tvm_schedules.nets import Net, resnet, run_onnx
from tvm_schedules.backends.c import compile as compiling
from tvm_schedules.backends.c import parts


def separable(before_pool: int = 16) -> onnx.ModelProto:
    """Pointwise layers before depthwise ones, with stride 1 and 2, an average of floats at the end."""
    net = Net((1, 3, 15, 13), seed=2)
    x = net.quantize("input_0", 0.02, 128)
    x = net.quantize(net.op("Relu", net.op("Conv", x, net.weight((8, 3, 3, 3), 0.5), net.bias(8), pads=[1] * 4)))
    for channels, stride, dense in ((8, 1, False), (16, 2, True)):
        x = net.op("Conv", x, net.weight((channels, 8, 1, 1), 0.4, terms=2), net.bias(channels))
        x = net.quantize(net.op("Relu", x))
        weight = net.weight((channels, 1, 3, 3), None, int8=True) if dense else net.weight((channels, 1, 3, 3), 0.3)
        x = net.op("Conv", x, weight, net.bias(channels), pads=[1] * 4, strides=[stride] * 2, group=channels)
        x = net.quantize(net.op("Relu", x))
    x = net.op("Relu", net.op("Conv", x, net.weight((before_pool, 16, 1, 1), 0.5), net.bias(before_pool)))
    x = net.quantize(net.op("Flatten", net.op("GlobalAveragePool", x)))
    return net.model(net.op("Gemm", x, net.weight((5, before_pool), 0.4), transB=1))


def shortcuts() -> onnx.ModelProto:
    return resnet([(16, 1), (24, 2), (32, 2)], 13, 0.7)


def depthwise_first() -> onnx.ModelProto:
    """A depthwise layer whose floats are averaged: nothing before it is computed in parts."""
    net = Net((1, 16, 11, 9), seed=3)
    x = net.quantize(net.op("MaxPool", net.quantize("input_0", 0.02, 128), kernel_shape=[2, 2]), 0.02, 128)
    x = net.op("Relu", net.op("Conv", x, net.weight((16, 1, 3, 3), 0.3), net.bias(16), pads=[1] * 4, group=16))
    return net.model(
        net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", x)), net.weight((5, 16), 0.4), transB=1)
    )


def unequal() -> onnx.ModelProto:
    """Levels that differ in one channel only: the layer stays whole."""
    net = Net((1, 4, 16, 16))
    codes = net.codes((16, 4, 3, 3), 0.4).astype(np.float32)
    codes[5] = np.where(codes[5] > 0, 3.0, codes[5])
    x = net.op("Conv", net.quantize("input_0", 0.05, 90), net.const(codes * np.float32(0.1)), pads=[1] * 4)
    return net.model(net.op("GlobalAveragePool", net.op("Relu", x)))


def beside_itself() -> onnx.ModelProto:
    """A layer that reads all of the tensor whose channels are added to its own: only as the residual it is in parts."""
    net = Net((1, 16, 11, 9), seed=4)
    x = net.quantize("input_0", 0.02, 128)
    for groups in (1, 16):
        weight = net.weight((16, 16 // groups, 3, 3), 0.5)
        added = net.op("Add", net.op("Conv", x, weight, net.bias(16), pads=[1] * 4, group=groups), x)
        x = net.quantize(net.op("MaxPool", net.quantize(net.op("Relu", added)), kernel_shape=[2, 2], strides=[2, 2]))
    return net.model(net.op("Gemm", net.op("Flatten", x), net.weight((5, 16 * 2 * 2), 0.4), transB=1))


@pytest.mark.parametrize("count", [None, 2, 4, 8])
@pytest.mark.parametrize("make", [separable, shortcuts, depthwise_first, unequal, beside_itself])
def test_parts_change_no_number(tmp_path: Path, make: Callable[[], onnx.ModelProto], count: int | None) -> None:
    """In as many parts as memory asks for, and in a given number of them, under the sanitizers too."""
    model = make()
    with mock.patch.object(compiling, "in_parts", lambda steps, *_: steps):
        whole = portable.host_model(model, tmp_path / "whole")
    with mock.patch.object(parts, "COUNTS", parts.COUNTS if count is None else (count,)):
        plan = portable.generate(model, tmp_path / "parts")
    x = random(*plan.inputs[0].shape)
    wanted = whole(x)
    np.testing.assert_allclose(wanted, run_onnx(model, x)[0], rtol=0, atol=0.03 * float(np.abs(wanted).max()))
    compiler = portable.sanitizer() or ["cc"]
    portable.apart(tmp_path / "parts")
    program = portable.build_program(tmp_path / "parts", plan, compiler)
    np.testing.assert_array_equal(portable.run_program([str(program)], plan, [x])[0], wanted)
    more = len(plan.steps) - len(whole.plan.steps)
    if count is None:
        assert (plan.arena_bytes or 0) <= (whole.plan.arena_bytes or 0)
    else:
        assert (more == 0) == (make is unequal)
    assert all(layer.bytes > 0 for layer in plan.layers)


def test_memory_that_parts_save(tmp_path: Path) -> None:
    """A wide float tensor before the average does not live as a whole, nor does a shortcut."""
    for model, most in ((separable(256), 0.6), (resnet([(16, 1), (32, 2)], 32, 0.8), 0.8)):
        with mock.patch.object(compiling, "in_parts", lambda steps, *_: steps):
            whole = portable.generate(model, tmp_path / "whole").arena_bytes
        made = portable.generate(model, tmp_path / "parts").arena_bytes
        assert made is not None
        assert whole is not None
        assert made < most * whole


def test_what_lives_at_the_same_time(tmp_path: Path) -> None:
    """Halos, shortcuts and scratch take little besides the tensors, a byte for each element, of a residual network."""
    model = resnet([(16, 1), (32, 2), (64, 2)], 32, 0.8)
    plan = portable.generate(model, tmp_path)
    assert any(
        ":every" in step.name for step in plan.steps
    )  # of a shortcut with a stride, only the pixels that it reads
    assert (plan.arena_bytes or 0) <= 1.15 * live_bytes(model)


def test_input_in_the_arena(tmp_path: Path) -> None:
    model = separable()
    plan = portable.generate(model, tmp_path)
    library = portable.host_model(model, tmp_path / "host")
    q = np.random.default_rng(3).integers(0, 256, plan.inputs[0].shape).astype(np.uint8)
    (tmp_path / "main.c").write_text(
        '#include "model.h"\n#include <stdio.h>\n#include <stdlib.h>\nint main(void)\n{\n'
        "    uint8_t *arena = malloc(MODEL_ARENA_BYTES_WITH_INPUT), *input = arena + MODEL_INPUT_OFFSET;\n"
        "    static float y[MODEL_OUTPUT_ELEMENTS];\n"
        "    if (fread(input, 1, MODEL_INPUT_ELEMENTS, stdin) != MODEL_INPUT_ELEMENTS) return 2;\n"
        "    if (model_run_quantized_arena(arena, MODEL_ARENA_BYTES_WITH_INPUT, input, y)) return 3;\n"
        "    fwrite(y, sizeof *y, MODEL_OUTPUT_ELEMENTS, stdout);\n    free(arena);\n    return 0;\n}\n"
    )
    program = str(tmp_path / "program")
    compiler = portable.sanitizer() or ["cc"]
    subprocess.run([*compiler, str(tmp_path / "main.c"), str(tmp_path / "model.c"), "-o", program], check=True)
    done = subprocess.run([program], input=q.tobytes(), capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32), library.run_quantized(q).ravel())
