"""CUDA source -> machine code for several architectures, on a machine without a processor for it.

NVIDIA's runtime compiler and its packer are two libraries that PyPI has (``tern-lightning[cuda]``); of both a few C
functions are enough, called through ctypes. Where they are missing, ``nvcc`` does both. Neither needs a header: see
:mod:`.preamble`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm_schedules.errors import LinkError

__all__ = ["check", "fatbin", "images"]

_HINT = "install them with: pip install 'tern-lightning[cuda]', or put nvcc on the path"


def _library(package: str, name: str) -> Any:
    """A library of NVIDIA's wheels, or of the system; None where it is missing."""
    places: list[str] = []
    for module in (f"nvidia.{package}", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            spec = None
        for folder in (spec.submodule_search_locations or []) if spec else []:
            places += sorted(str(path) for path in Path(folder).glob(f"lib/lib{name}.so.*"))
    for place in [*places, f"lib{name}.so.12", f"lib{name}.so.13", f"lib{name}.so"]:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    return None


def _tools() -> tuple[Any, Any] | None:
    compiler = _library("cuda_nvrtc", "nvrtc")
    packer = _library("nvfatbin", "nvfatbin")
    return (compiler, packer) if compiler is not None and packer is not None else None


def check(architectures: Sequence[int]) -> None:
    """Makes sure that there is a compiler for the architectures.

    Raises:
        LinkError: There is none, or it does not know one of them.
    """
    tools = _tools()
    if tools is None:
        if shutil.which("nvcc") is None:
            raise LinkError(f"neither NVIDIA's nvrtc and nvfatbin nor nvcc were found; {_HINT}")
        listed = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True).stdout
        known = [int(word[3:]) for word in listed.split() if word[3:].isdigit()]
        name = "nvcc"
    else:
        known, name = _supported(tools[0]), "nvrtc"
    lacking = [number for number in architectures if number not in known]
    if lacking:
        raise LinkError(
            f"{name} does not compile for {', '.join(f'sm_{n}' for n in lacking)}, only for "
            f"{', '.join(f'sm_{n}' for n in known)}; CUDA 13 dropped sm_72 and older: "
            "pip install nvidia-cuda-nvrtc-cu12 nvidia-nvfatbin-cu12"
        )


def _supported(compiler: Any) -> list[int]:
    count = ctypes.c_int()
    _ok(compiler, compiler.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _ok(compiler, compiler.nvrtcGetSupportedArchs(numbers))
    return list(numbers)


def _ok(compiler: Any, status: int, log: str = "") -> None:
    if status:
        compiler.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise LinkError(f"nvrtc: {compiler.nvrtcGetErrorString(status).decode()}{log}")


def _compile(compiler: Any, source: str, architecture: str, kind: str) -> bytes:
    """One image; ``kind`` is CUBIN (for ``sm_XX``) or PTX (for ``compute_XX``)."""
    program = ctypes.c_void_p()
    create = compiler.nvrtcCreateProgram
    _ok(compiler, create(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None))
    try:
        options = (ctypes.c_char_p * 1)(f"--gpu-architecture={architecture}".encode())
        status = compiler.nvrtcCompileProgram(program, 1, options)
        size = ctypes.c_size_t()
        if status:
            compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            compiler.nvrtcGetProgramLog(program, log)
            _ok(compiler, status, f" for {architecture}\n{log.value.decode(errors='replace')[-2000:]}")
        _ok(compiler, getattr(compiler, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
        image = ctypes.create_string_buffer(size.value)
        _ok(compiler, getattr(compiler, f"nvrtcGet{kind}")(program, image))
        return image.raw
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def fatbin(source: str, architectures: Sequence[int]) -> bytes:
    """Compiles for every architecture, and to PTX for the oldest one, which newer processors' drivers compile further.

    Args:
        source: CUDA C without headers.
        architectures: Numbers such as 87 for ``sm_87``.

    Raises:
        LinkError: No compiler, or it refuses the source.
    """
    check(architectures)
    tools = _tools()
    if tools is None:
        return _nvcc(source, architectures)
    compiler, packer = tools
    handle = ctypes.c_void_p()
    options = (ctypes.c_char_p * 1)(b"-64")
    _packed(packer, packer.nvFatbinCreate(ctypes.byref(handle), options, ctypes.c_size_t(1)))
    try:
        for number in architectures:
            code = _compile(compiler, source, f"sm_{number}", "CUBIN")
            arch = str(number).encode()
            _packed(packer, packer.nvFatbinAddCubin(handle, code, ctypes.c_size_t(len(code)), arch, b"kernels"))
        arch = str(min(architectures)).encode()
        code = _compile(compiler, source, f"compute_{min(architectures)}", "PTX")
        _packed(packer, packer.nvFatbinAddPTX(handle, code, ctypes.c_size_t(len(code)), arch, b"kernels", None))
        size = ctypes.c_size_t()
        _packed(packer, packer.nvFatbinSize(handle, ctypes.byref(size)))
        content = ctypes.create_string_buffer(size.value)
        _packed(packer, packer.nvFatbinGet(handle, content))
        return content.raw
    finally:
        packer.nvFatbinDestroy(ctypes.byref(handle))


def _packed(packer: Any, status: int) -> None:
    if status:
        packer.nvFatbinGetErrorString.restype = ctypes.c_char_p
        raise LinkError(f"nvfatbin: {packer.nvFatbinGetErrorString(status).decode()}")


def _nvcc(source: str, architectures: Sequence[int]) -> bytes:
    wanted = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in architectures]
    wanted.append(f"-gencode=arch=compute_{min(architectures)},code=compute_{min(architectures)}")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernels.cu").write_text(source)
        command = ["nvcc", "-fatbin", *wanted, "kernels.cu", "-o", "kernels.fatbin"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise LinkError(f"nvcc failed: {' '.join(command)}\n{done.stderr[-2000:]}")
        return (Path(folder) / "kernels.fatbin").read_bytes()


def images(content: bytes) -> list[str]:
    """What a fat binary holds: ``sm_87`` for machine code, ``compute_75`` for PTX, as its own headers say.

    Raises:
        ValueError: It is not a fat binary.
    """
    magic, _, header, size = struct.unpack_from("<IHHQ", content)
    if magic != 0xBA55ED50:
        raise ValueError(f"not a fat binary: it starts with {content[:4].hex()}")
    found = []
    at, end = header, header + size
    while at < end:
        kind, _, head, length = struct.unpack_from("<HHIQ", content, at)
        architecture = struct.unpack_from("<I", content, at + 28)[0]
        if kind in (1, 2):
            found.append(f"{'compute' if kind == 1 else 'sm'}_{architecture}")
        at += head + length
    return found
