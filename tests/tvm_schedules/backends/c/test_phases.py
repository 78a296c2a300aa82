"""Phases of strided layers: written by the kernel before, or copied over what they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from math import ceil
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from tests.properties import compilations, examples
from tests.tvm_schedules.backends.c import c_runner as portable
from tests.tvm_schedules.backends.c.test_c_target import VARIANTS, random
from tests.tvm_schedules.nets import Net, run_onnx
from tvm_schedules.backends.c import compile as compiling
from tvm_schedules.backends.c import lower
from tvm_schedules.backends.c.kernels.common.copying import filled
from tvm_schedules.backends.c.layout import Tight
from tvm_schedules.backends.c.places import _lead
from tvm_schedules.ir.layout import Triple


@contextmanager
def written(phases: bool) -> Iterator[None]:
    """Kernels write phases wherever they can, or nowhere; layers stay whole."""
    with (
        mock.patch.object(compiling, "in_parts", lambda steps, *_: steps),
        mock.patch.object(compiling, "_arena", lambda steps: len(steps)),
        mock.patch.object(lower, "read_in_phases", lower.read_in_phases if phases else lambda *_: {}),
    ):
        yield


def strided(
    producer: str, readers: str, batch: int, dims: tuple[int, ...], stride: int, zero: int, seed: int
) -> onnx.ModelProto:
    """A layer, and behind it one with a stride, two such with the same phases, or one beside a shortcut."""
    net, rank = Net((batch, 6, *dims), seed=seed), len(dims)
    x = net.quantize("input_0", 0.02, 128)
    square, whole, steps = (3,) * rank, [1] * (2 * rank), [stride] * rank
    if producer == "pool":
        x = net.op("MaxPool", x, kernel_shape=square, pads=whole)
    elif producer == "dense":
        x = net.op("Conv", x, net.weight((6, 6, *square), None, int8=True), net.bias(6), pads=whole)
    elif producer == "groups":
        x = net.op("Conv", x, net.weight((6, 2, *square), 0.4), net.bias(6), pads=whole, group=3)
    else:
        x = net.op("Conv", x, net.weight((6, 6, *[1] * rank), 0.3, terms=2), net.bias(6))
    x = net.quantize(net.op("Relu", x) if producer != "pool" else x, 0.02, 128 if producer == "pool" else zero)
    if readers == "pool":
        pooled = net.op("MaxPool", x, kernel_shape=square, strides=steps, pads=whole)
        return net.model(net.quantize(pooled, 0.02, 128 if producer == "pool" else zero))
    y = net.op("Conv", x, net.weight((5, 6, *square), 0.5), net.bias(5), pads=whole, strides=steps)
    if readers == "shortcut":
        y = net.op("Add", net.op("Conv", x, net.weight((5, 6, *[1] * rank), 0.4), strides=steps), y)
    elif readers == "two":
        other = net.op("Conv", x, net.weight((6, 1, *square), 0.3), pads=whole, strides=steps, group=6)
        return net.model(net.quantize(y, 0.05, 90), net.quantize(other, 0.05, 90))
    return net.model(net.quantize(y, 0.05, 90))


@compilations(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    producer=st.sampled_from(["pool", "dense", "groups", "pointwise"]),
    readers=st.sampled_from(["one", "two", "shortcut", "pool"]),
    batch=st.sampled_from([1, 1, 2]),
    dims=st.one_of(
        st.tuples(st.integers(1, 19), st.integers(2, 40)),
        st.tuples(st.integers(2, 90)),
        st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 9)),
    ),
    stride=st.sampled_from([2, 2, 3]),
    zero=st.sampled_from([0, 7]),
    variant=st.sampled_from(sorted(VARIANTS)),
    seed=st.integers(0, 99),
)
def test_same_numbers_as_by_copies(
    tmp_path: Path,
    producer: str,
    readers: str,
    batch: int,
    dims: tuple[int, ...],
    stride: int,
    zero: int,
    variant: str,
    seed: int,
) -> None:
    model = strided(producer, readers, batch, dims, stride, zero, seed)
    x, found, counts = random(batch, 6, *dims, seed=seed), [], []
    for phases in (True, False):
        with written(phases):
            library = portable.host_model(model, tmp_path / str(phases), VARIANTS[variant])
        found.append(portable.as_list(library(x)))
        counts.append(sum(step.kernel == "repack" for step in library.plan.steps))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert counts[0] == counts[1] - 1
    for ours, theirs in zip(found[0], run_onnx(model, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=0.06)  # a step of the output


def tight(batch: int, channels: int, dims: Triple, lo: Triple, hi: Triple, phase: Triple) -> Tight:
    rows, width = (ceil(n / s) + max(a, b) for n, s, a, b in list(zip(dims, phase, lo, hi, strict=True))[1:])
    return Tight(batch, channels, dims, "uint8", (rows, width), lo, hi, phase, 7.0)


def pixels(layout: Tight, index: int) -> dict[tuple[int, ...], int]:
    """Where the pixels of a channel of an image lie, by depth, row and column."""
    slices, rows, _ = layout.steps()
    found = {}
    for at in product(*map(range, layout.dims)):
        (d, h, w), part = zip(*(divmod(n, s) for n, s in zip(at, layout.phase, strict=True)), strict=True)
        plane = (part[0] * layout.phase[1] + part[1]) * layout.phase[2] + part[2]
        start = (index * layout.phases + plane) * layout.plane + layout.origin
        found[at] = start + d * slices + h * rows + w
    return found


sizes = st.integers(0, 3)


@examples(200)
@given(
    planes=st.sampled_from([(1, 1), (1, 5), (2, 3)]),
    dims=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 9)),
    before=st.tuples(sizes, sizes, sizes, sizes, sizes, sizes),
    after=st.tuples(sizes, sizes, sizes, sizes, sizes, sizes),
    phase=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
)
def test_no_channel_is_written_over_before_it_is_read(
    planes: tuple[int, int], dims: Triple, before: tuple[int, ...], after: tuple[int, ...], phase: Triple
) -> None:
    """A copy as ``source/repack_from_to.c`` makes it, one channel after the other, as close as it may lie."""
    source = tight(*planes, dims, before[:3], before[3:], (1, 1, 1))
    target = tight(*planes, dims, after[:3], after[3:], phase)
    lead, (first, elements) = _lead(source, target), filled(target)
    memory = np.random.default_rng(0).integers(0, 256, max(lead + source.elements, target.elements))
    channels = range(planes[0] * planes[1])
    wanted = [{at: int(memory[lead + place]) for at, place in pixels(source, c).items()} for c in channels]
    for c in channels:
        begin = c * target.phases * target.plane
        memory[begin + first : begin + first + elements] = 7
        have, read = pixels(target, c), pixels(source, c)
        for at in read:
            memory[have[at]] = memory[lead + read[at]]
    filled_with = {place: 7 for place in range(target.used) if place >= first}
    for c in channels:
        filled_with |= {place: wanted[c][at] for at, place in pixels(target, c).items()}
    for start in (plane * target.plane + target.origin for plane in range(target.planes)):
        for place in range(start - target.front, start + target.end):
            assert memory[place] == filled_with[place]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("producer", ["pool", "dense", "groups", "pointwise"])
def test_nothing_outside_the_memory_is_touched(tmp_path: Path, producer: str, variant: str) -> None:
    compiler = portable.sanitizer()
    if compiler is None:
        pytest.skip("no C compiler with sanitizers")
    model = strided(producer, "shortcut", 1, (9, 13), 2, 7, 0)
    with written(True):
        plan = portable.generate(model, tmp_path)
    assert ".phases = &phases_" in (tmp_path / "model.c").read_text()
    portable.apart(tmp_path)
    program = portable.build_program(tmp_path, plan, [*compiler, *VARIANTS[variant]])
    x = random(1, 6, 9, 13)
    (wanted,) = portable.as_list(portable.host_model(model, tmp_path / "plain")(x))
    np.testing.assert_array_equal(portable.run_program([str(program)], plan, [x])[0], wanted)


def test_channels_that_share_lists_are_copied(tmp_path: Path) -> None:
    """They are computed several at a time; the layer keeps its lists. Planes of two images have the input's pitch."""
    net = Net((2, 32, 11, 9))
    x = net.op("Conv", net.quantize("input_0"), net.weight((8, 32, 3, 3), 0.3, shared=4), pads=[1] * 4)
    model = net.model(net.op("MaxPool", net.quantize(net.op("Relu", x)), kernel_shape=[2, 2], strides=[2, 2]))
    with written(True):
        portable.generate(model, tmp_path)
    text = (tmp_path / "model.c").read_text()
    assert "tern_ternary_groups_i" in text
    assert ".phases = &phases_" not in text


def test_what_takes_less_memory_is_chosen(tmp_path: Path) -> None:
    """Phases from the kernel where a pooling follows part by part; copies over the planes behind a sum."""
    net = Net((1, 16, 32, 32), seed=1)
    x = net.op("Conv", net.quantize("input_0"), net.weight((16, 16, 3, 3), 0.8), net.bias(16), pads=[1] * 4)
    x = net.op("MaxPool", net.quantize(net.op("Relu", x)), kernel_shape=[2, 2], strides=[2, 2])
    portable.generate(net.model(x), tmp_path / "pool")
    assert ".phases = &phases_" in (tmp_path / "pool" / "model.c").read_text()
    net = Net((1, 16, 32, 32), seed=1)
    x = net.quantize("input_0")
    y = net.op("Conv", x, net.weight((16, 16, 3, 3), 0.8), net.bias(16), pads=[1] * 4)
    x = net.quantize(net.op("Relu", net.op("Add", y, x)))
    x = net.op("Conv", x, net.weight((32, 16, 3, 3), 0.8), net.bias(32), pads=[1] * 4, strides=[2, 2])
    plan = portable.generate(net.model(net.quantize(x)), tmp_path / "sum")
    assert ".phases = &phases_" not in (tmp_path / "sum" / "model.c").read_text()
    planes, phases = 16 * 33 * 33, 16 * 4 * 17 * 17
    assert (plan.arena_bytes or 0) < planes + phases
