from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_schedules.backends import toolchain as linking
from tvm_schedules.errors import LinkError


@pytest.fixture
def objects(tmp_path: Path) -> list[str]:
    """An object file with ``int answer(void)``."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler to make an object file")
    source, compiled = tmp_path / "answer.c", tmp_path / "answer.o"
    source.write_text("int answer(void) { return 42; }\n")
    subprocess.run(["cc", "-c", "-fPIC", str(source), "-o", str(compiled)], check=True)
    return [str(compiled)]


def test_links_for_this_machine(objects: list[str], tmp_path: Path) -> None:
    linking.link(objects, tmp_path / "answer.so", None)
    assert ctypes.CDLL(str(tmp_path / "answer.so")).answer() == 42


@pytest.mark.skipif(sys.platform != "linux", reason="an option of linkers for Linux")
def test_a_library_has_no_empty_pages(objects: list[str], tmp_path: Path) -> None:
    plain, wide = tmp_path / "answer.so", tmp_path / "wide.so"
    linking.link(objects, plain, None)
    command = linking.linker(None)
    subprocess.run([*command, "-Wl,-z,separate-code", "-o", str(wide), *objects], check=True)
    assert ctypes.CDLL(str(wide)).answer() == ctypes.CDLL(str(plain)).answer() == 42
    assert plain.stat().st_size < wide.stat().st_size - 4000


def test_links_without_any_compiler(objects: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setattr(linking.shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    assert "ziglang" in linking.linker(None)
    linking.link(objects, tmp_path / "answer.so", None)
    assert ctypes.CDLL(str(tmp_path / "answer.so")).answer() == 42


def test_failure_of_the_linker_is_told(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"linking a\.so failed: .*missing\.o"):
        linking.link([str(tmp_path / "missing.o")], tmp_path / "a.so", None)


def test_zig_comes_first_for_others_and_gcc_serves_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "_has_zig", lambda: True)
    command = linking.linker("aarch64-unknown-linux-gnu")
    assert command[:6] == [sys.executable, "-m", "ziglang", "cc", "-target", f"aarch64-linux-gnu.{linking.GLIBC}"]
    monkeypatch.setattr(linking, "_has_zig", lambda: False)
    monkeypatch.setattr(linking.shutil, "which", lambda name: name if name == "aarch64-linux-gnu-gcc" else None)
    assert linking.linker("aarch64-linux-gnu")[0] == "aarch64-linux-gnu-gcc"


@pytest.mark.parametrize("triple", [None, "aarch64-linux-gnu"])
def test_no_linker_says_what_to_install(triple: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "_has_zig", lambda: False)
    monkeypatch.setattr(linking.shutil, "which", lambda name: None)
    with pytest.raises(LinkError, match="pip install ziglang"):
        linking.linker(triple)


def test_systems_that_cannot_be_linked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "_has_zig", lambda: True)
    with pytest.raises(LinkError, match=r"only Linux triples.*'arm64-apple-darwin'"):
        linking.linker("arm64-apple-darwin")
