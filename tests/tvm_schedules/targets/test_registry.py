from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tvm_schedules.errors import TargetError
from tvm_schedules.targets import host_cpu as cpu
from tvm_schedules.targets import registry as targets


@pytest.mark.parametrize("name", sorted(set(targets.known()) - set(targets.gpu.known()) - {"c"}))
def test_presets_are_targets_that_llvm_knows(name: str) -> None:
    import tvm

    spec = targets.resolve(name)
    assert spec.name == name
    assert tvm.target.Target(spec.tvm).kind.name == "llvm"
    # LLVM must not have more of the checked instruction sets than the preset promises the loader.
    assert targets._llvm_features(spec.tvm) <= spec.features


@pytest.mark.parametrize(
    ("name", "dotprod"),
    [("arm", False), ("pi3", False), ("pi4", False), ("pi5", True), ("a55", True), ("neoverse-n1", True)],
)
def test_dot_product_only_where_the_core_has_it(name: str, dotprod: bool) -> None:
    spec = targets.resolve(name)
    assert ("dotprod" in spec.features) is dotprod
    assert spec.vector_bytes == 16
    assert spec.tvm["mtriple"] == "aarch64-linux-gnu"


@pytest.mark.parametrize(
    ("name", "i8mm"), [("a78", False), ("x1", False), ("graviton2", False), ("graviton3", True), ("neoverse-n2", True)]
)
def test_products_of_matrices_only_where_the_core_has_them(name: str, i8mm: bool) -> None:
    spec = targets.resolve(name)
    assert {"dotprod", "i8mm"} & spec.features == {"dotprod"} | ({"i8mm"} if i8mm else set())
    assert not {"sve", "sve2"} & (spec.features | targets._llvm_features(spec.tvm))


def test_host_has_only_what_the_cpu_has() -> None:
    spec = targets.resolve("host")
    assert spec.triple is None
    present = cpu.features()
    if present is not None:
        assert spec.features <= present
        if cpu.architecture() == "x86_64":
            expected = 64 if {"avx512bw", "avx512vl"} <= spec.features else 32 if "avx2" in spec.features else 16
            assert spec.vector_bytes == expected


def test_host_behind_a_hypervisor_that_hides_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu.architecture() != "x86_64":
        pytest.skip("about x86")
    import tvm

    v3 = frozenset(targets._llvm_features({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}))
    monkeypatch.setattr(cpu, "features", lambda: v3)
    monkeypatch.setattr(tvm.target.codegen, "llvm_get_system_cpu", lambda: "skylake-avx512")
    spec = targets.resolve("host")
    assert spec.features <= v3
    assert (spec.tvm["mcpu"], spec.vector_bytes) == ("x86-64-v3", 32)


def test_json() -> None:
    spec = targets.resolve(json.dumps({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a73"}))
    assert (spec.name, spec.vector_bytes, "dotprod" in spec.features) == ("json", 16, False)
    spec = targets.resolve(
        '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a73", "mattr": ["+dotprod"]}'
    )
    assert "dotprod" in spec.features
    spec = targets.resolve('{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"}')
    assert spec.vector_bytes == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pi9", "host, arm, a53, .* got 'pi9'"),
        ("", "must be one of"),
        ("{", "not valid JSON"),
        ('{"kind": "cuda"}', '"kind": "llvm" or "c", got \'cuda\''),
        ('{"kind": "llvm", "mcpu": "pentium-9"}', "does not know the CPU 'pentium-9'"),
        ('{"kind": "llvm", "bogus": 1}', "does not understand target"),
        ('{"kind": "llvm", "mtriple": 7}', 'string for "mtriple", got 7'),
    ],
)
def test_unknown_targets(text: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        targets.resolve(text)


def test_importing_the_package_loads_no_compiler() -> None:
    code = (
        "import sys, tvm_schedules, tvm_schedules.artifact, tvm_schedules.cli.bench, tvm_schedules.cli.inspect\n"
        "heavy = {'tvm', 'onnx', 'onnxruntime', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert tvm_schedules.__version__ and tvm_schedules.TernaryTensor and callable(tvm_schedules.build)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
