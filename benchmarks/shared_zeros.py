"""What zeros that output channels share give in time: single 3x3 layers of 8-bit and of float activations, one thread.

``taskset -c 1 python -m benchmarks.shared_zeros --json benchmarks/measured/shared-zeros.json`` measures layers whose
random codes are zero in groups of four, of two, or one by one. Each is computed channel by channel (the fastest of the
kernels that do so), by the kernel of channels that share their zeros, and by onnxruntime with dense weights, of 8 bits
or floats as the activations are. They take turns; the least time of all turns counts. Beside that stands how many
additions a second the weights' codes are, and the machine's ceiling for a kernel that loads a pixel for each.
"""

from __future__ import annotations

import argparse
import itertools
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

__all__ = ["LAYERS", "ceiling", "codes", "dense_network", "main", "measure", "ternary_network"]

LAYERS = (Layer(64, 56, 64, 3), Layer(128, 28, 128, 3), Layer(256, 14, 256, 3))
KINDS = ((0.8, 4), (0.8, 2), (0.8, 1), (0.5, 4), (0.5, 1))
"""Share of zeros, and how many output channels have them at the same places."""
SINGLE = ("sparse", "panel", "straight")
SHARED = "patterns"
INPUTS = ("u8", "f32")
BYTES = (128, 255)
"""Zero point and largest integer of the inputs."""
TURNS = 5
"""Measurements of ours before onnxruntime has as many."""


@dataclass(frozen=True)
class Turn:
    """Least seconds of one layer, by what computed it.

    Attributes:
        single: By kernels of single channels.
        shared: By the kernel of channels that share their zeros.
        onnxruntime: By onnxruntime.
        chosen: The kernel that a build takes.
        additions: Codes that are not zero times pixels.
    """

    single: float
    shared: float
    onnxruntime: float
    chosen: str
    additions: int


def codes(layer: Layer, zeros: float, group: int, rng: np.random.Generator) -> np.ndarray:
    """Random codes ``[1, O, C, k, k]``, int8, whose zeros ``group`` neighboring output channels share."""
    shape = (1, layer.outputs, layer.channels, layer.kernel, layer.kernel)
    kept = rng.random((1, layer.outputs // group, *shape[2:])) >= zeros
    return (rng.choice(np.array([-1, 1], np.int8), shape) * kept.repeat(group, 1)).astype(np.int8)


def ternary_network(layer: Layer, values: np.ndarray, floats: bool) -> Any:
    """The layer with ternary weights, from bytes to bytes or from floats to floats."""
    if not floats:
        return _bytes_out(network(layer, values, BYTES))
    model = network(layer, values, BYTES)
    nodes = [node for node in model.graph.node if node.op_type not in ("Clip", "QuantizeLinear")]
    kept = [node for node in nodes if node.output[0] != "data"]
    next(node for node in kept if node.op_type == "Conv").input[0] = "x"
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def dense_network(layer: Layer, floats: bool, rng: np.random.Generator) -> bytes:
    """The layer with dense weights; with 8-bit ones from bytes to bytes, as onnxruntime fuses it into one operator."""
    from onnx import TensorProto, helper, numpy_helper

    weight = rng.integers(-127, 128, (layer.outputs, layer.channels, layer.kernel, layer.kernel), np.int8)
    arrays: dict[str, Any] = {"floats": weight * np.float32(0.001)}
    nodes = [helper.make_node("Conv", ["x", "floats"], ["y"], pads=[layer.kernel // 2] * 4)]
    if not floats:
        arrays = {
            "step": np.float32(1.0),
            "zero": np.uint8(BYTES[0]),
            "weight": weight,
            "level": np.full(layer.outputs, 0.001, np.float32),
            "middle": np.zeros(layer.outputs, np.int8),
        }
        nodes = [
            helper.make_node("DequantizeLinear", ["x", "step", "zero"], ["data"]),
            helper.make_node("DequantizeLinear", ["weight", "level", "middle"], ["floats"], axis=0),
            helper.make_node("Conv", ["data", "floats"], ["sums"], pads=[layer.kernel // 2] * 4),
            helper.make_node("QuantizeLinear", ["sums", "step", "zero"], ["y"]),
        ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    dtype = TensorProto.FLOAT if floats else TensorProto.UINT8
    shapes = {"x": (1, layer.channels, layer.size, layer.size), "y": (1, layer.outputs, layer.size, layer.size)}
    ends = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(made.SerializeToString())


def onnxruntime_turns(model: bytes, shape: tuple[int, ...]) -> Iterator[float]:
    """Seconds of a run with one thread, as often as they are asked for."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    dtype = np.float32 if "float" in session.get_inputs()[0].type else np.uint8
    inputs = {"x": np.random.default_rng(0).integers(0, 256, shape).astype(dtype)}
    session.run(None, inputs)
    while True:
        started = time.perf_counter()
        session.run(None, inputs)
        yield time.perf_counter() - started


def measure(layer: Layer, zeros: float, group: int, floats: bool, turns: int) -> Turn:
    """One layer by all three, in turns.

    Args:
        layer: The layer.
        zeros: Share of zero codes, in [0, 1).
        group: How many output channels share them.
        floats: Whether activations are floats.
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
    values = codes(layer, zeros, group, rng)
    graph = prepare(read(read_model(ternary_network(layer, values, floats))))
    node = next(node for node in graph.nodes if node.name == "layer")
    usual = Alone(CpuLowering(graph, spec), node, None, {})
    asked = [Alone(CpuLowering(graph, spec), node, ScheduleConfig(name), {}) for name in (*SINGLE, SHARED)]
    found = [one for one in asked if one.taken is not None]
    made, device = library(found, spec), LocalDevice()
    peer = onnxruntime_turns(dense_network(layer, floats, rng), (1, layer.channels, layer.size, layer.size))
    ours, theirs = [], []
    for _ in range(0, turns, TURNS):
        ours.append(device.time(made, spec, 1, TURNS).min(0))
        theirs += [next(peer) for _ in range(TURNS)]
    least = dict(zip((one.taken.kernel for one in found if one.taken), np.min(ours, 0).tolist(), strict=True))
    assert usual.taken is not None
    single = min(seconds for name, seconds in least.items() if name in SINGLE)
    additions = int(np.count_nonzero(values)) * layer.size**2
    return Turn(single, least[SHARED], min(theirs), usual.taken.kernel, additions)


def ceiling(seconds: float = 0.5) -> dict[str, float]:
    """1e9 additions a second at best on one thread, where each loads a pixel from the L1 cache: ``u8`` and ``f32``."""
    from tvm_schedules.backends.cpu import probe
    from tvm_schedules.common.files import temporary_folder
    from tvm_schedules.targets.registry import resolve

    spec = resolve("host")
    with temporary_folder("ceiling") as folder:
        probe.build_probe(spec, folder / "probe.so")
        return probe.measure(folder / "probe.so", spec.vector_bytes, 1, seconds)


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
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=INPUTS, help="(default: both)")
    parser.add_argument("--turns", type=int, default=25, help="measurements of each (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found, with machine and date")
    options = parser.parse_args(arguments)
    rows, most = [], ceiling()
    print(f"1e9 additions a second at best: {most['u8']:.0f} of bytes, {most['f32']:.0f} of floats")
    titles = f"{'single us':>11}{'shared us':>11}{'onnxruntime us':>16}{'Gadd/s':>8}{'of best':>9}"
    print(f"{'layer':14}{'inputs':>8}{'zeros':>7}{'shared by':>11}{titles}  chosen")
    for layer, kind, (zeros, group) in itertools.product(options.layer, options.inputs, KINDS):
        turn = measure(layer, zeros, group, kind == "f32", options.turns)
        times = [1e6 * seconds for seconds in (turn.single, turn.shared, turn.onnxruntime)]
        rate = turn.additions / turn.shared / 1e9
        print(
            f"{f'{layer.channels}x{layer.size}x{layer.size}':14}{kind:>8}{zeros:7.0%}{group:11}{times[0]:11.0f}"
            f"{times[1]:11.0f}{times[2]:16.0f}{rate:8.0f}{rate / most[kind]:9.0%}  {turn.chosen}",
            flush=True,
        )
        row = {"channels": layer.channels, "size": layer.size, "inputs": kind, "zeros": zeros, "group": group}
        keys = ("single_us", "shared_us", "onnxruntime_us")
        row |= dict(zip(keys, (round(one, 1) for one in times), strict=True))
        rows.append(row | {"gadds": round(rate, 1), "ceiling": round(most[kind], 1), "chosen": turn.chosen})
    if options.json:
        given = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(["python", "-m", "benchmarks.shared_zeros", *given])
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        data = {"command": command, "when": when, "machine": machine(), "turns": options.turns, "rows": rows}
        write_file(options.json, json.dumps(data, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
