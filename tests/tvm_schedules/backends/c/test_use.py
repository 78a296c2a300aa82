"""Networks as parts of a program: prefixes, hooks, places of tables and arena, C++."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import tvm_schedules
from tests.tvm_schedules.backends.c import c_runner as portable
from tests.tvm_schedules.nets import resnet
from tvm_schedules.backends.c.files import Files
from tvm_schedules.errors import ArtifactError, TargetError
from tvm_schedules.targets.registry import c_source, resolve

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wdouble-promotion", "-Wfloat-equal", "-pedantic", "-Werror"]
BOARD = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    return done.stdout


def nets() -> dict[str, onnx.ModelProto]:
    return {"kws": resnet([(8, 1)], 6, 0.5), "wake_Word2": resnet([(8, 1), (12, 2)], 8, 0.7, seed=3)}


def test_two_networks_in_one_program(tmp_path: Path) -> None:
    """Each is built with a prefix of its own and linked with the other; both give what they give alone."""
    lines, main = [], ["#include <string.h>", "int main(void)", "{", "    int wrong = 0;"]
    for name, model in nets().items():
        made = tvm_schedules.build(model, tmp_path / name, c_source(name))
        assert {path.name for path in made.path.iterdir() if path.suffix in (".c", ".h")} == {
            f"{name}.c", f"{name}.h", f"{name}_weights.h", f"{name}_sample.h"
        }  # fmt: skip
        assert made.metadata["target"]["tvm"] == {"kind": "c", "prefix": name}
        x = np.random.default_rng(1).normal(size=made.metadata["inputs"][0]["shape"]).astype(np.float32)
        alone = portable.host_model(model, tmp_path / f"{name}-alone")
        np.testing.assert_array_equal(tvm_schedules.load(made.path)(x), alone(x))
        lines += [f'#include "{name}.h"', f'#include "{name}_sample.h"']
        lines.append(f"static float {name}_y[{name.upper()}_OUTPUT_ELEMENTS];")
        main.append(f"    wrong |= {name}_run({name}_sample_input, {name}_y);")
        main.append(f"    wrong |= memcmp({name}_y, {name}_sample_output, sizeof {name}_y);")
    (tmp_path / "main.c").write_text("\n".join([*lines, *main, "    return wrong != 0;", "}", ""]))
    folders = [f"-I{tmp_path / name}" for name in nets()]
    sources = [tmp_path / name / f"{name}.c" for name in nets()]
    run("cc", "-std=c99", "-O1", *folders, tmp_path / "main.c", *sources, "-o", tmp_path / "main")
    run(tmp_path / "main")
    if shutil.which("nm"):
        run("cc", "-std=c99", "-c", sources[0], "-o", tmp_path / "kws.o")
        symbols = [line.split()[2] for line in run("nm", "-g", "--defined-only", tmp_path / "kws.o").splitlines()]
        assert symbols
        assert all(symbol.startswith("kws_") for symbol in symbols)


@pytest.mark.parametrize("prefix", ["", "7up", "a b", "../x", "tern", "TERN_x", "stdint", "Math", "x" * 33, "é", 'a"'])
def test_prefixes_that_cannot_be_used_are_refused(prefix: str) -> None:
    with pytest.raises(TargetError, match="prefix must"):
        c_source(prefix)


def test_a_prefix_in_json_and_in_a_damaged_artifact(tmp_path: Path) -> None:
    from tvm_schedules.artifact import store

    assert resolve('{"kind": "c", "prefix": "kws"}') == c_source("kws")
    with pytest.raises(TargetError, match="may have a"):
        resolve('{"kind": "c", "name": "kws"}')
    made = tvm_schedules.build(nets()["kws"], tmp_path / "out", c_source("kws"))
    (made.path / "kws_sample.h").unlink()
    tvm_schedules.load(made.path)  # a device needs no sample
    target = {**made.metadata["target"], "tvm": {"kind": "c", "prefix": "../kws"}}
    store.write_metadata(made.path, {**made.metadata, "target": target})
    with pytest.raises(ArtifactError, match="prefix must"):
        tvm_schedules.load(made.path)


def test_layers_tables_and_arena_are_the_programs(tmp_path: Path) -> None:
    """A file of the program's own says what happens around layers and where memory lies."""
    plan = portable.generate(nets()["kws"], tmp_path)
    (tmp_path / "my_config.h").write_text(
        "extern int order[64];\nextern int seen;\n#define TERN_ON_LAYER(index) (order[seen++] = (index))\n"
        '#define TERN_TABLE __attribute__((section(".flash_far")))\n'
        '#define TERN_ARENA __attribute__((section(".ram_fast")))\n'
    )
    (tmp_path / "main.c").write_text(
        '#include "model.h"\n#include <stdio.h>\nint order[64], seen;\n'
        "static const char *const names[] = MODEL_LAYER_NAMES;\n"
        "static float x[MODEL_INPUT_ELEMENTS], y[MODEL_OUTPUT_ELEMENTS];\nint main(void)\n{\n"
        "    int i, wrong = model_run(x, y);\n    for (i = 0; i < MODEL_LAYERS; i++) puts(names[i]);\n"
        "    for (i = 0; i < seen; i++) wrong |= order[i] != i;\n    return wrong || seen != MODEL_LAYERS + 1;\n}\n"
    )
    options = ["-std=c99", "-O1", '-DTERN_CONFIG="my_config.h"', f"-I{tmp_path}"]
    run("cc", *options, tmp_path / "main.c", tmp_path / "model.c", "-o", tmp_path / "main")
    assert run(tmp_path / "main").splitlines() == [step.name for step in plan.steps]
    sections = run("objdump", "-h", tmp_path / "main") if shutil.which("objdump") else ".flash_far .ram_fast"
    assert ".flash_far" in sections
    assert ".ram_fast" in sections


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
def test_no_warning_from_the_compiler_of_boards(tmp_path: Path, core: str) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is missing (Debian: gcc-arm-none-eabi)")
    from tests.arm.test_mcu_c import activated, encoder, lines
    from tests.tvm_schedules.backends.c.test_memory import sanitized_nets

    floats = {"cortex-m4": ["-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"], "cortex-m55": ["-mfloat-abi=hard"]}.get(core, [])
    for number, model in enumerate([*sanitized_nets().values(), activated(), encoder(), lines()]):
        portable.generate(model, tmp_path / str(number))
        command = ["arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb", *floats, "-std=c99", "-O2", *WARNINGS]
        run(*command, "-ffreestanding", "-c", tmp_path / str(number) / "model.c", "-o", tmp_path / "model.o")


def test_headers_are_cxx_too(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing")
    made = tvm_schedules.build(nets()["kws"], tmp_path / "out", c_source("kws"))
    (tmp_path / "main.cc").write_text(
        '#include "kws.h"\n#include "kws_sample.h"\n#include <cstring>\nint main()\n{\n'
        "    static kws_output_type y[KWS_OUTPUT_ELEMENTS];\n"
        "    return kws_run(kws_sample_input, y) || std::memcmp(y, kws_sample_output, sizeof y);\n}\n"
    )
    run("cc", "-std=c99", "-c", made.path / Files("kws").source, "-o", tmp_path / "kws.o")
    run("g++", *WARNINGS, f"-I{made.path}", tmp_path / "main.cc", tmp_path / "kws.o", "-o", tmp_path / "main")
    run(tmp_path / "main")
