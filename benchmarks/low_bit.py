"""What zeros are worth in time: a ternary layer with inputs of few bits, by every kernel that can compute it.

``python -m benchmarks.low_bit --layer 64x56x64x3 --inputs ternary`` prints, for weights of one digit or of
two (multi-level), how much faster each kernel is than counting all bits with no zero anywhere. Zeros are digits (bit
level), whole weights (word level), or whole words of eight weights. Kernels take turns on one CPU; times are the
slowest of the fastest fifth, and include packing the inputs into bits. The potential is the inverse of the share of
digits that are not zero: what ideal hardware would gain from the zeros of the weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tvm_schedules.common.files import write_file

__all__ = ["Layer", "Row", "main", "measure", "table"]

INPUTS = {"1": (0, 1), "ternary": (1, 2), "2": (0, 3), "4": (0, 15)}
"""Zero point and largest integer."""
KERNELS = ("popcount", "narrow", "sparse", "dense_dot")
TITLES = {"popcount": "count bits", "narrow": "add bytes", "sparse": "add 8 bits", "dense_dot": "dot products"}


@dataclass(frozen=True)
class Layer:
    """A convolution of stride 1 over a square image; size 1 is a pixel of as many rows as the image has pixels."""

    channels: int
    size: int
    outputs: int
    kernel: int

    @classmethod
    def parse(cls, text: str) -> Layer:
        """Reads a layer that is written ``CHANNELSxSIZExOUTPUTSxKERNEL``.

        Raises:
            ValueError: Another form, or a number below 1.
        """
        try:
            numbers = [int(part) for part in text.split("x")]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or min(numbers) < 1:
            raise ValueError(f"a layer must be CHANNELSxSIZExOUTPUTSxKERNEL, such as 64x56x64x3; got {text!r}")
        return cls(*numbers)


@dataclass(frozen=True)
class Row:
    """One pattern of zeros.

    Attributes:
        digits: Ternary digits a weight.
        pattern: Where the zeros are.
        zeros: Share of zero digits.
        words: Share of weights without any digit.
        potential: Digits over digits that are not zero.
        microseconds: By kernel, with packing.
    """

    digits: int
    pattern: str
    zeros: float
    words: float
    potential: float
    microseconds: dict[str, float]


def patterns(layer: Layer, digits: int, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Names and codes ``[digits, O, C, k, k]``."""
    shape = (digits, layer.outputs, layer.channels, layer.kernel, layer.kernel)
    signs = rng.choice(np.array([-1, 1], np.int8), shape)
    eights = -(-layer.channels // 8)
    found = [("no zeros", signs)]
    for share in (0.5, 0.7, 0.8, 0.9):
        found.append((f"{share:.0%} of digits", signs * (rng.random(shape) >= share)))
    for share in (0.5, 0.8) if digits > 1 else ():
        found.append((f"{share:.0%} of weights", signs * (rng.random(shape[1:]) >= share)))
    for share in (0.5, 0.8, 0.9):
        keep = rng.random((1, layer.outputs, eights, layer.kernel, layer.kernel)) >= share
        found.append((f"{share:.0%} of eights", signs * keep.repeat(8, 2)[:, :, : layer.channels]))
    return [(name, codes.astype(np.int8)) for name, codes in found]


def network(layer: Layer, codes: np.ndarray, inputs: tuple[int, int]) -> Any:
    """An ONNX network of the layer alone."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from tvm_schedules.ir.ternary_tensor import pack_int2

    zero, top = inputs
    tensors = [
        numpy_helper.from_array(np.asarray(array), name)
        for name, array in (
            ("low", np.float32(-zero)),
            ("high", np.float32(top - zero)),
            ("step", np.float32(1.0)),
            ("zero", np.uint8(zero)),
        )
    ]
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["clipped"]),
        helper.make_node("QuantizeLinear", ["clipped", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["data"]),
    ]
    weight = ""
    for i, term in enumerate(codes):
        raw = pack_int2(term).tobytes()
        tensors.append(TensorProto(name=f"w{i}", data_type=TensorProto.INT2, dims=term.shape, raw_data=raw))
        tensors.append(numpy_helper.from_array(np.full(layer.outputs, 0.5**i, np.float32), f"s{i}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"w{i}", f"s{i}"], [f"d{i}"], axis=0))
        if weight:
            nodes.append(helper.make_node("Add", [weight, f"d{i}"], [f"sum{i}"]))
        weight = f"sum{i}" if weight else f"d{i}"
    nodes.append(helper.make_node("Conv", ["data", weight], ["y"], name="layer", pads=[layer.kernel // 2] * 4))
    shape = (1, layer.channels, layer.size, layer.size)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", [given], [made], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    return onnx.shape_inference.infer_shapes(model)


def measure(layer: Layer, inputs: tuple[int, int], digits: int, target: str = "host", turns: int = 15) -> list[Row]:
    """Measures all patterns by all kernels, in turns, on one thread.

    Args:
        layer: The layer.
        inputs: Zero point and largest integer of its inputs.
        digits: Ternary digits a weight, 1 or 2.
        target: A target that is this machine.
        turns: Measurements of each, of which a quantile of 0.2 counts.
    """
    from tvm_schedules.backends.cpu.lower import CpuLowering
    from tvm_schedules.frontend.onnx_file import read_model
    from tvm_schedules.frontend.onnx_reader import read
    from tvm_schedules.lowering.schedule_config import ScheduleConfig
    from tvm_schedules.passes import prepare
    from tvm_schedules.targets.registry import resolve
    from tvm_schedules.tuner.alone import Alone
    from tvm_schedules.tuner.measure import LocalDevice, library

    spec = resolve(target)
    shapes = patterns(layer, digits, np.random.default_rng(0))
    found: list[tuple[int, str, Alone]] = []
    for index, (_, codes) in enumerate(shapes):
        graph = prepare(read(read_model(network(layer, codes, inputs))))
        node = next(node for node in graph.nodes if node.name == "layer")
        for kernel in KERNELS:
            alone = Alone(CpuLowering(graph, spec), node, ScheduleConfig(kernel), {})
            if alone.taken is not None:
                found.append((index, kernel, alone))
    made = library([alone for _, _, alone in found], spec)
    # Not the very least: a call that does nothing is subtracted, and may have been interrupted.
    least = np.quantile(LocalDevice().time(made, spec, 1, turns), 0.2, axis=0) * 1e6
    rows = []
    for index, (name, codes) in enumerate(shapes):
        times = {kernel: float(least[i]) for i, (which, kernel, _) in enumerate(found) if which == index}
        nonzero = max(1, int(np.count_nonzero(codes)))
        words = float(1 - codes.any(0).mean())
        rows.append(Row(digits, name, 1 - nonzero / codes.size, words, codes.size / nonzero, times))
    return rows


def table(layer: Layer, inputs: str, rows: Sequence[Row]) -> str:
    """The rows as text; factors are against counting bits without any zero."""
    kernels = [kernel for kernel in KERNELS if any(kernel in row.microseconds for row in rows)]
    kind = f"{inputs} bit{'s' * (inputs != '1')}" if inputs.isdigit() else inputs
    size = (
        f"{layer.kernel}x{layer.kernel}, {layer.channels} to {layer.outputs} channels, {layer.size}x{layer.size} pixels"
    )
    head = f"{'zeros':16}{'digits':>8}{'weights':>9}{'potential':>11}" + "".join(f"{TITLES[k]:>22}" for k in kernels)
    lines = [f"{size}; inputs {kind}, weights of {rows[0].digits} ternary digit{'s' * (rows[0].digits > 1)}", head]
    base = rows[0].microseconds.get("popcount") or min(rows[0].microseconds.values())
    for row in rows:
        cells = [
            f"{row.microseconds[k]:13.1f} us{base / row.microseconds[k]:5.2f}x" if k in row.microseconds else " " * 22
            for k in kernels
        ]
        shares = f"{row.zeros:8.0%}{row.words:9.0%}{row.potential:10.1f}x"
        lines.append(f"{row.pattern:16}{shares}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.low_bit", description=__doc__)
    parser.add_argument("--layer", nargs="+", type=Layer.parse, default=[Layer(64, 56, 64, 3), Layer(256, 14, 256, 3)])
    parser.add_argument("--inputs", nargs="+", choices=sorted(INPUTS), default=["1", "ternary"])
    parser.add_argument("--digits", nargs="+", type=int, choices=(1, 2), default=[1, 2], help="of a weight")
    parser.add_argument("--target", default="host")
    parser.add_argument("--turns", type=int, default=15, help="measurements of each; a quantile of 0.2 counts")
    parser.add_argument("--json", metavar="FILE", help="write the rows there as well")
    options = parser.parse_args(arguments)
    results = []
    for layer in options.layer:
        for inputs in options.inputs:
            for digits in options.digits:
                rows = measure(layer, INPUTS[inputs], digits, options.target, options.turns)
                results.append({"layer": asdict(layer), "inputs": inputs, "rows": [asdict(row) for row in rows]})
                print(table(layer, inputs, rows), end="\n\n", flush=True)
    if options.json:
        write_file(options.json, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
