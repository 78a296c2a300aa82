"""An arm64 userland for tests: Debian's Python and the wheels that a board installs, run by QEMU's user-mode emulation.

No root, no chroot, no binfmt: Debian packages are downloaded with a private apt state and unpacked with ``dpkg-deb
-x``, wheels are downloaded by pip for another platform and unzipped; QEMU's ``-L`` makes the folder the guest's root,
one for every model of CPU, with a ``/proc/cpuinfo`` that names it (onnxruntime crashes on this machine's). Python
programs that start themselves again do so by a script of this machine, so that no ``binfmt_misc`` is needed. The result
is cached (``TERN_BOARD`` or ``~/.cache/tern-board``): about 300 MB, half a minute the first time.

Run ``python tests/arm/board.py`` to prepare it, ``python tests/arm/board.py --cpu cortex-a53 script.py ...`` to run
Python on it.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PYTHON = "3.11"  # Debian 12's; every wheel below has a build for it
PACKAGES = ("python3.11", "libstdc++6", "libgomp1")
WHEELS = (
    "apache-tvm", "apache-tvm-ffi", "numpy", "ml_dtypes", "typing_extensions",
    "onnxruntime", "flatbuffers", "packaging", "protobuf",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
SKIPPED = (
    "tvm/lib/libtvm_compiler.so",
    "tvm/3rdparty/",
    "tvm/lib/libtvm_runtime_cuda.so",
)  # a board runs, it does not compile
PARTS = {  # of /proc/cpuinfo, from Linux' arch/arm64/include/asm/cputype.h, and what the CPU has beyond ARMv8.0
    "cortex-a53": ("0xd03", ""),
    "cortex-a57": ("0xd07", ""),
    "cortex-a72": ("0xd08", ""),
    "cortex-a76": ("0xd0b", " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"),
    "neoverse-n1": ("0xd0c", " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"),
    "max,sve=off": ("0xd49", " atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp asimdfhm i8mm bf16"),
}
CPUINFO = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32{features} cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
# Python's own name on the board: programs that start themselves again then pass by QEMU.
CUSTOMIZE = """import os, sys
if os.environ.get("BOARD_PYTHON"):
    sys.executable = os.environ["BOARD_PYTHON"]
"""


class BoardError(RuntimeError):
    """The emulated board cannot be made here; the message says what is missing."""


def root() -> Path:
    """Where the userland is or will be; the name holds the versions, so that an upgrade makes a new one."""
    versions = " ".join(f"{name}=={metadata.version(name)}" for name in WHEELS)
    key = hashlib.sha256(f"2 {PACKAGES} {versions}".encode()).hexdigest()[:12]
    base = Path(os.environ.get("TERN_BOARD") or Path.home() / ".cache" / "tern-board")
    return base.expanduser().resolve() / key


def missing() -> str | None:
    """Why the board cannot be used here without looking at the network, or None."""
    if shutil.which("qemu-aarch64") is None:
        return "qemu-aarch64 is not installed (Debian: apt-get install qemu-user)"
    if not root().is_dir():
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                return f"{tool} is needed to fetch the arm64 userland"
    return None


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if done.returncode:
        raise BoardError(f"{what} failed: {' '.join(done.stdout.split()[-60:])}")


def _userland(board: Path, state: Path) -> None:
    """Unpack Debian's Python for arm64 without touching this machine's package state."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "1",
        "Dir::State": str(state),
        "Dir::State::Lists": str(state / "lists"),
        "Dir::State::status": str(state / "status"),
        "Dir::Cache": str(state / "cache"),
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    _run([*apt, "update"], "apt-get update for arm64")
    _run([*apt, "-y", "--download-only", "install", *PACKAGES], "download of the arm64 packages")
    for package in sorted((state / "cache" / "archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(board)], f"unpacking {package.name}")


def unpack_wheels(names: Sequence[str], site: Path, state: Path) -> None:
    """Download wheels in this environment's versions, but for the board, and unpack them into ``site``.

    Args:
        names: Packages, without what they depend on.
        site: Folder for the guest's ``PYTHONPATH``.
        state: Folder for the downloads.
    """
    platforms = [f"--platform={name}_aarch64" for name in PLATFORMS]
    pins = [f"{name}=={metadata.version(name)}" for name in names]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    abis = ["--implementation=cp", f"--abi=cp{PYTHON.replace('.', '')}", "--abi=abi3", "--abi=none"]
    folder = state / "wheels"
    _run(
        [*pip, f"--python-version={PYTHON}", *abis, *platforms, "-d", str(folder), *pins],
        "download of the arm64 wheels",
    )
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site, [name for name in archive.namelist() if not name.startswith(SKIPPED)])
    compile_python(site)


def compile_python(folder: Path) -> None:
    """Compile Python's files here where that can be done, for byte code does not depend on the CPU."""
    if sys.version_info[:2] == tuple(int(part) for part in PYTHON.split(".")):
        compileall.compile_dir(folder, quiet=2)


def prepare() -> Path:
    """Make the userland unless it is there; a half-made one is never left behind.

    Raises:
        BoardError: A tool is missing or a download failed.
    """
    board = root()
    reason = missing()
    if reason is not None:
        raise BoardError(reason)
    if board.is_dir():
        return board
    board.parent.mkdir(parents=True, exist_ok=True)
    with (
        (board.parent / "lock").open("w") as lock,
        tempfile.TemporaryDirectory(dir=board.parent, prefix="making-") as folder,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes; one of them is enough
        if board.is_dir():
            return board
        making, state = Path(folder) / "board", Path(folder) / "state"
        making.mkdir()
        _userland(making, state)
        unpack_wheels(WHEELS, making / "opt" / "site", state)
        (making / "opt" / "site" / "sitecustomize.py").write_text(CUSTOMIZE)
        compile_python(making / "usr" / "lib" / f"python{PYTHON}")
        making.rename(board)
    return board


def root_of(cpu: str) -> Path:
    """The guest's root for a model of CPU: the board's with a ``/proc/cpuinfo`` of its own.

    Raises:
        BoardError: The CPU is not known, or the board cannot be made.
    """
    if cpu not in PARTS:
        raise BoardError(f"cpu must be one of {', '.join(PARTS)}, got {cpu!r}")
    board = prepare()
    folder = board.parent / f"{board.name}-{cpu}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=board.parent, prefix="making-") as temporary:
        made = Path(temporary) / "root"
        (made / "proc").mkdir(parents=True)
        part, features = PARTS[cpu]
        entries = [CPUINFO.format(number=number, part=part, features=features) for number in range(os.cpu_count() or 1)]
        (made / "proc" / "cpuinfo").write_text("".join(entries))
        for path in board.iterdir():
            if path.name != "proc":
                (made / path.name).symlink_to(path)
        python = made / "python"
        python.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L {folder} -cpu {cpu} {board}/usr/bin/python{PYTHON} "$@"\n')
        python.chmod(0o755)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have been faster
                raise
    return folder


def command(arguments: Sequence[str], cpu: str = "cortex-a72", emulator: Sequence[str] = ()) -> list[str]:
    """What runs the board's Python with this checkout on its path and TVM's runtime only.

    Args:
        arguments: What follows ``python3`` on the board.
        cpu: QEMU's name of the core, one of ``PARTS``.
        emulator: More options of QEMU, for example a plugin.
    """
    board, root = prepare(), root_of(cpu)
    source = Path(__file__).resolve().parents[2]
    environment = {
        "PYTHONPATH": f"{source}:{board}/opt/site",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TVM_USE_RUNTIME_LIB": "1",
        "TVM_NUM_THREADS": "2",
        "BOARD_PYTHON": f"{root}/python",
    }
    guest = [item for key, value in environment.items() for item in ("-E", f"{key}={value}")]
    python = f"{board}/usr/bin/python{PYTHON}"
    return ["qemu-aarch64", *emulator, "-L", str(root), "-cpu", cpu, *guest, python, *arguments]


def run(
    arguments: Sequence[str], cpu: str = "cortex-a72", timeout: float = 900, emulator: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the board's Python until it ends, see :func:`command`; ``timeout`` is in seconds.

    It is a long one: beside busy processes emulated threads that wait for each other take dozens of times as long.
    """
    return subprocess.run(command(arguments, cpu, emulator), capture_output=True, text=True, timeout=timeout)


def main() -> int:
    """Prepare the board and, with arguments, run Python on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", default="cortex-a72", help="QEMU's name of the core")
    options, arguments = parser.parse_known_args()
    try:
        started = time.monotonic()
        print(f"board: {prepare()}, ready after {time.monotonic() - started:.1f} s", file=sys.stderr)
    except BoardError as error:
        print(error, file=sys.stderr)
        return 1
    if not arguments:
        return 0
    done = run(arguments, options.cpu)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
