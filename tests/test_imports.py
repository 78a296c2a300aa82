"""What an import costs, what a board needs, and what is public."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tern_lightning
import tvm_schedules
from tvm_schedules.errors import install_hint, missing_explained

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "torchmetrics", "tvm", "onnx", "onnxruntime", "onnxscript", "matplotlib", "sklearn")
TRAINING = ("torch", "lightning", "pytorch_lightning", "torchmetrics", "tern_lightning")


def imported(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after running ``code``."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", ["tern_lightning", "tvm_schedules"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    found = imported(f"import {package}")
    assert package in found
    assert not found & set(HEAVY)


@pytest.mark.parametrize(
    "module", ["tern_lightning.cli.export", "tvm_schedules.cli.bench", "tvm_schedules.cli.inspect"]
)
def test_command_lines_answer_help_without_heavy_imports(module: str) -> None:
    found = imported(f"import {module}")
    assert not found & set(HEAVY)


def test_plain_loops_need_torch_alone() -> None:
    net = "import tern_lightning as t, torch; net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))"
    found = imported(f"{net}; t.ternarize(net); t.set_progress(net, 0.5); t.freeze(net); t.to_plain(net)")
    assert "torch" in found
    assert not found & (set(HEAVY) - {"torch"})
    assert "rich" not in found


def test_training_needs_nothing_of_the_export() -> None:
    loop = "import tern_lightning as t, torch; net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))"
    found = imported(f"{loop}; t.ternarize(net); t.freeze(net); t.to_plain(net); t.TernaryCallback()")
    assert "torch" in found
    assert not found & {"tvm", "onnx_ir", "onnxruntime", "onnxscript"}


def test_the_loading_side_imports_numpy_only() -> None:
    found = imported(
        "import tvm_schedules.artifact.load, tvm_schedules.packing.registry, tvm_schedules.ir.ternary_tensor"
    )
    assert "numpy" in found
    assert not found & {*HEAVY, "rich"}


def test_compiling_imports_nothing_of_the_training_half() -> None:
    found = imported(
        "import tvm_schedules.backends.cpu.compile, tvm_schedules.artifact.build, tvm_schedules.bench.measure"
    )
    assert not found & set(TRAINING)
    found = imported("from tvm_schedules.artifact import child; child._warm()")
    assert "tvm" in found
    assert not found & set(TRAINING)


def test_a_file_is_exported_without_torch(tmp_path: Path) -> None:
    """The extra ``tvm`` brings what ``tern-export model.onnx --samples`` needs, and that is not torch."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tvm")
    one = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 22]> one (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }'
    )
    onnx.save(one, tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 4), np.float32))
    arguments = [str(tmp_path / "model.onnx"), "--samples", str(tmp_path / "x.npz"), "--output", str(tmp_path / "out")]
    found = imported(f"from tern_lightning.cli.export import main; assert main({arguments}) == 0")
    assert "onnx" in found
    assert not found & (set(TRAINING) - {"tern_lightning"})
    assert tvm_schedules.load(tmp_path / "out")(np.array([[-1, 2, -3, 4]], np.float32)).tolist() == [[0, 2, 0, 4]]
    assert "tern-lightning[board]" in told(
        f"import tvm_schedules; tvm_schedules.load({str(tmp_path / 'out')!r})", "tvm"
    )


def told(code: str, missing: str) -> str:
    """What a fresh interpreter says at the end of ``code`` that cannot be run without a package."""
    code = f"import sys; sys.modules[{missing!r}] = None; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("missing", "code", "extra"),
    [
        ("onnx", "import tvm_schedules; tvm_schedules.build('model.onnx', output='out')", "tvm"),
        ("torch", "import tern_lightning; tern_lightning.export(None, 'out')", "export"),
        ("torch", "from tern_lightning import ternarize", "train"),
    ],
)
def test_what_brings_a_missing_package_is_told(missing: str, code: str, extra: str) -> None:
    assert told(code, missing).endswith(
        f"the package {missing!r} is missing; install it with: pip install 'tern-lightning[{extra}]'"
    )


def test_the_error_of_another_package_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^x$"), missing_explained():
        raise ModuleNotFoundError("x", name="of_the_user.torch")
    error = ModuleNotFoundError("x", name="onnxruntime")
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    assert "Python 3.11 or newer" in install_hint(error)
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    assert "tern-lightning[tvm]" in install_hint(error)


@pytest.mark.parametrize("package", ["tern_lightning", "tvm_schedules"])
def test_packages_are_typed(package: str) -> None:
    assert Path(str(importlib.import_module(package).__file__)).with_name("py.typed").is_file()


@pytest.mark.parametrize("package", ["tern_lightning", "tvm_schedules"])
def test_public_names_are_documented(package: str) -> None:
    module = importlib.import_module(package)
    assert inspect.getdoc(module)
    names = [name for name in module.__all__ if not name.startswith("__")]
    assert names
    for name in names:
        value = getattr(module, name)
        assert inspect.getdoc(value), f"{package}.{name} has no documentation"
        assert name in dir(module)


def test_both_packages_have_the_version_of_pyproject() -> None:
    """As it is written there, not as it was when this environment was made."""
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert tern_lightning.__version__ == tvm_schedules.__version__ == stated[1]
    assert re.search(rf"^## \[{stated[1]}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("package", ["tern_lightning", "tvm_schedules"])
def test_unknown_names_raise(package: str) -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        importlib.import_module(package).nonsense  # noqa: B018
