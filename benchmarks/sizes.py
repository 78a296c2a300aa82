"""Bytes that pages name: installed packages, programs for boards without Python, a ResNet-20 as C.

``python -m benchmarks.sizes --json benchmarks/measured/sizes.json`` finds them again. The programs of ``examples/cpp``
are built for 64-bit ARM, which needs ``make`` and ``aarch64-linux-gnu-g++``.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import tvm_schedules
from tvm_schedules.artifact import store
from tvm_schedules.backends.c.size import cortex_m7
from tvm_schedules.bench import networks
from tvm_schedules.common.files import temporary_folder, write_file

__all__ = ["as_c", "installed", "main", "programs"]

PACKAGES = (
    *("torch", "ziglang", "apache-tvm", "onnxruntime", "onnx", "numpy", "onnxscript", "lightning", "torchmetrics"),
    *("pyopencl", "rich"),
)
CPP = Path(__file__).parents[1] / "examples" / "cpp"


def installed(names: Sequence[str] = PACKAGES) -> dict[str, dict[str, Any]]:
    """Version and bytes of the files of installed packages, without what they depend on."""
    found = {}
    for name in names:
        package = distribution(name)
        paths = [Path(str(package.locate_file(file))) for file in package.files or ()]
        nbytes = sum(path.stat().st_size for path in paths if path.is_file() and path.suffix != ".pyc")
        found[name] = {"version": package.version, "bytes": nbytes}
    return found


def programs(arch: str = "aarch64") -> dict[str, int]:
    """Bytes of the programs and libraries that a board without Python needs, built for an architecture."""
    subprocess.run(["make", "-C", str(CPP), f"ARCH={arch}", f"PYTHON={sys.executable}"], check=True)
    return {path.name: path.stat().st_size for path in sorted((CPP / "build" / arch / "bin").iterdir())}


def as_c(name: str = "resnet20", zeros: float = 0.8) -> dict[str, Any]:
    """Bytes of flash and of memory that a network of the suite takes on a Cortex-M7, as an export says them."""
    with temporary_folder("sizes") as folder:
        out = folder / "c"
        tvm_schedules.build(networks.build(name, zeros, "uint8"), output=out, target="c", verify=False)
        sizes = cortex_m7(out / "model.c")
        arena = store.read_metadata(out)["memory"]["arena_bytes"]
    if sizes is None:
        raise SystemExit("ziglang is not installed, which compiles for the Cortex-M7")
    return {"network": name, "zeros": zeros, "flash": sizes["code"] + sizes["constants"], "ram": arena}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where it is written")
    options = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    data = {
        "command": shlex.join(["python", "-m", "benchmarks.sizes", *given]),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "installed": installed(),
        "programs": programs(),
        "c": as_c(),
    }
    write_file(options.json, json.dumps(data, indent=1) + "\n")
    print(json.dumps(data, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
