"""The C form of a network gives the library's numbers, bit for bit, and stays inside its memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper

from tvm_schedules.errors import ArtifactError, BenchError, InputError, UnsupportedOperatorError
from tvm_schedules.portable.codes import encode, gaps, trits
from tvm_schedules.portable.host import OPTIONS
from tvm_schedules.portable.lower import compile_portable
from tvm_schedules.targets import resolve

from . import portable_runner as portable
from .nets import Net, Runner, resnet, run_onnx
from .test_kernels import STEP, Case, build, cases

FUSED = "fma" in resolve("host").features or resolve("host").arm64
"""Whether the library multiplies and adds with one rounding on this machine, as the C code does everywhere."""


VARIANTS: dict[str, tuple[str, ...]] = {"vectors": (), "native": ("-march=native",), "words": ("-DTERN_SCALAR",)}
"""Options of the compiler for the code's variants: 16-byte vectors, with this CPU's multiply-add, 4-byte words."""


def equal(model: onnx.ModelProto, folder: Path, *inputs: np.ndarray, variants: tuple[str, ...] = ("vectors",)) -> None:
    """C against the library."""
    wanted = Runner(model)(*inputs)
    for variant in variants:
        have = portable.as_list(portable.host_model(model, folder, VARIANTS[variant])(*inputs))
        for ours, theirs in zip(have, wanted, strict=True):
            if FUSED:
                np.testing.assert_array_equal(ours, theirs, err_msg=variant)
            else:
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=variant)


def random(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_convolution(tmp_path: Path, case: Case) -> None:
    net, y, out = build(case)
    inputs = [random(*s, seed=case.seed) for s in ((case.batch, case.groups * case.fan, *case.dims), out)]
    equal(net.model(y), tmp_path, *inputs, variants=("native", "words"))


@pytest.mark.parametrize("zero", [None, 40])
@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 2, 33)])
def test_pooling(tmp_path: Path, zero: int | None, shape: tuple[int, ...]) -> None:
    net, rank = Net(shape), len(shape) - 2
    x = "input_0" if zero is None else net.quantize("input_0", STEP, zero)
    outputs = []
    for op, pad, extra in (
        ("Max", 1, {}),
        ("Average", 1, {}),
        ("Average", 0, {}),
        ("Average", 1, {"count_include_pad": 1}),
    ):
        pads = [pad] * (2 * rank)
        y = net.op(f"{op}Pool", x, kernel_shape=[3] * rank, strides=[2] * rank, pads=pads, **extra)
        outputs.append(net.quantize(y, 0.0373, zero) if zero is not None else y)
    equal(net.model(*outputs), tmp_path, random(*shape) - np.float32(0.5), variants=("vectors", "words"))


@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize(("zero", "out"), [(None, None), (0, 20), (128, None)])
def test_linear(tmp_path: Path, rows: int, zero: int | None, out: int | None) -> None:
    net = Net((rows, 300))
    x = "input_0" if zero is None else net.quantize("input_0", STEP, zero)
    outputs = []
    for zeros, terms in ((0.6, 1), (0.97, 1), (0.5, 2), (None, 1)):
        y = net.op("Gemm", x, net.weight((45, 300), zeros, terms, int8=zero is not None), net.bias(45), transB=1)
        outputs.append(net.quantize(net.op("Relu", y), STEP, out) if out is not None else y)
    equal(net.model(*outputs), tmp_path, random(rows, 300))


@pytest.mark.parametrize("quantized", [False, True])
def test_unequal_levels(tmp_path: Path, quantized: bool) -> None:
    net = Net((1, 6, 9, 9))
    weight = net.codes((7, 6, 3, 3), 0.4).astype(np.float32)
    weight = np.where(weight > 0, 0.31, np.where(weight < 0, -0.12, 0)).astype(np.float32)
    x = net.quantize("input_0", STEP, 9) if quantized else "input_0"
    y = net.op("Conv", x, net.const(weight), net.bias(7), pads=[1] * 4)
    flat = net.op("Flatten", net.op("GlobalAveragePool", y))
    flat = net.quantize(flat, STEP, 100) if quantized else flat
    head = net.codes((5, 7), 0.3).astype(np.float32)
    head = np.where(head > 0, 0.5, np.where(head < 0, -0.25, 0)).astype(np.float32)
    head = np.concatenate([head, np.float32([[0.5, -0.25, 0.5, 0, 0.5, 0, -0.25]])])
    equal(net.model(net.op("Gemm", flat, net.const(head), transB=1), y), tmp_path, random(1, 6, 9, 9))


def test_rows_longer_than_sixteen_bits(tmp_path: Path) -> None:
    net = Net((1, 300, 5, 5))
    codes = np.ones((5, 300, 3, 3), np.int8)
    codes[1] = -1
    codes[2, ::2] = -1
    codes[3] = 0
    codes[4, 1:299] = 0  # a gap that one byte does not hold
    weight = net.ternary(codes, np.full(5, 1e-3))
    y = net.op("Conv", net.quantize("input_0", 1.0, 0), weight, pads=[1] * 4)
    full = np.full((1, 300, 5, 5), 255, np.float32)
    equal(net.model(y), tmp_path, full)
    np.testing.assert_allclose(
        portable.host_model(net.model(y), tmp_path)(full), run_onnx(net.model(y), full)[0], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("int8", [False, True])
def test_residual_network_and_its_quantised_entry(tmp_path: Path, int8: bool) -> None:
    model = resnet([(16, 1), (32, 2), (32, 1)], 17, 0.8, int8=int8)
    equal(model, tmp_path, random(1, 3, 17, 17))
    library = portable.host_model(model, tmp_path)
    quant = library.inputs[0]["quant"]
    assert quant == {"scale": pytest.approx(0.02), "zero_point": 128}
    q = np.random.default_rng(0).integers(0, 256, (1, 3, 17, 17)).astype(np.uint8)
    real = ((q.astype(np.int32) - 128) * np.float32(quant["scale"])).astype(np.float32)
    np.testing.assert_array_equal(library.run_quantized(q), library(real))


def test_both_ends_in_eight_bits(tmp_path: Path) -> None:
    net = Net((1, 4, 6, 6), (1, 4, 6, 6))
    a, b = net.quantize("input_0", STEP, 3), net.quantize("input_1", 0.07, 128)
    y = net.op("Add", net.op("Conv", a, net.weight((4, 4, 3, 3), 0.5), pads=[1] * 4), b)
    model = net.model(net.quantize(y, 0.1, 100))
    inputs = [random(1, 4, 6, 6), random(1, 4, 6, 6, seed=6)]
    equal(model, tmp_path, *inputs)
    library = portable.host_model(model, tmp_path)
    codes = [
        np.clip(np.rint(x / np.float32(s)) + z, 0, 255).astype(np.uint8)
        for x, (s, z) in zip(inputs, [(STEP, 3), (0.07, 128)], strict=True)
    ]
    got = library.run_quantized(*codes)
    assert got.dtype == np.uint8
    np.testing.assert_allclose((got.astype(np.float32) - 100) * np.float32(0.1), library(*inputs), atol=1e-6)
    assert "const uint8_t *input_0, const uint8_t *input_1, uint8_t *" in (tmp_path / "model.h").read_text()


def test_float_input_without_one_8bit_form_has_no_quantised_entry(tmp_path: Path) -> None:
    net = Net((1, 4, 6, 6))
    x = net.op("Conv", "input_0", net.weight((4, 4, 1, 1), 0.5))
    library = portable.host_model(net.model(net.quantize(x)), tmp_path)
    assert "quantized" not in (tmp_path / "model.h").read_text()
    with pytest.raises(InputError, match="no 8-bit form"):
        library.run_quantized(np.zeros((1, 4, 6, 6), np.uint8))


def test_8bit_input(tmp_path: Path) -> None:
    net = Net((1, 2, 5, 5))
    net.inputs = [helper.make_tensor_value_info("input_0", TensorProto.UINT8, (1, 2, 5, 5))]
    x = net.op("DequantizeLinear", "input_0", net.const(np.float32(STEP)), net.const(np.uint8(7)))
    model = net.model(net.op("Conv", x, net.weight((3, 2, 3, 3), 0.3)))
    equal(model, tmp_path, np.random.default_rng(0).integers(0, 256, (1, 2, 5, 5)).astype(np.uint8))


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
    inputs = [random(*entry["shape"]) for entry in plan["inputs"]]
    portable.apart(tmp_path)
    program = portable.build_program(tmp_path, plan, [*compiler, *VARIANTS[variant]])
    wanted = portable.as_list(portable.host_model(model, tmp_path / "plain")(*inputs))
    for ours, theirs in zip(portable.run_program([str(program)], plan, inputs), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


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
        portable.run_program([str(program)], plan, [random(*entry["shape"]) for entry in plan["inputs"]])


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


def test_bad_calls_are_refused(tmp_path: Path) -> None:
    plan = portable.generate(resnet([(8, 1)], 6, 0.5), tmp_path)
    (tmp_path / "bad.c").write_text(
        '#include "model.h"\n#include <stdio.h>\nstatic double arena[MODEL_ARENA_BYTES / 8 + 1];\n'
        "static float x[MODEL_INPUT_ELEMENTS], y[MODEL_OUTPUT_ELEMENTS];\nint main(void)\n{\n"
        '    printf("%d %d %d %d %d %d\\n", model_run(0, y), model_run(x, 0), model_run_arena(0, 1 << 30, x, y),\n'
        "        model_run_arena(arena, MODEL_ARENA_BYTES - 1, x, y),\n"
        "        model_run_arena((char *)arena + 4, MODEL_ARENA_BYTES, x, y),\n"
        "        model_run_arena(arena, MODEL_ARENA_BYTES, x, y));\n    return 0;\n}\n"
    )
    program = portable.build_program(tmp_path, plan, ["cc"])
    files = [str(tmp_path / "bad.c"), str(tmp_path / "model.c")]
    subprocess.run(["cc", *files, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-1"] * 5 + ["0"]


def test_unsupported_operator_is_named() -> None:
    net = Net((1, 4, 6, 6))
    x = net.op("Conv", net.quantize("input_0"), net.weight((4, 4, 3, 3), 0.5))
    model = net.model(net.op("Sigmoid", x))
    with pytest.raises(
        UnsupportedOperatorError, match=r"target c has no code for the operator Sigmoid of node 'sigmoid"
    ):
        compile_portable(model, resolve("c"))


def decode_trits(data: np.ndarray, n: int) -> list[list[int]]:
    width = -(-n // 5)
    rows = []
    for start in range(0, len(data), width):
        row = []
        for byte in data[start : start + width].tolist():
            for _ in range(5):
                byte *= 3
                row.append((byte >> 8) - 1)
                byte &= 255
        rows.append(row[:n])
    return rows


def test_trits_hold_every_byte() -> None:
    rows = np.array(np.meshgrid(*[[-1, 0, 1]] * 5)).reshape(5, -1).T.astype(np.int8)
    assert decode_trits(trits(rows), 5) == rows.tolist()
    assert decode_trits(trits(rows[:, :3]), 3) == rows[:, :3].tolist()


@pytest.mark.parametrize("n", [1, 253, 254, 255, 256, 508, 509, 1000])
def test_gaps_of_any_length(n: int) -> None:
    for at in (0, n - 1):
        row = np.zeros((1, n), np.int8)
        row[0, at] = -1
        data, place, sign = gaps(row).tolist(), -1, 1
        found = []
        for byte in data:
            if byte == 0:
                place, sign = -1, sign - 1
                continue
            place += 254 if byte == 255 else byte
            if byte != 255:
                found.append((place, sign))
        assert found == [(at, 0)]
        assert sign == -1


def test_the_shorter_code_is_taken() -> None:
    rng = np.random.default_rng(0)
    for zeros, is_gaps in ((0.3, False), (0.75, False), (0.9, True), (1.0, True)):
        rows = (rng.choice([-1, 1], (20, 500)) * (rng.random((20, 500)) >= zeros)).astype(np.int8)
        data, found = encode(rows)
        assert found == is_gaps
        assert len(data) == min(len(trits(rows)), len(gaps(rows)))


def test_artifact(tmp_path: Path) -> None:
    import tvm_schedules
    from tvm_schedules.bench.measure import bench
    from tvm_schedules.linking import _has_zig

    model, lines = resnet([(8, 1)], 6, 0.5), []
    samples = random(3, 3, 6, 6)
    artifact = tvm_schedules.build(model, tmp_path / "out", "c", samples=samples, progress=lines.append)
    files = {path.name for path in artifact.path.iterdir()}
    assert files == {
        "model.c", "model.h", "model_weights.h", "model_sample.h", "model.onnx", "samples.npz", "metadata.json"
    }  # fmt: skip
    assert artifact.report is not None
    assert artifact.report.where == "C code"
    memory = artifact.metadata["memory"]
    assert f"#define MODEL_ARENA_BYTES {memory['arena_bytes']}" in (artifact.path / "model.h").read_text()
    assert any(line.startswith(f"RAM: {memory['arena_bytes']:,} bytes") for line in lines)
    assert any(line.startswith("flash: ") for line in lines)
    if _has_zig():
        sizes = memory["cortex_m7"]
        assert sizes["ram"] == memory["arena_bytes"]
        assert sizes["constants"] >= memory["constant_bytes"]
        assert 1000 < sizes["code"] < 20_000
    loaded = tvm_schedules.load(artifact.path)
    np.testing.assert_array_equal(loaded(samples[:1]), portable.host_model(model, tmp_path / "plain")(samples[:1]))
    (tmp_path / "self.c").write_text(
        '#include "model.h"\n#include "model_sample.h"\n#include <string.h>\nint main(void)\n{\n'
        "    float y[MODEL_OUTPUT_ELEMENTS];\n"
        "    return model_run(model_sample_input, y) || memcmp(y, model_sample_output, sizeof y);\n}\n"
    )
    program = str(tmp_path / "self")
    sources = [str(tmp_path / "self.c"), str(artifact.path / "model.c")]
    subprocess.run(["cc", f"-I{artifact.path}", *sources, "-o", program], check=True)
    assert subprocess.run([program]).returncode == 0
    with pytest.raises(BenchError, match="is C source"):
        bench(artifact.path)
    with pytest.raises(ArtifactError, match="as a whole"):
        loaded.run_steps(0, 1)
