"""What zeros that output channels share give in time: single 3x3 layers of 8-bit activations, one thread.

``taskset -c 1 python -m benchmarks.shared_zeros --json benchmarks/measured/shared-zeros.json`` measures layers whose
random codes are zero in groups of four, of two, or one by one. Each is computed from lists of single channels (the
faster of the two kernels that do so), by the kernel of channels that share their zeros, and by onnxruntime with dense
8-bit weights. They take turns; the least time of all turns counts.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.low_bit import Layer, network
from tvm_schedules.common.files import write_file

__all__ = ["LAYERS", "codes", "main", "measure"]

LAYERS = (Layer(64, 56, 64, 3), Layer(128, 28, 128, 3), Layer(256, 14, 256, 3))
KINDS = ((0.8, 4), (0.8, 2), (0.8, 1), (0.5, 4), (0.5, 1))
"""Share of zeros, and how many output channels have them at the same places."""
LISTS = ("sparse", "panel")
SHARED = "patterns"
BYTES = (128, 255)
"""Zero point and largest integer of the inputs."""
TURNS = 5
"""Measurements of ours before onnxruntime has as many."""


@dataclass(frozen=True)
class Turn:
    """Least seconds of one layer, by what computed it; ``chosen`` is the kernel that a build takes."""

    lists: float
    shared: float
    onnxruntime: float
    chosen: str


def codes(layer: Layer, zeros: float, group: int, rng: np.random.Generator) -> np.ndarray:
    """Random codes ``[1, O, C, k, k]``, int8, whose zeros ``group`` neighboring output channels share."""
    shape = (1, layer.outputs, layer.channels, layer.kernel, layer.kernel)
    kept = rng.random((1, layer.outputs // group, *shape[2:])) >= zeros
    return (rng.choice(np.array([-1, 1], np.int8), shape) * kept.repeat(group, 1)).astype(np.int8)


def dense_network(layer: Layer, rng: np.random.Generator) -> bytes:
    """The layer with dense 8-bit weights from bytes to bytes, as onnxruntime fuses it into one operator."""
    from onnx import TensorProto, helper, numpy_helper

    weight = rng.integers(-127, 128, (layer.outputs, layer.channels, layer.kernel, layer.kernel), np.int8)
    tensors = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in (
            ("step", np.float32(1.0)),
            ("zero", np.uint8(BYTES[0])),
            ("weight", weight),
            ("level", np.full(layer.outputs, 0.001, np.float32)),
            ("middle", np.zeros(layer.outputs, np.int8)),
        )
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "step", "zero"], ["data"]),
        helper.make_node("DequantizeLinear", ["weight", "level", "middle"], ["floats"], axis=0),
        helper.make_node("Conv", ["data", "floats"], ["sums"], pads=[layer.kernel // 2] * 4),
        helper.make_node("QuantizeLinear", ["sums", "step", "zero"], ["y"]),
    ]
    shapes = ((1, n, layer.size, layer.size) for n in (layer.channels, layer.outputs))
    ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in zip("xy", shapes)]  # noqa: B905
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(made.SerializeToString())


def onnxruntime_turns(model: bytes, shape: tuple[int, ...]) -> Iterator[float]:
    """Seconds of a run with one thread, as often as they are asked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = {"x": np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)}
    session.run(None, inputs)
    while True:
        started = time.perf_counter()
        session.run(None, inputs)
        yield time.perf_counter() - started


def measure(layer: Layer, zeros: float, group: int, turns: int) -> Turn:
    """One layer by all three, in turns.

    Args:
        layer: The layer.
        zeros: Share of zero codes, in [0, 1).
        group: How many output channels share them.
        turns: Measurements of each, a multiple of :data:`TURNS` at best.
    """
    from tvm_schedules.backends.cpu.lower import CpuLowering
    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.frontend.onnx_reader import read
    from tvm_schedules.lowering.schedule_config import ScheduleConfig
    from tvm_schedules.passes import prepare
    from tvm_schedules.targets.registry import resolve
    from tvm_schedules.tuner.alone import Alone
    from tvm_schedules.tuner.measure import LocalDevice, library

    spec, rng = resolve("host"), np.random.default_rng(0)
    graph = prepare(read(read_model(_bytes_out(network(layer, codes(layer, zeros, group, rng), BYTES)))))
    node = next(node for node in graph.nodes if node.name == "layer")
    usual = Alone(CpuLowering(graph, spec), node, None, {})
    asked = [Alone(CpuLowering(graph, spec), node, ScheduleConfig(name), {}) for name in (*LISTS, SHARED)]
    found = [one for one in asked if one.taken is not None]
    made, device = library(found, spec), LocalDevice()
    peer = onnxruntime_turns(dense_network(layer, rng), (1, layer.channels, layer.size, layer.size))
    ours, theirs = [], []
    for _ in range(0, turns, TURNS):
        ours.append(device.time(made, spec, 1, TURNS).min(0))
        theirs += [next(peer) for _ in range(TURNS)]
    least = dict(zip((one.taken.kernel for one in found if one.taken), np.min(ours, 0).tolist(), strict=True))
    assert usual.taken is not None
    lists = min(seconds for name, seconds in least.items() if name in LISTS)
    return Turn(lists, least[SHARED], min(theirs), usual.taken.kernel)


def _bytes_out(model: Any) -> Any:
    """The network with an output that is rounded to bytes, as a layer before another one has it."""
    from onnx import helper, shape_inference

    graph = model.graph
    graph.node[-1].output[0] = "sums"
    graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["sums", "step", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "step", "zero"], ["y"]),
        ]
    )
    return shape_inference.infer_shapes(model)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    from tvm_schedules.engines.system import machine

    parser = argparse.ArgumentParser(prog="python -m benchmarks.shared_zeros", description=__doc__)
    parser.add_argument("--layer", nargs="+", type=Layer.parse, default=LAYERS, help="CHANNELSxSIZExOUTPUTSx3")
    parser.add_argument("--turns", type=int, default=25, help="measurements of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, with machine and date")
    options = parser.parse_args(arguments)
    rows = []
    print(f"{'layer':14}{'zeros':>7}{'shared by':>11}{'lists us':>10}{'shared us':>11}{'onnxruntime us':>16}  chosen")
    for layer in options.layer:
        for zeros, group in KINDS:
            turn = measure(layer, zeros, group, options.turns)
            name = f"{layer.channels}x{layer.size}x{layer.size}"
            times = [1e6 * seconds for seconds in (turn.lists, turn.shared, turn.onnxruntime)]
            print(f"{name:14}{zeros:7.0%}{group:11}{times[0]:10.0f}{times[1]:11.0f}{times[2]:16.0f}  {turn.chosen}")
            row = {"channels": layer.channels, "size": layer.size, "zeros": zeros, "group": group}
            keys = ("lists_us", "shared_us", "onnxruntime_us")
            rows.append(
                {**row, **dict(zip(keys, (round(one, 1) for one in times), strict=True)), "chosen": turn.chosen}
            )
    if options.json:
        given = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "-m", "benchmarks.shared_zeros", *given])
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        data = {"command": command, "when": when, "machine": machine(), "turns": options.turns, "rows": rows}
        write_file(options.json, json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
