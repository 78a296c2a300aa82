"""``python -m benchmarks.arm.c32``: instructions of networks as C on 32-bit ARM cores, with their vectors and without.

The C back end is what 32-bit ARM has: there are no libraries for it. The C is compiled by zig's clang with ``-O3`` and
runs under QEMU's user-mode emulation, which counts a second run exactly.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.arm import models, tools
from tests.arm.board import BoardError
from tests.tvm_schedules.backends.c import c_runner
from tvm_schedules.common.files import write_file

CORES = {"cortex-a7": "cortex_a7", "cortex-a9": "cortex_a9"}
"""Core of QEMU -> that of clang."""
WAYS = {"vectors": [], "scalar": ["-DTERN_SCALAR"]}
MAIN = """
#include "model.h"
static float input[MODEL_INPUT_ELEMENTS], output[MODEL_OUTPUT_ELEMENTS];
static void mark(long id, long number)
{
    register long r0 __asm__("r0") = id;
    register long r3 __asm__("r3") = number;
    __asm__ volatile("push {r7}\\n\\tmov r7, r3\\n\\tsvc 0\\n\\tpop {r7}" : "+r"(r0) : "r"(r3) : "memory");
}
void _start(void)
{
    for (int i = 0; i < MODEL_INPUT_ELEMENTS; ++i) input[i] = (float)(i % 255 - 127) / 64;
    model_run(input, output);
    mark(0, 0x7e57);
    model_run(input, output);
    mark(1, 0x7e57);
    mark(0, 1);
    for (;;) {}
}
"""


def count(model: Any, core: str, way: str, folder: Path) -> int:
    """Instructions of one run.

    Raises:
        BoardError: The program does not compile or run.
    """
    c_runner.generate(model, folder)
    (folder / "main.c").write_text(MAIN)
    program, counts = folder / "program", folder / "counts.txt"
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "arm-freestanding-eabihf", f"-mcpu={CORES[core]}", "-O3"]
    files = [f"-I{folder}", str(folder / "main.c"), str(folder / "model.c"), "-o", str(program)]
    run = ["qemu-arm", "-plugin", f"{tools.plugin()},out={counts}", "-cpu", core, str(program)]
    for command in ([*zig, "-g0", "-fno-sanitize=all", *WAYS[way], *files], run):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BoardError(f"{command[0]} failed: {done.stderr[-2000:]}")
    first, second = (int(found) for found in re.findall(r"^mark \d all=(\d+)", counts.read_text(), re.MULTILINE))
    return second - first


def main(arguments: list[str] | None = None) -> int:
    """Counts and prints; returns the exit status."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.arm.c32", description=str(__doc__).splitlines()[0])
    made.add_argument(
        "--zeros", default="0.5,0.8,0.9", help="shares of zeros of ternary weights (default: %(default)s)"
    )
    made.add_argument("--json", metavar="FILE", help="write everything as JSON")
    options = made.parse_args(arguments)
    rows = []
    for zeros in (float(share) for share in options.zeros.split(",")):
        for core in CORES:
            for way in WAYS:
                with tempfile.TemporaryDirectory(prefix="tern-c32-") as folder:
                    found = count(models.resnet20(zeros), core, way, Path(folder))
                rows.append({"what": "resnet20", "zeros": zeros, "core": core, "way": way, "instructions": found})
                print(f"resnet20, {zeros:.0%} zeros, {core}, {way}: {found / 1000:,.0f} thousand", flush=True)
    if options.json:
        command = shlex.join(
            ["python", "-m", "benchmarks.arm.c32", *(sys.argv[1:] if arguments is None else arguments)]
        )
        packages = {name: metadata.version(name) for name in ("apache-tvm", "ziglang")}
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        data = {"command": command, "when": when, "packages": packages, "rows": rows}
        write_file(options.json, json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BoardError as error:
        sys.exit(str(error))
