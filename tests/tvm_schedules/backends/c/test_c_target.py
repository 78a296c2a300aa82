"""The C form of a network gives the library's numbers, bit for bit."""

from __future__ import annotations

import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given
from onnx import TensorProto, helper

from tests.properties import compilations, more_data
from tests.tvm_schedules.backends.c import c_runner as portable
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import STEP, Case, build, cases
from tests.tvm_schedules.compiling import compile_c
from tests.tvm_schedules.nets import Net, Runner, resnet, run_onnx
from tvm_schedules.backends.cpu.kernels import sparse_conv_patterns, sparse_conv_unrolled
from tvm_schedules.errors import BenchError, InputError, UnsupportedOperatorError
from tvm_schedules.runtime.model import SteppedModel
from tvm_schedules.targets.registry import resolve

FUSED = "fma" in resolve("host").features or resolve("host").arm64
"""Whether the library multiplies and adds with one rounding on this machine, as the C code does everywhere."""


VARIANTS: dict[str, tuple[str, ...]] = {
    "vectors": (),
    "native": ("-march=native",),
    "words": ("-DTERN_SCALAR",),
    "fixed": ("-DTERN_SCALAR", "-DTERN_FIXED"),
}
"""Options of the compiler for the code's variants: 16-byte vectors, with this CPU's multiply-add, 4-byte words, and
bytes made in whole numbers as on cores without floating point. tests/arm has those of Cortex-M cores."""


def equal(model: onnx.ModelProto, folder: Path, *inputs: np.ndarray, variants: tuple[str, ...] = ("vectors",)) -> None:
    """C against the library, whose sums of floats are made in the order of C's lists."""
    with (
        mock.patch.object(sparse_conv_unrolled, "MOST_DENSITY", 0.0),
        mock.patch.object(sparse_conv_patterns, "_others_time", return_value=0.0),
    ):
        library = Runner(model)
    data = list(more_data(inputs))
    wanted = [library(*arrays) for arrays in data]
    for variant in variants:
        code = portable.host_model(model, folder, VARIANTS[variant])
        for arrays, expected in zip(data, wanted, strict=True):
            for ours, theirs in zip(portable.as_list(code(*arrays)), expected, strict=True):
                if FUSED:
                    np.testing.assert_array_equal(ours, theirs, err_msg=variant)
                else:
                    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=variant)


def random(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@compilations(14, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
@example(
    case=Case(
        batch=1, groups=1, fan=1, rows=1, dims=(1, 5, 5), kernel=(1, 1, 1), strides=(1, 2, 1), dilations=(1, 1, 1),
        pads=(1, 1, 0, 0, 0, 0), zero=None, zeros=0.0, terms=1, after="", residual="float", out_zero=None, seed=0,
        unequal=False,
    )
)  # an image that becomes a volume  # fmt: skip
def test_convolution(tmp_path: Path, case: Case) -> None:
    net, y, out = build(case)
    inputs = [random(*s, seed=case.seed) for s in ((case.batch, case.groups * case.fan, *case.dims), out)]
    equal(net.model(y), tmp_path, *inputs, variants=("native", "words", "fixed"))


@pytest.mark.parametrize("shape", [(1, 40, 9, 7), (1, 8, 8, 1), (1, 8, 16, 16)])
@pytest.mark.parametrize("out", ["bytes", "float"])
@pytest.mark.parametrize("shared", [2, 4])
def test_rows_that_share_zeros_where_rows_of_pixels_are_moved(
    tmp_path: Path, shape: tuple[int, ...], out: str, shared: int
) -> None:
    """An image is computed at the pitch of the layer's input first, which reaches into the next channel's."""
    net = Net(shape)
    y = net.op(
        "Conv", net.quantize("input_0", STEP, 30), net.weight((8, shape[1], 3, 3), 0.4, shared=shared), pads=[1] * 4
    )
    y = net.quantize(y, 0.07, 128) if out == "bytes" else y
    equal(net.model(y), tmp_path, random(*shape), variants=("vectors", "native", "words", "fixed"))


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
    equal(net.model(*outputs), tmp_path, random(*shape) - np.float32(0.5), variants=("vectors", "words", "fixed"))


@pytest.mark.parametrize("out", ["same", "other", "float"])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (2, 1, 0), (4, 3, 0)])
def test_pooling_of_bytes_in_whole_numbers(tmp_path: Path, kernel: int, stride: int, pad: int, out: str) -> None:
    net, outputs = Net((2, 3, 13, 37)), []
    x = net.quantize("input_0", STEP, 30)
    for op, extra in (("Max", {}), ("Average", {"count_include_pad": 1})):
        how = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, **extra}
        y = net.op(f"{op}Pool", x, **how)
        outputs.append(
            y if out == "float" else net.quantize(y, STEP, 30) if out == "same" else net.quantize(y, 0.04, 9)
        )
    model = net.model(*outputs)
    equal(model, tmp_path, random(2, 3, 13, 37), variants=("vectors", "native", "words", "fixed"))
    text = (tmp_path / "model.c").read_text()
    assert "tern_pool_bytes_u8(&layer" in text
    assert ".same = 1" in text or out != "same"
    assert "tern_pool_u8(&layer" not in text
    assert (".shares = 1" in text) == (kernel == 3)  # nine pixels have no power of two as their share


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
def test_residual_network_and_its_quantized_entry(tmp_path: Path, int8: bool) -> None:
    model = resnet([(16, 1), (32, 2), (32, 1)], 17, 0.8, int8=int8)
    equal(model, tmp_path, random(1, 3, 17, 17), variants=("vectors", "fixed"))
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


def test_float_input_without_one_8bit_form_has_no_quantized_entry(tmp_path: Path) -> None:
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
    model = net.model(net.op("Cos", x))
    with pytest.raises(UnsupportedOperatorError, match=r"target c has no code for the operator Cos of node 'cos"):
        compile_c(model, resolve("c"))
    scopes = {
        "name_scopes": "['', 'body', 'body.turn', 'cos']",
        "class_hierarchy": "['a.Net', 'b.Body', 'b.Turn', 'cos']",
    }
    (cos,) = (node for node in model.graph.node if node.op_type == "Cos")
    for key, value in scopes.items():
        cos.metadata_props.add(key=f"pkg.torch.onnx.{key}", value=value)
    with pytest.raises(
        UnsupportedOperatorError, match=r"of node 'cos.*, which reads '.*' and is part of Turn 'body.turn'\. It"
    ):
        compile_c(model, resolve("c"))
    for damaged in ("[" * 5000, "['']", "1", "x", "[1, 2, 3]", "['a', 'b\x1b[31m', 'c']"):
        cos.metadata_props[-1].value = damaged
        with pytest.raises(UnsupportedOperatorError, match=r"of node 'cos[^;]*\. It has"):
            compile_c(model, resolve("c"))


def test_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tvm_schedules
    from tvm_schedules.backends.toolchain import _has_zig
    from tvm_schedules.bench.measure import bench
    from tvm_schedules.cli.inspect import main as inspect_command

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
    assert inspect_command([str(artifact.path)]) == 0
    inspected = capsys.readouterr().out
    assert all(line in inspected for line in lines if line.startswith(("RAM: ", "flash: ")))
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
    assert not isinstance(loaded, SteppedModel)


def grouped_codes(
    rng: np.random.Generator, shape: tuple[int, ...], group: int, zeros: float, alone: float
) -> np.ndarray:
    """Codes of which neighboring channels share their zeros, apart from a share of further zeros."""
    kept = rng.random((-(-shape[0] // group), *shape[1:])) >= zeros
    codes = rng.choice([-1, 1], shape) * kept.repeat(group, 0)[: shape[0]]
    return (codes * (rng.random(shape) >= alone)).astype(np.int8)


@pytest.mark.parametrize(
    ("shape", "group", "alone", "lists", "groups"),
    [
        ((8, 32, 3, 3), 4, 0.0, 8, 1),
        ((12, 200, 1, 1), 4, 0.0, 8, 1),
        ((8, 5, 3, 3), 4, 0.0, 2, 1),  # so few weights are cheaper by pairs
        ((6, 7, 3, 3), 2, 0.0, 2, 1),
        ((6, 64, 3, 3), 2, 0.02, 4, 1),
        ((8, 70, 3, 3), 4, 0.02, 4, 1),
        ((8, 20, 3, 3), 2, 0.0, 2, 2),
    ],
)
def test_rows_that_share_their_zeros(
    tmp_path: Path, shape: tuple[int, ...], group: int, alone: float, lists: int, groups: int
) -> None:
    rng = np.random.default_rng(sum(shape) + group)
    net = Net((2, shape[1] * groups, 9, 7))
    codes = grouped_codes(rng, shape, group, 0.8 if alone else 0.5, alone)
    x = net.quantize("input_0", STEP, 9)
    weight = net.ternary(codes, rng.uniform(0.01, 0.05, shape[0]))
    y = net.op("Conv", x, weight, net.bias(shape[0]), pads=[shape[2] // 2] * 4, group=groups)
    y = net.quantize(net.op("Relu", y), STEP, 0)
    model = net.model(y)
    equal(model, tmp_path, random(2, shape[1] * groups, 9, 7), variants=("vectors", "native", "words", "fixed"))
    text = (tmp_path / "model.c").read_text()
    assert f".lists = {lists}, .together = {2 if lists < 8 else 4}" in text


@pytest.mark.parametrize(("group", "alone"), [(1, 0.0), (2, 0.0), (2, 0.02), (4, 0.0)])
def test_more_taps_than_sixteen_bits_hold(tmp_path: Path, group: int, alone: float) -> None:
    """Rows of up to 400 taps of one sign, the largest bytes among what they add up, with and without shared zeros."""
    rng = np.random.default_rng(group)
    codes = grouped_codes(rng, (8, 70, 3, 3), group, 0.4, alone)
    codes[0, :60] = np.abs(codes[0, :60])
    net = Net((2, 70, 9, 7))
    y = net.op("Conv", net.quantize("input_0", STEP, 9), net.ternary(codes, rng.uniform(1, 5, 8) * 1e-3), net.bias(8))
    model = net.model(net.quantize(net.op("Relu", y), STEP, 0))
    x = np.where(random(2, 70, 9, 7) > 0, np.float32(1e3), random(2, 70, 9, 7, seed=6))
    equal(model, tmp_path, x, variants=("vectors", "native", "words", "fixed"))
    text = (tmp_path / "model.c").read_text()
    assert ".wide = 1" in text
    assert ("tern_ternary_groups_i32(" in text) == (group > 1 and not alone)
    assert "#define TERN_LEVELS 0" in text
