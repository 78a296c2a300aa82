"""The helpers of readers: arrays as numpy reads them, and one error for all that damage does."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from tern_lightning.checkpoint import CheckpointError
from tvm_schedules.common import schema
from tvm_schedules.common.reading import read_arrays, read_json, reading
from tvm_schedules.errors import ArtifactError, ModelError, TunerError


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["u1", "i1", "?", "<u2", ">i4", "<i8", "<f2", "<f4", ">f8", "<c8", "<U3"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (3, 0, 2)])
def test_arrays_are_those_of_numpy(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    columns = np.asfortranarray(array)
    found = read_arrays(saved(a=array, b=columns))
    np.save(tmp_path / "one.npy", columns)
    for name, expected in (("a", array), ("b", columns)):
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    np.testing.assert_array_equal(read_arrays(tmp_path / "one.npy")[""], np.load(tmp_path / "one.npy"))


def npy(shape: str, dtype: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize(
    ("shape", "dtype", "content"),
    [
        ("(99999999999,)", "<f8", b"12345678"),  # numpy asks for 745 GiB
        ("(1000000000, 1000000000)", "|V0", b""),  # numpy counts to 10**18
        ("(2,)", "<f4", b"123456789"),
        ("(2,)", "<f4", b"1234567"),
        ("(-1,)", "<f4", b"1234"),
        ("(1,)", "|O", b"12345678"),
    ],
)
def test_a_header_that_does_not_fit(shape: str, dtype: str, content: bytes, tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as entries:
        entries.writestr("a.npy", npy(shape, dtype, content))
    for data in (npy(shape, dtype, content), file.getvalue()):
        with pytest.raises(ValueError, match=r"bytes are not an array|no numbers"):
            read_arrays(data)


def test_a_file_made_to_burst_is_not_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as entries, entries.open("a.npy", "w") as entry:
        entry.write(npy("(500000000,)", "|u1"))
        for _ in range(500):
            entry.write(bytes(1_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="would be unpacked to 500000128"):
            read_arrays(file.getvalue())
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "error", [KeyError("x"), zlib.error("x"), zipfile.BadZipFile("x"), RecursionError(), MemoryError(), ValueError()]
)
def test_foreign_errors_become_one(error: Exception) -> None:
    with pytest.raises(ArtifactError, match=r"the file is damaged \(.+\); do it again") as found:  # noqa: SIM117
        with reading("the file", ArtifactError, "; do it again"):
            raise error
    assert found.value.__cause__ is error


@pytest.mark.parametrize("error", [ModelError("x"), CheckpointError("x"), ModuleNotFoundError("x")])
def test_own_errors_and_missing_packages_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as found, reading("the file", CheckpointError):
        raise error
    assert found.value is error


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '"\\ud800"', "1" * 5000, "\xff"])
def test_json_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TunerError, match=r"the database .*a.json is damaged \(.+\)!"):
        read_json(tmp_path / "a.json", TunerError, "database", "!")


def test_json_comes_as_it_is_and_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"é": [1, None]}))
    assert read_json(tmp_path / "a.json", TunerError, "database") == {"é": [1, None]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json", TunerError, "database")
    with pytest.raises(TunerError, match="cannot read the database"):
        read_json(tmp_path, TunerError, "database")


FORM = {"name": str, "shape": [schema.count], "scale?": schema.positive, "files": schema.Every({"bytes": schema.count})}
GOOD = {"name": "x", "shape": [1, 2], "files": {"a": {"bytes": 3}}, "more": None}


def test_values_of_a_form_pass() -> None:
    schema.check(GOOD, FORM)
    schema.check({**GOOD, "scale": 0.5}, FORM)
    schema.check([None, GOOD], [schema.Maybe(FORM)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "name must be text, got 1"),
        ({"shape": [1, True]}, r"shape\[1\] must be a whole number that is not negative, got True"),
        ({"shape": {}}, "shape must be a list"),
        ({"shape": [10**5000]}, r"shape\[0\] must be .* got a number of many digits"),
        ({"scale": float("nan")}, "scale must be a number above zero, got nan"),
        ({"files": {"a": {}}}, "files.a.bytes is missing"),
        ({"files": {"a": []}}, "files.a must be an object"),
    ],
)
def test_other_values_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schema.check({**GOOD, **change}, FORM)
