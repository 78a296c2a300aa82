"""Coefficients of profile tables against the conditions of an optimum, and tables on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import examples
from tvm_schedules.errors import EstimateError
from tvm_schedules.estimate import table as tables
from tvm_schedules.estimate.features import CALL, NAMES
from tvm_schedules.estimate.fit import Row, fit, held_out, nonnegative
from tvm_schedules.estimate.table import Library, Table

KERNELS = ("sparse uint8", "dense uint8")
TRUE = {name: np.linspace(1, 3, len(NAMES)) * (1 + i) * 1e-6 for i, name in enumerate(KERNELS)}


def made_table(noise: float = 0.0, target: str = "host", unit: str = "seconds") -> Table:
    """A device whose steps take exactly what coefficients say, or about."""
    random = np.random.default_rng(1)
    rows = []
    for index in range(40):
        for name in KERNELS:
            numbers = tuple(float(value) for value in [1, *random.integers(1, 500, len(NAMES) - 1)])
            value = float(TRUE[name] @ numbers) * random.uniform(1 - noise, 1 + noise)
            rows.append(Row(f"net{index}", name, numbers, value))
        rows.append(Row(f"net{index}", CALL, (1.0, *[0.0] * (len(NAMES) - 1)), 4e-6))
    sizes = [
        Library(f"net{n}", {"sparse uint8": n, "dense uint8": 2}, 10 + n, 5000 + 700 * n, 900 + 40 * n)
        for n in range(8)
    ]
    return Table("a device", target, unit, "made up", "2026-11-29", tuple(rows), tuple(sizes))


@examples(100)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 10_000))
def test_least_squares_fulfil_the_conditions_of_the_optimum(columns: int, rows: int, seed: int) -> None:
    """Where a coefficient is positive the gradient is 0, where it is 0 the error cannot fall with it."""
    random = np.random.default_rng(seed)
    matrix, wanted = random.normal(size=(rows, columns)), random.normal(size=rows)
    found = nonnegative(matrix, wanted)
    gradient = matrix.T @ (wanted - matrix @ found)
    assert (found >= 0).all()
    assert (gradient <= 1e-6).all()
    np.testing.assert_allclose(gradient[found > 0], 0, atol=1e-6)


def test_exact_measurements_are_fitted_and_extrapolated_exactly() -> None:
    table = made_table()
    numbers = [1.0, *[5000.0] * (len(NAMES) - 1)]
    for name in KERNELS:
        assert table.fit.value(name, numbers) == pytest.approx(float(TRUE[name] @ numbers), rel=1e-3)
    assert table.fit.value(CALL, [1.0, *[0.0] * (len(NAMES) - 1)]) == pytest.approx(4e-6, rel=1e-3)
    assert table.error < 1e-3


def test_the_error_is_that_of_networks_left_out() -> None:
    table = made_table(noise=0.4)
    errors = [abs(said / took - 1) for took, said in held_out(table.rows, table.floor).values()]
    assert table.error == np.percentile(errors, 90)
    assert 0.02 < table.error < 0.4


def test_a_group_without_measurements_is_guessed_and_said_to_be() -> None:
    made = fit(made_table().rows, 1e-6)
    numbers = [1.0] * len(NAMES)
    assert made.knows("sparse float32"), "other operands of a known kernel"
    assert made.value("sparse float32", numbers) == pytest.approx(float(TRUE["sparse uint8"] @ numbers), rel=0.05)
    assert not made.knows("unheard")
    assert made.value("unheard", numbers) > 0
    assert not made.knows("fallback Softmax")


def test_a_group_of_few_measurements_takes_its_kernels_coefficients_times_a_factor() -> None:
    rows = list(made_table().rows)
    own = [row for row in rows if row.group == "sparse uint8"][:3]
    rows += [replace(row, group="sparse uint8 then gelu", value=2.5 * row.value) for row in own]
    made = fit(rows, 1e-6)
    numbers = [1.0] * len(NAMES)
    ratio = made.value("sparse uint8 then gelu", numbers) / made.value("sparse float32", numbers)
    assert ratio == pytest.approx(2.5, rel=0.05)
    assert made.knows("sparse uint8 then gelu")


def test_sizes_of_libraries_follow_from_their_kernels() -> None:
    code, metadata = made_table().library_bytes({"sparse uint8": 20, "dense uint8": 2}, 30)
    assert code == pytest.approx(5000 + 700 * 20, rel=0.01)
    assert metadata == pytest.approx(900 + 40 * 20, rel=0.01)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = made_table(0.1)
    tables.write(tmp_path / "table.json", table)
    assert tables.read(tmp_path / "table.json") == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "another version"),
        ({"names": ["call"]}, "another version"),
        ({"unit": "hours"}, "unit must be one of seconds, cycles, instructions, got 'hours'"),
        ({"rows": []}, "no measurements"),
        ({"rows": [{"network": "a", "group": "b", "numbers": [1.0], "value": 1.0}]}, "has 1 numbers instead of"),
        ({"libraries": 3}, "libraries must be a list"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "table.json"
    tables.write(path, made_table())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(EstimateError, match=message):
        tables.read(path)


def test_a_missing_table_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(EstimateError, match="does not exist; make it again with tern-bench --profile-table"):
        tables.read(tmp_path / "no.json")


def test_tables_of_the_package_are_whole() -> None:
    folder = Path(tables.__file__).with_name("tables")
    names = {path.stem for path in folder.glob("*.json")}
    assert "x86-256" in names
    for name in names:
        table = tables.packaged(name)
        assert table is not None
        assert 0 < table.error < 1, name
        assert replace(table, rows=table.rows) == table
    assert tables.packaged("no such core") is None


def test_a_single_network_has_no_error_that_is_known() -> None:
    whole = made_table()
    one = replace(whole, rows=tuple(row for row in whole.rows if row.network == "net3"))
    assert held_out(one.rows, one.floor) == {}
    assert one.error is None
    assert whole.error is not None
    assert whole.error < 1e-6


def test_code_without_metadata_has_none() -> None:
    """As that of C."""
    whole = made_table()
    bare = replace(whole, libraries=tuple(replace(one, metadata=0) for one in whole.libraries))
    assert bare.library_bytes({"sparse uint8": 3, "dense uint8": 2}, 13) == (pytest.approx(7100, abs=2), 0)
