"""No kernel may write past its own plane: the next one may belong to another thread, and be done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.properties import examples
from tests.tvm_schedules.backends.cpu.kernels.test_kernels import Case, build, cases
from tvm_schedules.backends.cpu.lower import CpuLowering
from tvm_schedules.frontend.onnx_file import read_model
from tvm_schedules.frontend.onnx_reader import read
from tvm_schedules.ir.layout import ALIGN, Halo
from tvm_schedules.lowering.schedule_config import ScheduleConfig
from tvm_schedules.passes import prepare
from tvm_schedules.targets.registry import resolve

sizes = st.integers(1, 12)
KERNELS = ("patterns", "panel", "straight", "sparse", "dense", "dense_dot", "dense_channels", "narrow", "depthwise_dot")
"""Those that write convolutions into planes: as many vectors as their blocks have, of whatever size these are."""
AVX2 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"}'
# Two blocks of 36 and 27 floats, of which the last one's whole vectors would end at 68 of 64.
CAUSAL = Case(1, 1, 2, 4, (7, 9), (3, 1), (1, 1), (1, 1), (0, 0, 2, 0), None, 0.3, 1, "", "", None, 0)
AVX512 = '{"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "cascadelake"}'


@given(st.tuples(sizes, sizes, sizes), st.integers(0, 3), st.sampled_from(["uint8", "float32"]))
def test_whole_vectors_of_any_producer_fit_into_a_plane(dims: tuple[int, int, int], halo: int, dtype: str) -> None:
    pitch = (dims[1] + halo, dims[2] + halo)
    layout = Halo(1, 2, dims, dtype, pitch, lo=(0, halo, halo), hi=(0, halo, halo))
    for lanes in (16, 32, ALIGN):  # a kernel on bytes stores as many pixels as its vectors have bytes
        stored = -(-layout.run(dims) // lanes) * lanes
        assert layout.origin + stored <= layout.plane
    assert layout.plane * layout.itemsize % ALIGN == 0


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_small_plane_has_room_for_one_vector(dtype: str) -> None:
    assert Halo(1, 1, (1, 4, 4), dtype, (5, 5)).plane == 64


@pytest.mark.parametrize("target", [AVX512, AVX2, "pi4", "pi5"], ids=["avx512", "avx2", "pi4", "pi5"])
@examples(50)
@given(cases(), st.sampled_from(KERNELS), st.integers(1, 20))
@example(CAUSAL, "panel", 8)
@example(replace(CAUSAL, dims=(43, 2), kernel=(2, 2), pads=(0, 0, 1, 1)), "panel", 1)
def test_what_a_kernel_stores_ends_in_the_plane(target: str, case: Case, kernel: str, block: int) -> None:
    """By the numbers that kernels are made of: of the stores themselves only few would meet a plane that is done."""
    if kernel in ("patterns", "panel", "straight"):  # others take what these do not
        case = replace(case, groups=1, terms=1, unequal=False, zero=None, zeros=case.zeros or 0.8)
    net, y, _ = build(case)
    graph = prepare(read(read_model(net.model(y))))
    choices = {node.name: ScheduleConfig.of(kernel, {"block": block}) for node in graph.nodes if node.op == "Conv"}
    assume(choices)  # a single pixel is a row of a linear layer
    lowering = CpuLowering(graph, resolve(target), choices)
    lowering.run()
    ends = [(step.spec.pixels, step.spec.epilogue.out) for step in lowering.steps if hasattr(step.spec, "epilogue")]
    assert ends
    for pixels, out in ends:
        assert out.origin + pixels <= out.plane
