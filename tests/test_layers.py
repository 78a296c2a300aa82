"""The contract between the folders: what may import what, and that a board compiles nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tvm_schedules
from tests.layers import ROOT, circles, graph, modules, named, reached, upward
from tests.tvm_schedules.artifact_nets import exact_net
from tvm_schedules.backends import registry

# Folders and top-level modules, low to high.
INFERENCE = """
    errors common ir targets compat frontend passes packing lowering fallback runtime backends pipeline verify tuner
    artifact remote estimate engines board bench report cli
"""
TRAINING = """
    _lazy products ternary_tensor functional quantizers nn metrics rules schedules hessian checkpoint recipes loop
    evaluation layer_sensitivity after_training exporter callbacks own_loop cli
"""
LAYERS = {"tvm_schedules": (*INFERENCE.split(), ""), "tern_lightning": (*TRAINING.split(), "")}
"""The public names of a package, ``""``, are above all that it has."""

# Parts of module names that write code, and a board must do without.
GENERATORS = "kernels schedules fallback lowering passes frontend tuner lower compile build"

WITH_TORCH = {
    "tvm_schedules.artifact.inspect",  # shows checkpoints too, where torch is there to read them
    "tvm_schedules.engines.peer_engines",  # runs in the environments of other engines, without the rest of the package
}
BOARD = ["tvm_schedules.artifact.load", "tvm_schedules.cli.board"]


def test_the_reader_finds_imports_of_every_form(tmp_path: Path) -> None:
    sources = {
        "__init__": "import importlib\ndef late(): return importlib.import_module('house.roof')",
        "cellar": "import typing\nif typing.TYPE_CHECKING:\n    from house.roof import Tile\nimport house.pipes",
        "pipes": "import os\nfrom .cellar import water",
        "roof": "def build():\n    from house import pipes as p, missing\n    import torch.nn",
    }
    (tmp_path / "house").mkdir()
    for name, text in sources.items():
        (tmp_path / "house" / f"{name}.py").write_text(text)
    found = graph(["house"], root=tmp_path)
    assert found == {
        "house": {"house.roof"},
        "house.cellar": {"house.roof", "house.pipes"},
        "house.pipes": {"house.cellar"},
        "house.roof": {"house.pipes", "house"},
    }
    assert graph(["house"], types=False, root=tmp_path)["house.cellar"] == {"house.pipes"}
    assert "torch.nn" in named(sources["roof"], "house.roof", False)
    assert upward(found, ["cellar", "pipes", "roof", ""]) == {
        ("house.cellar", "house.roof"),
        ("house.cellar", "house.pipes"),
        ("house.roof", "house"),
    }
    with pytest.raises(ValueError, match="roof"):
        upward(found, ["cellar", "pipes", ""])
    assert circles(found) == [{"house", "house.roof", "house.cellar", "house.pipes"}]
    assert circles({**found, "house.cellar": {"house.pipes"}}) in (
        [{"house.cellar", "house.pipes"}, {"house", "house.roof"}],
        [{"house", "house.roof"}, {"house.cellar", "house.pipes"}],
    )
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.fixture(scope="module")
def imports() -> dict[str, dict[str, set[str]]]:
    return {package: graph([package]) for package in LAYERS}


@pytest.mark.parametrize("package", LAYERS)
def test_every_folder_has_a_layer_and_imports_lower_ones(package, imports) -> None:
    assert not upward(imports[package], LAYERS[package])
    there = {name.split(".")[1] if "." in name else "" for name in imports[package]}
    assert there == {*LAYERS[package]}, "a layer without modules"


@pytest.mark.parametrize("package", LAYERS)
def test_the_page_about_the_architecture_lists_the_layers_in_their_order(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    (section,) = [part for part in text.split("\n## ") if part.partition("\n")[0].endswith(f"`{package}`")]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    assert [name for cell in cells for name in re.findall(r"`(\w+)(?:/|\.py)`", cell)] == [*LAYERS[package][:-1]]


@pytest.mark.parametrize("package", LAYERS)
def test_no_module_takes_part_in_an_import_circle(package, imports) -> None:
    assert not circles(imports[package])


def test_back_ends_do_not_know_each_other(imports) -> None:
    def side(module: str) -> str:
        return ".".join(module.split(".")[2:3]) if module.startswith("tvm_schedules.backends.") else ""

    sides = {side(module) for module in registry.MODULES}
    assert len(sides) == len(registry.MODULES)
    found = {
        (module, other)
        for module, others in imports["tvm_schedules"].items()
        for other in others
        if {side(module), side(other)} <= sides and side(module) != side(other)
    }
    assert not found


def test_inference_names_nothing_of_the_training() -> None:
    found = set()
    for module, path in modules("tvm_schedules").items():
        wanted = {name.partition(".")[0] for name in named(path.read_text(), module, path.name == "__init__.py")}
        assert not wanted & {"lightning", "pytorch_lightning", "torchmetrics", "tern_lightning"}, module
        found |= {module} if "torch" in wanted else set()
    assert found == WITH_TORCH


def _generators(names: set[str]) -> set[str]:
    """Modules of the compiler among ``names``."""
    own = {name for name in names if name.startswith("tvm_schedules.") and set(name.split(".")) & {*GENERATORS.split()}}
    return own | {name for name in names if name.partition(".")[0] in ("onnx", "onnxruntime", "torch")}


def test_nothing_that_a_board_runs_imports_a_code_generator() -> None:
    """Also inside functions: what is imported when a library is loaded counts as what is imported at the start."""
    imports = graph(["tvm_schedules"], types=False)
    for module, others in imports.items():  # a folder's own module comes with everything in it
        others |= {module.rpartition(".")[0]} - {""}
    starts = [*BOARD, *(name for name in imports if name.startswith("tvm_schedules.board"))]
    assert not _generators(reached(imports, starts))


CALL = """
import json, sys
import numpy as np
import tvm_schedules
from tvm_schedules.backends import registry
from tvm_schedules.board import session

assert registry.files()  # of all back ends, which are imported for it
model = tvm_schedules.load({folder!r})
outputs = model(*(np.zeros(entry["shape"], entry["dtype"]) for entry in model.inputs))
assert np.isfinite(outputs).all()
session.Session({folder!r}).functions()["tern.board.describe"]()
print(json.dumps([name for name, module in sys.modules.items() if module is not None]))
"""


def test_a_boards_process_has_loaded_no_code_generator(tmp_path: Path) -> None:
    """A process in which an artifact has been loaded and called and a session has answered."""
    tvm_schedules.build(exact_net(), tmp_path / "out", "host", verify=False)
    environment = {**os.environ, "TVM_USE_RUNTIME_LIB": "1", "PYTHONPATH": str(ROOT)}
    code = "import sys; sys.modules['torch'] = None\n" + CALL.format(folder=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"tvm", "tvm_schedules.artifact.load", "tvm_schedules.board.session"} <= found
    assert not {"tvm.relax", "tvm.s_tir", "tvm.topi"} & found
    assert {*registry.MODULES} <= found
    assert not _generators(found)
