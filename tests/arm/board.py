"""An arm64 userland for tests: Debian's Python and the wheels that a board installs, run by QEMU's user-mode emulation.

No root, no chroot, no binfmt: Debian packages are downloaded with a private apt state and unpacked with ``dpkg-deb
-x``, wheels are downloaded by pip for another platform and unzipped; QEMU's ``-L`` makes the folder the guest's root.
The result is cached (``TERN_BOARD`` or ``~/.cache/tern-board``): about 80 MB, half a minute the first time.

Run ``python tests/arm/board.py`` to prepare it, ``python tests/arm/board.py --cpu cortex-a53 script.py ...`` to run
Python on it.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

PYTHON = "3.11"  # Debian 12's; every wheel below has a build for it
PACKAGES = ("python3.11", "libstdc++6", "libgomp1")
WHEELS = ("apache-tvm", "apache-tvm-ffi", "numpy", "ml_dtypes", "typing_extensions")
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
SKIPPED = (
    "tvm/lib/libtvm_compiler.so",
    "tvm/3rdparty/",
    "tvm/lib/libtvm_runtime_cuda.so",
)  # a board runs, it does not compile


class BoardError(RuntimeError):
    """The emulated board cannot be made here; the message says what is missing."""


def root() -> Path:
    """Where the userland is or will be; the name holds the versions, so that an upgrade makes a new one."""
    versions = " ".join(f"{name}=={metadata.version(name)}" for name in WHEELS)
    key = hashlib.sha256(f"1 {PACKAGES} {versions}".encode()).hexdigest()[:12]
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
    with tempfile.TemporaryDirectory(dir=board.parent, prefix="making-") as folder:
        making, state = Path(folder) / "board", Path(folder) / "state"
        making.mkdir()
        _userland(making, state)
        unpack_wheels(WHEELS, making / "opt" / "site", state)
        compile_python(making / "usr" / "lib" / f"python{PYTHON}")
        try:
            making.rename(board)
        except OSError:
            if not board.is_dir():  # another process may have been faster
                raise
    return board


def run(
    arguments: list[str], cpu: str = "cortex-a72", timeout: float = 300, emulator: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the board's Python with this checkout on its path and TVM's runtime only.

    Args:
        arguments: What follows ``python3`` on the board.
        cpu: QEMU's name of the core, for example cortex-a53, cortex-a72, cortex-a76.
        timeout: Seconds.
        emulator: More options of QEMU, for example a plugin.
    """
    board = prepare()
    source = Path(__file__).resolve().parents[2]
    environment = {
        "PYTHONPATH": f"{source}:{board}/opt/site",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TVM_USE_RUNTIME_LIB": "1",
        "TVM_NUM_THREADS": "2",
    }
    guest = [item for key, value in environment.items() for item in ("-E", f"{key}={value}")]
    python = f"{board}/usr/bin/python{PYTHON}"
    command = ["qemu-aarch64", *emulator, "-L", str(board), "-cpu", cpu, *guest, python, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def main() -> int:
    """Prepare the board and, with arguments, run Python on it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", default="cortex-a72", help="QEMU's name of the core")
    options, arguments = parser.parse_known_args()
    try:
        print(f"board: {prepare()}", file=sys.stderr)
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
