"""Every argument of every public callback and function, given values of every kind."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tern_lightning
import tvm_schedules
import tvm_schedules.tuner  # a type is known from when its module is loaded, and build() loads this one late
from tern_lightning import Schedule
from tern_lightning.quantizers import quantizer_names
from tern_lightning.quantizers.base import _REGISTRY

VALUES: dict[str, Any] = {
    "whole": 3,
    "negative": -3,
    "real": 0.37,
    "nan": float("nan"),
    "infinite": float("inf"),
    "bool": True,
    "text": "x",
    "bytes": b"x",
    "none": None,
    "whole ones": [1, 2],
    "texts": ["x"],
    "mixed": ["x", None],
    "dictionary": {"x": 0.5},
    "numbered": {1: "x"},
    "object": object(),
    "class": dict,
    "module": nn.Linear(2, 2),
    "schedule": Schedule(),
    "path": Path("x"),
}
"""One value of every kind."""
NUMBERS = ("whole", "negative", "real", "infinite")
FITTING: dict[str, Sequence[str]] = {
    "int": ("whole", "negative"),
    "float": NUMBERS,
    "bool": ("bool",),
    "str": ("text",),
    "None": ("none",),
    "Any": tuple(VALUES),
    "Sequence[str]": ("texts",),
    "Sequence[int]": ("whole ones",),
    "Sequence[float]": ("whole ones",),
    "Sequence[Any]": ("whole ones", "texts", "mixed"),
    "Shapes": ("whole ones",),
    "tuple[int, int]": ("whole ones",),
    "dict[str, Any]": ("dictionary",),
    "dict[str, float]": ("dictionary",),
    "Mapping[str, Any]": ("dictionary",),
    "Mapping[str, float]": ("dictionary",),
    "Mapping[str, npt.ArrayLike]": ("dictionary",),
    "Iterable[Any]": ("whole ones", "texts", "mixed", "dictionary", "numbered"),
    "Schedule": ("schedule",),
    "nn.Module": ("module",),
    "M": ("module",),
    "os.PathLike[str]": ("path",),
    "Path": ("path",),
    "Paths": ("texts",),
    "bytes": ("bytes",),
    "TeacherSource": ("text", "none", "module", "path"),
    "Samples": tuple(VALUES),
    **dict.fromkeys(("Callable", "Latency", "Loss"), ("class", "module")),
    **dict.fromkeys(("Literal", "Derivative", "DeltaMode", "Mode", "Shape", "Unit", "Activations", "DenseWeights"), ()),
    **dict.fromkeys(("type[nn.Module]", "Optimizer", "Sequence[Optimizer]", "Sequence[Rule]", "TargetSpec"), ()),
    **dict.fromkeys(("Mapping[str, TernaryTensor]", "Mapping[str, LayerRange]", "Tuning"), ()),
    "Mapping[str, Sequence[int]]": (),
}
"""Which of them an annotation allows, by its text; literals and functions whatever they are of."""

NEEDED: dict[str, dict[str, Any]] = {
    "AccuracyGuidedPruning": {"monitor": "val_loss"},
    "LatencyBudget": {"target": "pi4", "milliseconds": 1.0},
    "OperationBudget": {"operations": 1e6},
    "PruningSchedule": {"amount": 0.5},
    "SizeBudget": {"bytes": 1000},
    "SparsityBudget": {"zeros": 0.5},
}
"""Arguments without which a class cannot be made."""
RESULTS = ("PostTrained", "Preset", "PreparedLoop", "Sensitivity", "TernaryTensor", "Artifact", "Model")
"""Classes that functions return; nobody has to make one."""


def public(wanted: Callable[[Any], bool]) -> list[Any]:
    found = [getattr(package, name) for package in (tern_lightning, tvm_schedules) for name in package.__all__]
    return [one for one in found if wanted(one) and one.__name__ not in RESULTS]


CLASSES = public(inspect.isclass)
FUNCTIONS = public(inspect.isfunction)
QUANTIZERS = [_REGISTRY[name] for name in quantizer_names()]


def fitting(annotation: str) -> set[str]:
    """The kinds of values that an annotation allows, by its text; every type in it has a line in the table."""
    kinds: set[str] = set()
    for part in re.split(r" \| (?![^\[]*\])", re.sub(r"(Literal|Callable)\[.*?\](?!,)(, \w+\])?", r"\1", annotation)):
        kinds.update(FITTING[part])
    return kinds


def parameters(target: Any) -> list[inspect.Parameter]:
    own = inspect.signature(target).parameters.values()
    return [one for one in own if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]


@pytest.mark.parametrize("target", [*CLASSES, *QUANTIZERS], ids=lambda one: one.__name__)
def test_no_value_of_an_argument_fails_with_an_error_that_does_not_name_it(target: Any) -> None:
    needed = NEEDED.get(target.__name__, {})
    target(**needed)
    for parameter in parameters(target):
        name, right = parameter.name, fitting(str(parameter.annotation))
        for kind, value in VALUES.items():
            error = outcome(target, {**needed, name: value})
            if kind not in right:
                assert isinstance(error, TypeError) or kind in ("nan", "text"), (name, kind)
                assert f"{name} must be" in str(error), (name, kind)
            elif error is not None:  # of a right type and out of range, or a file that is not there
                assert name in str(error) or isinstance(error, FileNotFoundError), (name, kind, error)


def outcome(target: Any, arguments: dict[str, Any]) -> Exception | None:
    """The error that a call raises, if it does."""
    try:
        target(**arguments)
    except (TypeError, ValueError, FileNotFoundError) as error:
        return error
    return None


@pytest.mark.parametrize("target", FUNCTIONS, ids=lambda one: one.__name__)
def test_functions_refuse_values_of_wrong_types_before_they_do_anything(target: Any, tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    usual: dict[str, Any] = {
        **{"module": module, "trained": module, "optimizer": torch.optim.SGD(module.parameters(), 0.1), "data": [1]},
        **{"make": nn.Linear, "evaluate": id, "width": 1.0, "depth": 1.0, "share": 0.5, "type": "package.Layer"},
        **{"callbacks": [], "steps": 3, "output": tmp_path / "out", "path": tmp_path, "model": b"", "method": "twn"},
    }
    needed = {one.name: usual[one.name] for one in parameters(target) if one.default is one.empty}
    for parameter in parameters(target):
        for kind in sorted(VALUES.keys() - fitting(str(parameter.annotation))):
            with pytest.raises((TypeError, ValueError), match=rf"^{parameter.name} must be "):
                target(**{**needed, parameter.name: VALUES[kind]})
    assert not (tmp_path / "out").exists()
