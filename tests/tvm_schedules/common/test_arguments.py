"""Arguments are held against annotations, in plain words."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from tvm_schedules.common.arguments import check_arguments, other_names

if TYPE_CHECKING:
    from decimal import Decimal

    from package_that_is_not_installed import Foreign  # type: ignore[import-not-found]


ONES = np.ones(1)


@check_arguments
def take(
    whole: int = 0,
    number: float | None = None,
    switch: bool = False,
    names: Sequence[str] | None = None,
    pair: tuple[int, int] = (1, 1),
    name: Literal["max", "min"] | None = None,
    table: dict[str, float] | None = None,
    several: Sequence[int] | Sequence[Sequence[int]] = (),
    where: str | os.PathLike[str] = "",
    call: Callable[[], None] | None = None,
    kind: type[Exception] = Exception,
    batches: Iterable[Any] = (),
    decimal: Decimal | None = None,
    foreign: Foreign | None = None,
    mapping: Mapping[str, Any] | None = None,
    pairs: Sequence[tuple[str, int]] = (),
    arrays: Sequence[np.ndarray] | np.ndarray | None = None,
    *,
    last: int | float | Literal["end"] = 0,
) -> dict[str, Any]:
    return {key: value for key, value in locals().items() if value is not None}


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("whole", np.int64(7), 7),
        ("number", 3, 3),
        ("number", np.float32(0.5), 0.5),
        ("number", np.array(2.5), 2.5),
        ("number", Fraction(1, 2), Fraction(1, 2)),
        ("switch", np.bool_(True), True),
        ("names", ("a", "b"), ("a", "b")),
        ("names", (one for one in "ab"), ["a", "b"]),
        ("names", {"a": 1}.keys(), ["a"]),
        ("pair", [2, 3], (2, 3)),
        ("name", "min", "min"),
        ("table", {"a": 1}, {"a": 1}),
        ("several", np.arange(3), [0, 1, 2]),
        ("several", [[1, 2], (3,)], [[1, 2], (3,)]),
        ("arrays", [ONES], [ONES]),
        ("arrays", ONES, ONES),
        ("call", print, print),
        ("kind", KeyError, KeyError),
        ("foreign", "anything", "anything"),
        ("last", "end", "end"),
    ],
)
def test_what_says_the_same_is_taken(name: str, value: Any, taken: Any) -> None:
    found = take(**{name: value})[name]
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("whole", "8", "whole must be an int, got '8'"),
        ("whole", True, "whole must be an int, got True"),
        ("whole", 8.0, "whole must be an int, got 8.0"),
        ("number", "x", "number must be a number or None, got 'x'"),
        ("number", np.array([1.0, 2.0]), "number must be a number or None, got array([1., 2.])"),
        ("switch", 1, "switch must be True or False, got 1"),
        ("names", "abc", "names must be a list of strings or None, got 'abc'"),
        ("names", ["a", 1], "names must be a list of strings or None, got ['a', 1]"),
        ("names", {"a"}, "names must be a list of strings or None, got {'a'}"),
        ("pair", (1, 2, 3), "pair must be a tuple of 2 ints, got (1, 2, 3)"),
        ("pair", (1, True), "pair must be a tuple of 2 ints, got (1, True)"),
        ("name", 3, "name must be 'max', 'min' or None, got 3"),
        (
            "table",
            {1: 2.0},
            "table must be a dictionary with strings as keys and numbers as values or None, got {1: 2.0}",
        ),
        ("several", [1, "x"], "several must be a list of ints or a list of lists of ints, got [1, 'x']"),
        ("where", 3, "where must be a string or a path, got 3"),
        ("call", 3, "call must be a function or None, got 3"),
        ("kind", int, "kind must be a subclass of Exception, got <class 'int'>"),
        ("batches", "x", "batches must be an Iterable, got 'x'"),
        ("decimal", 3, "decimal must be a Decimal or None, got 3"),
        ("mapping", [], "mapping must be a dictionary with strings as keys or None, got []"),
        (
            "pairs",
            [(1, "x")],
            "pairs must be a list of items, each of them a tuple of a string, an int, got [(1, 'x')]",
        ),
        ("last", "now", "last must be a number or 'end', got 'now'"),
        ("whole", "x" * 100, "whole must be an int, got something of the type str"),
    ],
)
def test_what_is_of_another_type_is_refused_in_plain_words(name: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        take(**{name: value})


@check_arguments
def arrays(samples: Mapping[str, np.ndarray] | Sequence[np.ndarray] | np.ndarray) -> Any:
    return samples


def test_an_array_stays_what_it_is_where_arrays_are_allowed() -> None:
    array = np.ones((2, 3))
    assert arrays(array) is array
    several = [array]
    assert arrays(several) is several


def test_values_that_are_none_of_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"^name must be 'max', 'min' or None, got 'mx'; did you mean 'max'\?$"):
        take(**{"name": "mx"})
    for value in (float("nan"), np.float64("nan")):
        with pytest.raises(ValueError, match=r"^number must be a number or None, got nan$"):
            take(number=value)
    with pytest.raises(TypeError, match=r"^table must be"):
        take(table={"a": float("nan")})


def test_arguments_that_are_too_many_too_few_or_unknown() -> None:
    with pytest.raises(
        TypeError, match=r"^take has no argument 'nmaes'; did you mean 'names'\? Its arguments are whole, "
    ):
        take(**{"nmaes": []})
    with pytest.raises(TypeError, match=r"^take has no argument 'zzz'\. Its arguments are"):
        take(**{"zzz": []})
    with pytest.raises(TypeError, match=r"^take: too many positional arguments; its arguments are whole"):
        take(*range(30))
    with pytest.raises(TypeError, match=r"^Needy: missing a required argument: 'amount'"):
        Needy(**{})
    with pytest.raises(
        TypeError, match=r"^Needy has no argument 'sparsity'; HINT: it is amount=0\.8 here\. Its arguments"
    ):
        Needy(**{"sparsity": 0.8})
    with pytest.raises(TypeError, match=r"^amount must be a number, got 'half'$"):
        Needy(**{"amount": "half"})


@check_arguments(hint=other_names("amount", "sparsity"))
class Needy:
    """Has one argument that is needed."""

    def __init__(self, amount: float, every: int = 1) -> None:
        self.amount, self.every = amount, every


class Heir(Needy):
    """Has arguments of its own."""

    def __init__(self, text: str) -> None:
        super().__init__(float(text), every=text)  # type: ignore[arg-type]


@check_arguments
@dataclass(frozen=True)
class Record:
    """Has a field named like a function."""

    type: str | None = None
    share: float = 0.5


def test_classes_keep_what_they_are() -> None:
    assert list(inspect.signature(Needy).parameters) == ["amount", "every"]
    assert inspect.signature(take).parameters["last"].kind is inspect.Parameter.KEYWORD_ONLY
    assert isinstance(Needy(1), Needy)
    assert Needy.__init__.__doc__ is None
    assert Record("a", share=1) == Record(type="a", share=1)
    with pytest.raises(TypeError, match=r"^share must be a number, got 'x'"):
        Record(**{"share": "x"})
    with pytest.raises(TypeError, match=r"^every must be an int, got '0.5'"):
        Heir("0.5")


def test_a_function_without_source() -> None:
    module = ModuleType("module_without_source")
    sys.modules[module.__name__] = module
    try:
        exec("def half(x: int) -> int:\n    return x // 2\n", vars(module))
        half = check_arguments(module.half)
        assert half(4) == 2
        with pytest.raises(TypeError, match=r"^x must be an int, got '4'"):
            half("4")
    finally:
        del sys.modules[module.__name__]


def test_the_package_for_types_only_is_really_not_there() -> None:
    assert importlib.util.find_spec("package_that_is_not_installed") is None
    assert "Decimal" not in globals()
