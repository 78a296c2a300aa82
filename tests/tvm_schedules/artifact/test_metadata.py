"""What an artifact says of its network."""

from __future__ import annotations

from pathlib import Path

import tvm_schedules
from tests.tvm_schedules.nets import Net


def test_layers_of_bytes_are_not_counted_as_ternary(tmp_path: Path) -> None:
    net = Net((1, 12))
    hidden = net.op("Relu", net.op("Gemm", net.quantize("input_0"), net.weight((8, 12), None, int8=True), transB=1))
    model = net.model(net.op("Gemm", net.quantize(hidden), net.weight((4, 8), 0.5), transB=1))
    found = tvm_schedules.build(model, tmp_path / "out", verify=False).metadata["quantization"]
    assert (found["ternary_layers"], found["ternary_weights"]) == (1, 32)
    assert found["bits_per_weight_stored"] < 8
