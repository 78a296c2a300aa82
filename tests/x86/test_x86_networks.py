"""Convolutions for AVX-512 on an emulated CPU: the same bytes as on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests.arm.test_arm_kernels import MODELS
from tests.tvm_schedules.compiling import compile_model
from tests.tvm_schedules.nets import Net, Runner
from tests.x86 import machine
from tvm_schedules.targets.registry import resolve

pytestmark = [
    pytest.mark.x86,
    pytest.mark.slow,
    pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing())),
]


def shared_zeros() -> onnx.ModelProto:
    """Layers whose channels share their zeros by twos and fours, or share nothing: zeros, strides, ends of vectors."""
    net = Net((1, 24, 17, 70), seed=9)
    x, found = net.quantize("input_0", 0.02, 60), []
    for index, zeros in enumerate((0.5, 0.8, 0.9)):
        for shared in (1, 2, 4):
            rows, side = 18 + index, 1 if index == 2 and shared == 1 else 3
            weight = net.weight((rows, 24, side, side), zeros, shared=shared)
            how: dict[str, Any] = {"strides": [1 + (index == 1)] * 2, "pads": [side // 2] * 4}
            found.append(net.quantize(net.op("Conv", x, weight, net.bias(rows), **how), 0.03, 90))
    return net.model(*found)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {"layers": MODELS["layers"], "shared zeros": shared_zeros}


def _inputs(model: onnx.ModelProto) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = [[side.dim_value for side in entry.type.tensor_type.shape.dim] for entry in model.graph.input]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("core", ["skylake-avx512", "cascadelake"])
def test_networks_give_the_same_numbers_as_on_the_host(core: str, name: str) -> None:
    target = resolve(
        f'{{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "{core}", "mattr": ["-prefer-256-bit"]}}'
    )
    model = NETWORKS[name]()
    call = machine.network(compile_model(model, target, own_threads=True), _inputs(model))
    (emulated,) = machine.run([call], machine.CPUS[core])
    for index, (there, here) in enumerate(zip(emulated, Runner(model)(*_inputs(model)), strict=True)):
        assert np.unique(here).size > 5 or (name, index) == ("layers", 4)
        np.testing.assert_array_equal(there, here, err_msg=f"output {index}")


def test_instructions_that_a_cpu_lacks_are_told() -> None:
    target = resolve('{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "cascadelake"}')
    model = MODELS["layers"]()
    call = machine.network(compile_model(model, target, own_threads=True), _inputs(model))
    with pytest.raises(machine.MachineError, match="network 0: the CPU stopped"):
        machine.run([call], "corei7_haswell_4770")
