"""Names of an untrusted file in generated code: whatever tensors and nodes are called, the code is the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.tvm_schedules.compiling import compile_c, compile_gpu
from tests.tvm_schedules.fallback.program_runner import compile_onnx
from tests.tvm_schedules.nets import Runner, run_onnx
from tvm_schedules import pipeline
from tvm_schedules.backends.c.writer import write
from tvm_schedules.common.names import anonymous, comment, identifier
from tvm_schedules.targets.registry import resolve

HOSTILE = {
    "end of comment": "a */ EVIL();",
    "continued line": "a *\\\n/ EVIL();",
    "continued line of Windows": "a *\\\r\n/ EVIL();",
    "trigraph": "a *??/\n/ EVIL();",
    "end of line comment": "a \n#error EVIL\n",
    "other line breaks": "a \r\x0b\x0c\x85\u2028 EVIL();",
    "string": 'a"); EVIL(); ("',
    "format and placeholder": "a {name} %n @TYPE@ EVIL",
    "letters that are not ASCII": "\u0435\u202e\u00aaEVIL",
    "keyword": "register",
}


def model(prefix: str, foreign: bool) -> onnx.ModelProto:
    """A small network all of whose names start with ``prefix``."""
    rng = np.random.default_rng(0)

    def op(kind: str, *names: str, **attributes: object) -> onnx.NodeProto:
        *reads, made = (prefix + name for name in names)
        return helper.make_node(kind, reads, [made], name=f"{prefix}{kind}_{names[-1]}", **attributes)

    nodes = [
        op("Conv", "x", "w", "c", pads=[1] * 4),
        op("Relu", "c", "r"),
        op("GlobalAveragePool", "r", "p"),
        op("Flatten", "p", "f"),
        op("Gemm", "f", "g", "y", transB=1),
    ]
    results = {"y": (1, 5)}
    if foreign:
        nodes += [op("Softmax", "y", "s"), op("Exp", "x", "e"), op("Concat", "s", "y", "k", axis=1)]
        results |= {"s": (1, 5), "e": (1, 3, 6, 6), "k": (1, 10)}
    weights = {"w": rng.integers(-1, 2, (4, 3, 3, 3)) * 0.5, "g": rng.normal(size=(5, 4))}
    graph = helper.make_graph(
        nodes,
        prefix or "graph",
        [helper.make_tensor_value_info(f"{prefix}x", TensorProto.FLOAT, (1, 3, 6, 6))],
        [helper.make_tensor_value_info(prefix + n, TensorProto.FLOAT, s) for n, s in results.items()],
        [numpy_helper.from_array(w.astype(np.float32), prefix + n) for n, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def preprocessed(prefix: str, folder: Path) -> list[str]:
    """The C code's tokens, without comments, with identifiers of inputs and outputs by their order."""
    folder.mkdir(exist_ok=True)
    made = compile_c(model(prefix, False), resolve("c"))
    write(made.plan, made.program, folder, "")
    command = ["cc", "-E", "-P", "-trigraphs", "-std=c99", "-Werror=comment", str(folder / "model.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    names: dict[str, str] = {}
    tokens = re.findall(r"\w+|[^\w\s]", done.stdout, re.ASCII)
    ends = re.compile(r"(input|output)_\w+")
    return [names.setdefault(t, f"end{len(names)}") if ends.fullmatch(t) else t for t in tokens]


@pytest.mark.parametrize("prefix", HOSTILE.values(), ids=HOSTILE)
def test_c_code_is_the_same_whatever_names_are(prefix: str, tmp_path: Path) -> None:
    assert preprocessed(prefix, tmp_path / "hostile") == preprocessed("plain", tmp_path / "plain")


def test_a_name_that_is_a_program_is_not_run(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    shout = f'void shout(void) {{ FILE *f = fopen("{sign}", "w"); if (f) fclose(f); }}'
    program = f"#include <stdio.h>\n__attribute__((constructor)) static {shout}\n"
    for end in ("*/", "*\\\n/", "*??/\n/"):
        evil = model(f"a {end}\n{program}/* ", False)
        x = np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype(np.float32)
        np.testing.assert_allclose(
            pipeline.run_in_memory(pipeline.read_graph(evil), resolve("c"))(x),
            run_onnx(evil, x)[0],
            rtol=1e-5,
            atol=1e-6,
        )
        assert not sign.exists()


@pytest.mark.parametrize("target", ["opencl", "cuda", "metal", "webgpu"])
def test_gpu_source_is_the_same_whatever_names_are(target: str) -> None:
    wanted = compile_gpu(model("plain", True), resolve(target)).source
    everything = "".join(HOSTILE.values())
    assert compile_gpu(model(everything, True), resolve(target)).source == wanted


def test_library_gives_onnxruntimes_numbers_whatever_names_are() -> None:
    evil = model("".join(HOSTILE.values()), True)
    x = np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype(np.float32)
    for have, want in zip(Runner(evil)(x), run_onnx(evil, x), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_symbols_of_fallback_operators_have_no_name_of_the_file() -> None:
    nodes = [
        helper.make_node("Softmax", ["EVIL x"], ["EVIL s"], name="EVIL node"),
        helper.make_node("Tanh", ["EVIL s"], ["EVIL y"], name="EVIL node 2"),
    ]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (2, 7)) for n in ("EVIL x", "EVIL y")]
    made = helper.make_model(
        helper.make_graph(nodes, "EVIL graph", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)]
    )
    program = compile_onnx(made).program
    assert program.functions
    for name, function in program.functions.items():
        assert "EVIL" not in name + function.script()


def test_anonymous_keeps_branches_that_read_outer_tensors() -> None:
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["x"], [f"{name}!"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}!", TensorProto.FLOAT, (3,))],
        )
        for name, op in (("then", "Neg"), ("else", "Relu"))
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], **branches)],
        "g",
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, (3,)),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (3,))],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.float32([-1, 0, 2])
    for choice in (True, False):
        np.testing.assert_array_equal(
            run_onnx(anonymous(made), np.array(choice), x)[0], run_onnx(made, np.array(choice), x)[0]
        )
    assert [value.name for value in anonymous(made).graph.input] == ["v0", "v1"]


@given(st.text(max_size=300))
def test_comments_have_allowed_characters_only(text: str) -> None:
    made = comment(text)
    assert re.fullmatch(r"[A-Za-z0-9_ .,:+%()\[\]/-]*", made)
    assert len(made) <= 160
    assert "*" not in made
    assert made.isprintable()


@given(st.lists(st.text(max_size=80), max_size=6))
def test_identifiers_are_identifiers_and_differ(names: list[str]) -> None:
    taken: set[str] = set()
    for name in names:
        made = identifier(name, "input", taken)
        assert re.fullmatch(r"input[A-Za-z0-9_]*", made)
        assert made not in taken
        taken.add(made)
