"""What all back ends' lowering has in common, with kernels that only write down what they were asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.tvm_schedules.nets import Net
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.errors import ModelError
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.graph import Clip, DenseWeight, Fused, Graph, Linear, Node, Quant, Value, Windowed
from tvm_schedules.ir.layout import Halo, Window
from tvm_schedules.ir.ternary_tensor import TernaryTensor
from tvm_schedules.lowering.base import Lowering
from tvm_schedules.lowering.layouts import LOWEST
from tvm_schedules.lowering.memory import assign_arena, lifetimes
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.lowering.steps import Place
from tvm_schedules.passes import prepare
from tvm_schedules.targets.registry import resolve


@dataclass
class Plain:
    """A kernel that takes nodes of some operators and writes their outputs in plain form."""

    NAME: str
    ops: tuple[str, ...]

    def lower(self, ctx: Lowering, node: Fused) -> bool:
        if node.op not in self.ops:
            return False
        number = ctx.configs.knob(node.name, "block", 4)
        args = [ctx.plain(node.inputs[0]), ctx.new_plain(node.outputs[0])]
        ctx.add_step(node, self.NAME, number, args, {"reason": self.NAME})
        return True


class Small(Lowering):
    kernels = (Plain("first", ("A", "B")), Plain("second", ("B", "C")))
    emitters = {name: lambda spec, name=name: (name, spec) for name in ("first", "second", "repack")}  # noqa: RUF012
    fma = False

    def lower_fallback(self, nodes: list[Node]) -> None:
        outputs = [name for node in nodes for name in node.outputs]
        self.add_copy("+".join(node.name for node in nodes), "second", None, [self.new_plain(n) for n in outputs], {})


def fused(op: str, x: str, y: str) -> Fused:
    return Fused(f"node_{y}", op, [x], [y])


def graph_of(*nodes: Node, outputs: tuple[str, ...], inputs: tuple[str, ...] = ("x",), **values: Value) -> Graph:
    names = {name for node in nodes for name in (*node.inputs, *node.outputs)} | {*inputs, *outputs}
    every = {name: replace(values.get(name, Value("", (2, 3), "float32")), name=name) for name in sorted(names)}
    return Graph("net", list(nodes), every, {}, list(inputs), list(outputs))


def lowered(graph: Graph, **kernels: str) -> Small:
    made = Small(graph, resolve("pi5"), {name: ScheduleConfig(kernel) for name, kernel in kernels.items()})
    made.run()
    return made


def test_the_first_kernel_that_takes_a_node_has_it() -> None:
    graph = graph_of(fused("A", "x", "a"), fused("B", "a", "b"), fused("C", "b", "y"), outputs=("y",))
    made = lowered(graph)
    assert [step.kernel for step in made.steps] == ["first", "first", "second"]
    assert [step.info["op"] for step in made.steps] == ["A", "B", "C"]
    assert made.configs.chosen["node_b"] == ScheduleConfig("first", (("block", 4),))
    assert [step.make() for step in made.steps] == [("first", 4), ("first", 4), ("second", 4)]
    made = lowered(graph, node_b="second", node_y="first")
    assert [step.kernel for step in made.steps] == ["first", "second", "second"]
    with pytest.raises(ModelError, match="no kernel of this target takes the D node 'node_y'"):
        lowered(graph_of(fused("D", "x", "y"), outputs=("y",)))


def test_places_of_inputs_and_outputs() -> None:
    graph = graph_of(fused("A", "z", "a"), fused("A", "x", "y"), outputs=("a", "y"), inputs=("x", "z"))
    first, second = lowered(graph).steps
    assert [buffer.place for buffer in (*first.args, *second.args)] == [
        Place("input", 1), Place("output", 0), Place("input", 0), Place("output", 1),
    ]  # fmt: skip
    assert {buffer.nbytes for buffer in first.args} == {24}


def test_tensors_that_only_get_another_shape_are_not_copied() -> None:
    graph = graph_of(
        fused("A", "x", "a"), Node("r", "Reshape", ["a", "shape"], ["b"]), fused("A", "b", "y"), outputs=("y",)
    )
    first, second = lowered(graph).steps
    assert second.args[0].root is first.args[1]
    graph = graph_of(Node("r", "Reshape", ["x"], ["y"]), outputs=("y",))
    (copy,) = lowered(graph).steps
    assert copy.kernel == "repack"
    assert [copy.args[0].root.place, copy.args[2].place] == [Place("input", 0), Place("output", 0)]


def test_an_output_that_is_read_on() -> None:
    graph = graph_of(fused("A", "x", "a"), fused("A", "a", "y"), outputs=("y", "a", "x"))
    made = lowered(graph)
    assert [step.kernel for step in made.steps] == ["first", "first", "repack"]
    assert made.steps[1].args[0].place == Place("output", 1)
    assert made.steps[2].args[2].place == Place("output", 2)
    assert [made.is_callers(name) for name in "xay"] == [True] * 3
    graph.outputs = ["y"]
    assert not lowered(graph).is_callers("a")


def test_other_operators_go_together() -> None:
    others = Node("e", "Exp", ["x"], ["a"]), Node("l", "Log", ["a"], ["b"])
    made = lowered(graph_of(*others, fused("A", "b", "c"), Node("s", "Sin", ["c"], ["y"]), outputs=("y",)))
    assert [step.name for step in made.steps] == ["e+l", "node_c", "s"]
    graph = graph_of(Node("r", "Reshape", ["w"], ["y"]), outputs=("y",))
    graph.constants["w"] = np.zeros((3, 2), np.float32)
    assert [step.name for step in lowered(graph).steps] == ["r"]
    pooled = graph_of(Node("p", "MaxPool", ["x"], ["y"]), outputs=("y",))
    assert [step.name for step in lowered(pooled).steps] == ["p"]


@pytest.mark.parametrize("known", [False, True])
def test_rounding_with_known_numbers_is_a_copy(known: bool) -> None:
    q = Value("", (2, 3), "uint8", Quant(0.5, 3) if known else None)
    graph = graph_of(
        Node("q", "QuantizeLinear", ["x"], ["q"]), Node("d", "DequantizeLinear", ["q"], ["y"]), outputs=("y",), q=q
    )
    made = lowered(graph)
    assert [step.kernel for step in made.steps] == (["repack", "repack"] if known else ["second"])
    if known:
        params = [made.constants.arrays[f"{name}.repack{i}.params"] for i, name in enumerate("qy")]
        assert [array.tolist() for array in params] == [[0.5, 3, 0, 255]] * 2


def test_tensors_that_are_not_there() -> None:
    with pytest.raises(ModelError, match="'b' is read before it is written"):
        lowered(graph_of(fused("A", "b", "y"), fused("A", "x", "b"), outputs=("y",)))
    graph = graph_of(fused("A", "w", "y"), outputs=("y",))
    graph.constants["w"] = np.zeros((2, 3), np.float32)
    with pytest.raises(ModelError, match="'w' is a constant"):
        lowered(graph)


@pytest.mark.parametrize("out", [None, Quant(0.1, 5)])
@pytest.mark.parametrize("beside", [None, "float", "bytes"])
def test_numbers_of_an_epilogue(out: Quant | None, beside: str | None) -> None:
    """A sum, scaled and shifted as the epilogue does it, is the layer's result in steps of the output."""
    node = Linear("n", "Gemm", ["x"], ["y"], residual="r" if beside else None, clip=Clip(0.0, 4.0))
    other = Quant(0.2, 7) if beside == "bytes" else None
    graph = graph_of(node, outputs=("y",), y=Value("", (2, 3), "float32", out), r=Value("", (2, 3), "float32", other))
    graph.values.setdefault("r", Value("r", (2, 3), "float32", other))
    made = Small(graph, resolve("pi5"))
    factor, offset = np.float32([0.5, -0.25]), np.float32([1.0, 2.0])
    found = made.numbers(node, factor, offset)
    weight, low, high, _ = found["params"].tolist()
    total, residual = np.float32([3.0, 8.0]), np.float32([17.0, 2.0])
    have = total * found["scale"] + found["bias"] + weight * residual
    want = total * factor + offset
    if beside:
        want = want + ((residual - 7) * 0.2 if other else residual)
    step, zero = (out.scale, out.zero_point) if out else (1.0, 0)
    np.testing.assert_allclose(have, want / step + zero, rtol=1e-5)
    assert (low, high) == pytest.approx((5, 45) if out else (0, 4))
    assert bool(weight) == bool(beside)


def test_bounds_and_numbers_beyond_all_measure() -> None:
    def params(clip: Clip, quant: Quant | None = None, factor: float = 1.0, offset: float = 0.0) -> list[float]:
        node = Linear("n", "Gemm", ["x"], ["y"], clip=clip)
        graph = graph_of(node, outputs=("y",), y=Value("", (2, 3), "uint8" if quant else "float32", quant))
        found = Small(graph, resolve("pi5")).numbers(node, np.float64([factor]), np.float64([offset]))
        return [*found["params"][1:3].tolist(), float(found["scale"][0]), float(found["bias"][0])]

    assert params(Clip()) == [LOWEST, -LOWEST, 1, 0]
    assert params(Clip(), Quant(0.5, 3)) == [0, 255, 2, 3]
    assert params(Clip(-1.1, 0.9), Quant(0.5, 3)) == [1, 5, 2, 3]
    assert params(Clip(-9.0, 900.0), Quant(0.5, 3)) == [0, 255, 2, 3]
    assert params(Clip(500.0, 600.0), Quant(0.5, 3))[:2] == [255, 255]
    assert params(Clip(-600.0, -500.0), Quant(0.5, 3))[:2] == [0, 0]
    assert params(Clip(), Quant(0.5, 3), 1e9, -1e12)[2:] == [1e4, -1e8]
    assert params(Clip(), Quant(0.5, 3), -1e9, 1e12)[2:] == [-1e4, 1e8]
    assert params(Clip(), None, 1e9, -1e12)[2:] == pytest.approx([1e9, -1e12])


def test_sums_are_multiples_of_one_unless_a_back_end_says_so() -> None:
    made = Small(graph_of(outputs=()), resolve("pi5"))
    assert made.sum_unit(Halo(1, 1, (1, 1, 1), "uint8", (1, 1))) == 1.0
    assert made.serial == 1000


@pytest.mark.parametrize("bytes_", [False, True])
def test_behind_the_arena_is_room_for_a_whole_plane(bytes_: bool) -> None:
    net = Net((1, 3, 70, 90))
    x = net.quantize("input_0", 0.02, 3) if bytes_ else "input_0"
    y = net.op("Conv", x, net.weight((4, 3, 3, 3), None, int8=bytes_), net.bias(4), pads=[1] * 4)
    graph = prepare(read(net.model(y)))
    made = CpuLowering(graph, resolve("pi5"))
    made.run()
    size = assign_arena(lifetimes(made.steps), made.largest_read)
    places = {b.root.place.offset + b.root.nbytes for s in made.steps for b in s.args if b.root.place.kind == "arena"}
    assert size - max(places) >= 70 * 90 * (1 if bytes_ else 4)


def weights() -> dict[str, Any]:
    levels = np.float32([[0.5, 2.0]])
    ternary = TernaryTensor(np.int8([[[1, 0, 0, -1], [0, 0, 1, 0]]]), levels, levels)
    numbers = [[1, 0], [2, 3]]
    dense = {"terms": 0, "sparsity": 0.25, "levels": []}
    return {
        "ternary": (ternary, {"terms": 1, "sparsity": 5 / 8, "levels": [0.5, 2.0]}),
        "bytes": (DenseWeight(np.int8(numbers), levels[0]), {**dense, "bits": 8, "bytes": 4}),
        "floats": (DenseWeight(np.float32(numbers), levels[0]), {**dense, "bits": 32, "bytes": 16}),
    }


@pytest.mark.parametrize("name", ["ternary", "bytes", "floats"])
def test_reports(name: str) -> None:
    weight, expected = weights()[name]
    made = Small(graph_of(outputs=()), resolve("pi5"))
    made.report(Windowed("moved", "Pad", ["x"], ["y"], window=Window((1, 1, 1))), weight, "k", "r")
    assert not made.layers
    made.report(Windowed("layer", "Conv", ["x"], ["y"]), weight, "k", "r")
    made.report(Linear("other", "Gemm", ["x"], ["y"]), weight, "k", "r", stored=6)
    first, second = made.layers
    assert expected.items() <= first.items()
    assert (first["name"], first["kernel"], first["reason"]) == ("layer", "k", "r")
    assert second["name"] == "other"
    if name == "ternary":
        assert first["shape"] == [2, 4]
        assert (second["bits"], second["bytes"]) == (6, 6)
        assert first["bits"] == first["bytes"] * 8 / 8
        p = np.array([5, 2, 1]) / 8
        assert first["entropy"] == pytest.approx(-(p * np.log2(p)).sum())
