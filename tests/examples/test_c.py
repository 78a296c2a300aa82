"""examples/c: every core's build by its command line, libraries for other build systems, the streaming network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

import tvm_schedules
from tests.tvm_schedules.nets import resnet
from tvm_schedules.targets.registry import c_source

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"
BOARDS = {
    "cortex-m0plus": "mps2-an385",  # a Cortex-M3, which runs the instructions of a Cortex-M0+
    "cortex-m3": "mps2-an385",
    "cortex-m4": "mps2-an386",
    "cortex-m7": "mps2-an500",
    "cortex-m33": "mps2-an505",
    "cortex-m55": "mps3-an547",
}


def missing(*tools: str) -> str | None:
    return next((tool for tool in tools if shutil.which(tool) is None), None)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("c") / "out"
    return tvm_schedules.build(resnet([(16, 1), (24, 2)], 11, 0.7), place, c_source("wake_word")).path


@pytest.mark.parametrize("core", BOARDS)
def test_cores(artifact: Path, tmp_path: Path, core: str) -> None:
    """As the README says: CMake with the toolchain file, and the image on the board."""
    if tool := missing("arm-none-eabi-gcc", "qemu-system-arm", "cmake"):
        pytest.skip(f"{tool} is missing (Debian: gcc-arm-none-eabi, qemu-system-arm, cmake)")
    toolchain = [f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE / 'cortex-m' / 'gcc.cmake'}", f"-DCORE={core}"]
    build = ["cmake", "-S", str(EXAMPLE), "-B", str(tmp_path / "b"), f"-DMODEL_DIR={artifact}", *toolchain]
    for command in (build, ["cmake", "--build", str(tmp_path / "b")]):
        made = subprocess.run(command, capture_output=True, text=True)
        assert not made.returncode, made.stdout + made.stderr
    board = [
        "qemu-system-arm",
        "-M",
        BOARDS[core],
        "-nographic",
        "-semihosting",
        "-kernel",
        str(tmp_path / "b/demo.elf"),
    ]
    done = subprocess.run(board, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert "bit for bit" in done.stderr, done.stdout + done.stderr
    assert not done.returncode


def test_another_core_is_refused(artifact: Path, tmp_path: Path) -> None:
    if tool := missing("cmake"):
        pytest.skip(f"{tool} is missing")
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE / 'cortex-m' / 'gcc.cmake'}"
    command = ["cmake", "-S", str(EXAMPLE), "-B", str(tmp_path), f"-DMODEL_DIR={artifact}", toolchain, "-DCORE=z80"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode
    assert "CORE must be cortex-m0plus" in made.stderr


def packed(artifact: Path, folder: Path, system: str) -> Path:
    command = [sys.executable, str(EXAMPLE / "pack.py"), str(artifact), str(folder / system), "--for", system]
    subprocess.run(command, check=True, capture_output=True)
    names = {path.name for path in (folder / system / "src").iterdir()}
    assert names == {"wake_word.c", "wake_word.h", "wake_word_weights.h", "wake_word_sample.h"}
    assert subprocess.run(command, capture_output=True).returncode  # nothing is overwritten
    return folder / system


def test_arduino_library(artifact: Path, tmp_path: Path) -> None:
    """By the rules of the library specification 1.5; the sketch runs here, with the board's calls made up."""
    library = packed(artifact, tmp_path, "arduino")
    lines = (library / "library.properties").read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines)
    wanted = ("name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures")
    assert all(said[key] for key in wanted)
    assert re.fullmatch(r"\d+\.\d+\.\d+", said["version"])
    (sketch,) = library.glob("examples/*/*.ino")
    assert sketch.stem == sketch.parent.name
    if missing("g++", "cc"):
        pytest.skip("no C and C++ compiler")
    (tmp_path / "main.cc").write_text(
        "#include <cstdio>\n#include <cstring>\n#include <cstdlib>\nunsigned long micros() { return 1; }\n"
        "struct { void begin(long) {} void print(const char *t) { std::fputs(t, stdout); }\n"
        "void print(unsigned long) {}\n"
        "void println(const char *) {} } Serial;\nvoid delay(int) { std::exit(0); }\n"
        f'#include "{sketch}"\nint main() {{ setup(); loop(); }}\n'
    )
    subprocess.run(["cc", "-std=gnu11", "-Os", "-c", library / "src/wake_word.c", "-o", tmp_path / "n.o"], check=True)
    program = tmp_path / "sketch"
    command = ["g++", f"-I{library / 'src'}", tmp_path / "main.cc", tmp_path / "n.o", "-o", program]
    subprocess.run(command, check=True)
    assert "right" in subprocess.run([program], capture_output=True, text=True, check=True).stdout


def test_platformio_library(artifact: Path, tmp_path: Path) -> None:
    library = packed(artifact, tmp_path, "platformio")
    said = json.loads((library / "library.json").read_text())
    assert said["name"] == "wake_word"
    assert said["headers"] == "wake_word.h"
    assert (library / said["build"]["srcDir"] / "wake_word.c").is_file()


def test_platformio_takes_the_library(artifact: Path, tmp_path: Path) -> None:
    """Its own tool reads the manifest and packs the library; what it builds with comes over the network."""
    if tool := missing("pio"):
        pytest.skip(f"{tool} is missing (pip install platformio)")
    library = packed(artifact, tmp_path, "platformio")
    own = {**os.environ, "PLATFORMIO_CORE_DIR": str(tmp_path / "core"), "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}
    command = ["pio", "pkg", "pack", "-o", str(tmp_path / "library.tar.gz"), str(library)]
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    assert not done.returncode, done.stdout + done.stderr
    with tarfile.open(tmp_path / "library.tar.gz") as archive:
        names = set(archive.getnames())
    assert {"library.json", "src/wake_word.c", "src/wake_word.h", "src/wake_word_weights.h"} <= names
    (library / "library.json").write_text('{"name": "wake_word"}')  # without a version
    assert subprocess.run(command, capture_output=True, env=own).returncode


def test_zephyr_module(artifact: Path, tmp_path: Path) -> None:
    """Its CMake file builds with Zephyr's functions made up, when the option is on only."""
    library = packed(artifact, tmp_path, "zephyr")
    said = yaml.safe_load((library / "zephyr/module.yml").read_text())
    assert said == {"name": "wake_word", "build": {"cmake": ".", "kconfig": "Kconfig"}}
    assert "config WAKE_WORD\n" in (library / "Kconfig").read_text()
    if tool := missing("cmake"):
        pytest.skip(f"{tool} is missing")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.19)\nproject(app C)\n"
        "macro(zephyr_library)\n  add_library(module STATIC)\nendmacro()\n"
        "macro(zephyr_library_sources)\n  target_sources(module PRIVATE ${ARGN})\nendmacro()\n"
        "macro(zephyr_library_compile_options)\n  target_compile_options(module PRIVATE ${ARGN})\nendmacro()\n"
        "macro(zephyr_include_directories)\n  target_include_directories(module PUBLIC ${ARGN})\nendmacro()\n"
        "add_subdirectory(zephyr)\n"
    )
    for on in (True, False):
        folder = tmp_path / f"b{on}"
        options = ["-DCONFIG_WAKE_WORD=y"] if on else []
        subprocess.run(["cmake", "-S", tmp_path, "-B", folder, *options], check=True, capture_output=True)
        subprocess.run(["cmake", "--build", folder], check=True, capture_output=True)
        assert bool(list(folder.rglob("libmodule.a"))) == on


def printed(what: str, *command: str) -> str:
    """What an example printed, after its programs did on every machine that is there ``what`` they should."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=EXAMPLE.parents[1])
    assert not done.returncode, done.stderr[-3000:]
    runs = ["here:"] if not missing("cmake") else []
    if runs and not missing("arm-none-eabi-gcc", "qemu-system-arm"):
        runs.append("on an emulated Cortex-M4:")
    assert all(text in done.stdout for text in runs)
    assert done.stdout.count(what) == len(runs)
    return done.stdout


@pytest.mark.slow
def test_keywords(tmp_path: Path) -> None:
    """A short training; the programs hear what the module hears."""
    printed("as trained", str(EXAMPLE / "keywords.py"), "--output", str(tmp_path), "--steps", "8")


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    """A short training; the programs see what the exported network sees here."""
    said = printed("as exported", "-m", "examples.c.images", "--output", str(tmp_path / "out"), "--steps", "40")
    found = re.search(r"([\d.]+)% of 400 held-out images", said)
    assert found
    assert float(found.group(1)) > 50
