"""Fake quantization and the algebra of ranges, against numpy, onnxruntime and the formulas of LSQ."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tern_lightning.nn.activation_quantizer import (
    ActivationRange,
    InputFakeQuantizer,
    activation_ranges,
    fake_quantize,
    observe_bounds,
    remove_fake_quantizers,
)
from tests.properties import examples
from tests.tern_lightning.exporter.export_nets import run

bounds = st.floats(-1e3, 1e3, width=32)


@given(bounds, bounds, st.integers(2, 8))
def test_bounds_are_covered(first: float, second: float, bits: int) -> None:
    low, high = sorted((first, second))
    chosen = ActivationRange.from_bounds(low, high, bits)
    slack = chosen.scale * (0.5 + 1e-3) + 1e-30
    assert chosen.low <= min(low, 0) + slack
    assert chosen.high >= max(high, 0) - slack
    assert 0 <= chosen.zero_point <= 2**bits - 1
    assert chosen.zero_point == 0 or low < 0
    assert chosen.scale == np.float32(chosen.scale)


@given(st.lists(st.tuples(bounds, bounds), min_size=1, max_size=4))
def test_union_covers_every_range(pairs: list[tuple[float, float]]) -> None:
    ranges = [ActivationRange.from_bounds(min(p), max(p)) for p in pairs]
    union = ActivationRange.union(ranges)
    for other in ranges:
        assert union.low <= other.low + 0.51 * union.scale
        assert union.high >= other.high - 0.51 * union.scale


@examples(30)
@given(st.floats(1e-3, 10), st.integers(0, 255), st.integers(0, 2**31))
def test_fake_quantize_equals_numpy(scale: float, zero_point: int, seed: int) -> None:
    scale = float(np.float32(scale))
    x = np.random.default_rng(seed).normal(0, 100 * scale, 500).astype(np.float32)
    x[:8] = (np.arange(8) - 3.5).astype(np.float32) * np.float32(scale)
    codes = np.clip(np.rint(x / np.float32(scale)) + zero_point, 0, 255)
    expected = ((codes - zero_point) * np.float32(scale)).astype(np.float32)
    found = ActivationRange(scale, zero_point).fake_quantize(torch.from_numpy(x))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_fake_quantize_equals_onnxruntime() -> None:
    chosen = ActivationRange.from_bounds(-1.3, 4.1)
    constants = [
        onnx.numpy_helper.from_array(np.float32(chosen.scale), "s"),
        onnx.numpy_helper.from_array(np.uint8(chosen.zero_point), "z"),
    ]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [4096]) for n in "xy"]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    x = torch.randn(4096) * 3
    x[:100] = (torch.arange(100) - 50.5) * chosen.scale
    np.testing.assert_array_equal(run(model, x)[0], chosen.fake_quantize(x).numpy())


@pytest.mark.parametrize("zero_point", [0.0, 5.0])
def test_gradients_are_those_of_lsq(zero_point: float) -> None:
    x = torch.tensor([[-3.0, -0.26, 0.1, 0.26, 0.74, 3.6, 9.0, 1.0], [0.2] * 8], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    weight = torch.linspace(-1, 2, 16).reshape(2, 8)
    (fake_quantize(x, scale, torch.tensor(zero_point), 4) * weight).sum().backward()
    v = x.detach().numpy().astype(np.float64) / 0.5
    bottom, top = -zero_point, 15 - zero_point
    inside = (v >= bottom) & (v <= top)
    np.testing.assert_allclose(x.grad.numpy(), np.where(inside, weight.numpy(), 0))
    slope = np.where(v < bottom, bottom, np.where(v > top, top, np.rint(v) - v))
    expected = (slope * weight.numpy()).sum() / np.sqrt(8 * top)
    assert scale.grad.item() == pytest.approx(expected, rel=1e-5)


def test_half_precision_is_rounded_in_float32() -> None:
    x = torch.randn(64, dtype=torch.bfloat16)
    found = fake_quantize(x, torch.tensor(0.03), torch.tensor(128.0), 8)
    assert found.dtype == torch.bfloat16
    codes = np.clip(np.rint(x.float().numpy() / np.float32(0.03)) + 128, 0, 255)
    expected = torch.from_numpy(((codes - 128) * np.float32(0.03)).astype(np.float32)).bfloat16()
    assert torch.equal(found, expected)


def test_observed_percentiles_equal_numpy() -> None:
    x = torch.randn(3, 5000) ** 3
    low, high = observe_bounds(x, 99.5)
    np.testing.assert_allclose([low, high], np.percentile(x.double().numpy(), [0.5, 99.5]), rtol=1e-6)
    assert observe_bounds(x) == (x.min(), x.max())


def test_observer_is_a_running_average() -> None:
    hook = InputFakeQuantizer(8, ema=0.75)
    layer = nn.Linear(4, 4)
    hook.observing = True
    hook(layer, (torch.tensor([[-1.0, 0, 0, 3.0]]),))
    hook.settle()
    hook(layer, (torch.tensor([[-3.0, 0, 0, 5.0]]),))
    hook(layer, (torch.tensor([[-2.0, 0, 0, 11.0]]),))
    assert (hook.low.item(), hook.high.item()) == (-1.0, 3.0)
    hook.settle()
    hook.settle()
    assert (hook.low.item(), hook.high.item()) == (-1.5, 5.0)
    hook.observing = False
    hook(layer, (torch.tensor([[-30.0, 0, 0, 110.0]]),))
    assert hook.range() == ActivationRange.from_bounds(-1.5, 5.0)


def test_not_ready_and_integer_inputs_pass() -> None:
    hook = InputFakeQuantizer(8)
    layer = nn.Linear(4, 4)
    assert hook(layer, (torch.randn(2, 4),)) is None
    hook.set_bounds(torch.tensor(-1.0), torch.tensor(1.0))
    assert hook(layer, (torch.arange(4),)) is None
    x, mask = torch.randn(2, 4), torch.ones(2)
    first, second = hook(layer, (x, mask))
    assert torch.equal(first, hook.range().fake_quantize(x))
    assert second is mask


def test_a_step_never_reaches_zero() -> None:
    hook = InputFakeQuantizer(8)
    hook.set_bounds(torch.tensor(0.0), torch.tensor(255.0))
    hook.learn()
    for _ in range(100):
        hook.step(torch.tensor(1e3), learning_rate=1.0)
    assert hook.scale.item() > 0


def test_copies_are_independent_and_ranges_are_found_and_removed() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 2)))
    for layer in (net[0], net[1][0]):
        layer.register_forward_pre_hook(InputFakeQuantizer(8))
    for hook in net[0]._forward_pre_hooks.values():
        hook.set_bounds(torch.tensor(0.0), torch.tensor(2.0))
    assert activation_ranges(net) == {"0": ActivationRange.from_bounds(0, 2)}, "only those that have a range"
    twin = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    for hook in twin[0]._forward_pre_hooks.values():
        hook.set_bounds(torch.tensor(0.0), torch.tensor(7.0))
    assert activation_ranges(net)["0"].high == pytest.approx(2)
    assert activation_ranges(twin)["0"].high == pytest.approx(7)
    remove_fake_quantizers(twin)
    assert not activation_ranges(twin)
    assert activation_ranges(net)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale must be"),
        ({"scale": float("nan")}, "scale must be"),
        ({"scale": 1.0, "zero_point": 256}, "zero_point must be"),
        ({"scale": 1.0, "bits": 1}, "bits must be"),
        ({"scale": 1.0, "bits": 9}, "bits must be"),
    ],
)
def test_bad_ranges(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationRange(**arguments)
