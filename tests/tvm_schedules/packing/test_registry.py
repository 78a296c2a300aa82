"""What loading needs of the code: the packing of weights, and nothing that generates code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import tvm_schedules
from tests.tvm_schedules.nets import resnet

ROOT = Path(__file__).parents[3]

CODE_GENERATION = {"compat", "fallback", "kernels", "lower", "lowering", "compile", "passes", "tuner"}
"""Names of packages and modules that take part in making code."""

LOAD = """
import json, sys, numpy as np, tvm_schedules
model = tvm_schedules.load(sys.argv[1])
model(np.zeros((1, 3, 8, 8), np.float32))
print(json.dumps(sorted(name for name in sys.modules if name.startswith("tvm_schedules"))))
"""


def test_loading_an_artifact_imports_no_code_generation(tmp_path: Path) -> None:
    tvm_schedules.build(resnet([(8, 1), (16, 2)], 8, 0.7), tmp_path / "net", "host", verify=False)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "net")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = json.loads(done.stdout.splitlines()[-1])
    assert "tvm_schedules.packing.registry" in modules
    assert [name for name in modules if CODE_GENERATION & set(name.split("."))] == []
