"""Libraries for PlatformIO, Arduino and Zephyr, taken by these systems' own programs; their boards are emulated."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_schedules
from tests.tvm_schedules.nets import resnet
from tvm_schedules.targets.registry import c_source

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"
ARDUINO = [Path("/usr/share/arduino-builder"), Path("/usr/share/arduino/hardware")]
PLATFORM = """
from SCons.Script import Default, DefaultEnvironment

env = DefaultEnvironment()
names = {name: f"arm-none-eabi-{tool}" for name, tool in {"CC": "gcc", "AR": "ar", "RANLIB": "ranlib"}.items()}
env.Replace(**names, LINK="arm-none-eabi-gcc", PROGSUFFIX=".elf")
core = ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
linking = ["-nostartfiles", "-nostdlib", "-Wl,--entry=reset", "-T", env.GetProjectOption("custom_memory")]
env.Append(CCFLAGS=[*core, "-ffreestanding"], LINKFLAGS=[*core, *linking], LIBS=["gcc"])
Default(env.BuildProgram())
"""
"""What PlatformIO would fetch for a board: how its compiler is called."""


def missing(*tools: str) -> str | None:
    return next((tool for tool in tools if shutil.which(tool) is None), None)


def beside(tool: str, module: str) -> str | None:
    """The Python that a tool is installed in, if that has a module too."""
    python = Path(shutil.which(tool) or "").parent / "python"
    found = python.is_file() and not subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode
    return str(python) if found else None


def packed(folder: Path, library: Path, system: str, name: str = "model", small: bool = False) -> Path:
    """A network as a library for a build system."""
    model = resnet([(4, 1)], 5, 0.7) if small else resnet([(16, 1), (24, 2)], 11, 0.7)
    made = tvm_schedules.build(model, folder / "artifact", c_source(name)).path
    command = [sys.executable, str(EXAMPLE / "pack.py"), str(made), str(library), "--for", system]
    subprocess.run(command, check=True, capture_output=True)
    return library


def package(folder: Path, kind: str, name: str, version: str, owner: str | None) -> Path:
    """A folder in which PlatformIO finds a package installed."""
    folder.mkdir(parents=True)
    said = {"name": name, "version": version, "title": name, "engines": {"platformio": "^6"}}
    (folder / ("platform.json" if kind == "platform" else "package.json")).write_text(json.dumps(said))
    spec = {"owner": owner, "id": None, "name": name, "requirements": None, "uri": None}
    (folder / ".piopm").write_text(json.dumps({"type": kind, "name": name, "version": version, "spec": spec}))
    return folder


def test_platformio_builds_for_a_board(tmp_path: Path) -> None:
    """``pio run`` finds the library, compiles it as its manifest says, and links; SCons and PlatformIO are PyPI's."""
    if tool := missing("pio", "arm-none-eabi-gcc", "qemu-system-arm"):
        pytest.skip(f"{tool} is missing (pip install platformio scons; Debian: gcc-arm-none-eabi, qemu-system-arm)")
    if (python := beside("pio", "SCons")) is None:
        pytest.skip("PlatformIO's Python has no SCons (pip install scons)")
    ask = "from platformio.dependencies import get_core_dependencies as g; print(g()['tool-scons'].strip('~'))"
    version = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    core, project = tmp_path / "core", tmp_path / "project"
    scons = package(core / "packages" / "tool-scons", "tool", "tool-scons", version, "platformio")
    (scons / "scons.py").write_text("from SCons.Script import main\n\nmain()\n")
    board = package(core / "platforms" / "board", "platform", "board", "1.0.0", None)
    (board / "builder").mkdir()
    (board / "builder" / "main.py").write_text(PLATFORM)
    (project / "src").mkdir(parents=True)
    memory = EXAMPLE / "cortex-m" / "memory.ld"
    (project / "platformio.ini").write_text(f"[env:m4]\nplatform = board\ncustom_memory = {memory}\n")
    for file in (EXAMPLE / "main.c", EXAMPLE / "cortex-m" / "startup.c"):
        shutil.copy2(file, project / "src")
    packed(tmp_path, project / "lib" / "model", "platformio")
    own = {**os.environ, "PLATFORMIO_CORE_DIR": str(core), "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no"}
    done = subprocess.run(["pio", "run", "-v"], cwd=project, capture_output=True, text=True, env=own, timeout=600)
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    (compiled,) = re.findall(r"gcc .*/model\.c$", done.stdout, re.MULTILINE)
    assert " -O3 " in compiled
    image = project / ".pio" / "build" / "m4" / "program.elf"
    command = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting", "-kernel", str(image)]
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert "bit for bit" in ran.stderr, ran.stdout + ran.stderr


def test_arduino_builds_for_a_board(tmp_path: Path) -> None:
    """The library's sketch on an emulated ATmega2560, a CPU of 8 bits whose ``double`` has 32."""
    if tool := missing("arduino-builder", "avr-gcc", "simavr"):
        pytest.skip(f"{tool} is missing (Debian: arduino-builder, arduino-core-avr, simavr)")
    if not all(folder.is_dir() for folder in ARDUINO):
        pytest.skip("Arduino's files are missing (Debian: arduino-core-avr)")
    library = packed(tmp_path, tmp_path / "libraries" / "wake_word", "arduino", "wake_word", small=True)
    (sketch,) = library.glob("examples/*/*.ino")
    build = tmp_path / "build"
    build.mkdir()
    command = ["arduino-builder", "-compile", "-tools", "/usr/bin", "-fqbn", "arduino:avr:mega:cpu=atmega2560"]
    for folder in ARDUINO:
        command += ["-hardware", str(folder)]
    # Debian's compiler is older than the core asks for.
    command += ["-prefs", "compiler.cpp.extra_flags=-DDECIMAL_DIG=17", "-libraries", str(library.parent)]
    done = subprocess.run([*command, "-build-path", build, sketch], capture_output=True, text=True, timeout=600)
    assert not done.returncode, done.stdout[-3000:] + done.stderr[-3000:]
    simulator = ["simavr", "-m", "atmega2560", "-f", "16000000", str(build / f"{sketch.name}.elf")]
    with subprocess.Popen(simulator, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        said = next((line for line in running.stdout if " us" in line), "nothing")
        running.kill()
    assert "right, " in said


def test_zephyr_reads_the_options(tmp_path: Path) -> None:
    """By kconfiglib, which Zephyr's own is made of."""
    if (python := beside("pio", "kconfiglib")) is None:
        pytest.skip("no kconfiglib beside PlatformIO (pip install kconfiglib)")
    library = packed(tmp_path, tmp_path / "zephyr", "zephyr", "wake_word", small=True)
    ask = f"import kconfiglib; k = kconfiglib.Kconfig({str(library / 'Kconfig')!r}, warn_to_stderr=False)\n"
    ask += "print(k.syms['WAKE_WORD'].type == kconfiglib.BOOL, k.syms['WAKE_WORD'].str_value, k.warnings)"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True n []"
