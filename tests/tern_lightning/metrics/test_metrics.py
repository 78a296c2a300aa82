"""Metrics against counting by hand, closed formulas and bytes that are really written."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tern_lightning.functional import twn
from tern_lightning.functional.operations import (
    OperationCount,
    count_operations,
    counted_parameters,
    micronet_score,
    tree_adder,
)
from tern_lightning.functional.size import FORMATS, code_bytes, compression, decode, encode, entropy_bytes, stored_bytes
from tern_lightning.functional.structure import channel_sparsity, group_sparsity, sign_balance
from tern_lightning.metrics import (
    ChannelSparsity,
    Compression,
    GroupSparsity,
    MicroNetScore,
    Operations,
    SignBalance,
    Sparsity,
)
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.operations import module_operations
from tern_lightning.nn.swap import swap
from tern_lightning.quantizers import get_quantizer
from tern_lightning.ternary_tensor import TernaryTensor
from tests.properties import examples


def random_ternary(shape=(6, 5, 3, 3), zeros=0.6, seed=0, terms=1, axis=0, symmetric=True):
    random = np.random.default_rng(seed)
    codes = random.choice([-1, 0, 1], size=(terms, *shape), p=[(1 - zeros) / 2, zeros, (1 - zeros) / 2])
    positive = torch.rand(terms, 1) + 0.5
    negative = positive if symmetric else positive + 1
    return TernaryTensor(torch.tensor(codes, dtype=torch.int8), positive, negative, axis)


SHAPES = st.sampled_from([(7, 3), (4, 6, 3), (3, 5, 2, 2), (1, 1), (9, 17)])


@examples(40)
@given(SHAPES, st.floats(0, 1), st.integers(1, 3), st.integers(0, 1), st.integers(0, 99), st.sampled_from(FORMATS))
def test_formats_have_the_bytes_of_their_formulas_and_can_be_read(shape, zeros, terms, axis, seed, form):
    ternary = random_ternary(shape, zeros, seed, terms, axis)
    data = encode(ternary, form)
    assert len(data) == code_bytes(ternary, form)
    assert torch.equal(decode(data, shape, terms, form, axis), ternary.codes)


@pytest.mark.parametrize(("zeros", "bits"), [(0.3, 1.70), (0.5, 1.50), (0.8, 1.20), (0.95, 1.05)])
def test_closed_formulas_and_the_entropy_bound(zeros, bits):
    ternary = random_ternary((200, 500), zeros)
    n = 100_000
    s = ternary.sparsity()
    assert 8 * code_bytes(ternary, "mask_sign") / n == pytest.approx(bits, abs=0.02)
    assert 8 * code_bytes(ternary, "two_bit") / n == 2
    assert 8 * code_bytes(ternary, "trits") / n == pytest.approx(1.6)
    if zeros > 0.4:
        assert 8 * code_bytes(ternary, "csr") / n == pytest.approx(17 * (1 - s) + 16 * 201 / n, abs=1e-3)
    bound = 1 - s - s * math.log2(s) - (1 - s) * math.log2(1 - s)
    assert 8 * entropy_bytes(ternary) / n == pytest.approx(bound, abs=1e-3)
    assert all((code_bytes(ternary, form) or math.inf) >= entropy_bytes(ternary) * 0.999 for form in FORMATS)
    best = min(code_bytes(ternary, form) or math.inf for form in FORMATS)
    assert stored_bytes(ternary) == best + 4
    found = compression(ternary)
    assert found["packed"] == pytest.approx(4 * n / (n / 4 + 4))
    assert found["packed"] <= found["stored"] <= found["entropy"]
    if zeros == 0.3:
        assert code_bytes(ternary, "csr") is None
        with pytest.raises(ValueError, match="65535"):
            encode(ternary, "csr")


def test_the_published_example_of_the_micronet_score():
    # 16x16 outputs, 3x3 kernels, 64 to 64 channels of which 50 and 53 live, 92.45% zeros in the live part.
    weight = torch.zeros(64, 64, 3, 3)
    live = torch.zeros(53 * 50 * 9)
    order = torch.randperm(live.numel(), generator=torch.Generator().manual_seed(0))
    live[order[: round((1 - 0.9245) * live.numel())]] = 1.0
    live = live.reshape(53, 50, 3, 3)
    signs = torch.where(torch.arange(50)[None, :, None, None] % 2 == 0, 1, -1)
    weight[:53, :50] = live * signs
    codes = weight.to(torch.int8)
    ternary = TernaryTensor(codes[None], torch.ones(1, 1), torch.full((1, 1), 2.0))
    assert count_operations(ternary, 256).total == pytest.approx(474e3, abs=1000)
    assert count_operations(weight, 256).total == pytest.approx(908e3, abs=1000)
    assert count_operations(torch.ones(64, 64, 3, 3), 256).total == pytest.approx(18.86e6, rel=1e-3)
    d = float(live.mean())
    assert count_operations(ternary, 256).total == round(256 * (d * 450 + 1) * 53)
    score = MicroNetScore("cifar100")
    score.update(ternary, 256)
    n, z = 53 * 50 * 9, int(live.sum())
    expected = (n + z + 32) / 32 / 36.5e6 + 256 * (z + 53) / 10.49e9
    assert (
        score.compute().item() == pytest.approx(expected) == micronet_score(counted_parameters(ternary), 256 * (z + 53))
    )


def test_published_scores():
    assert micronet_score(0.972e6, 261e6, "imagenet") == pytest.approx(0.3639, abs=1e-4)
    assert micronet_score(226e3, 71e6, "cifar100") == pytest.approx(0.0130, abs=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("terms", [1, 2])
def test_operations_by_hand(symmetric, terms):
    ternary = random_ternary((4, 6), 0.5, 3, terms, symmetric=symmetric)
    adds = multiplies = 0
    for output in range(4):
        for values in ternary.codes[:, output]:
            plus, minus = int((values > 0).sum()), int((values < 0).sum())
            products = int(plus + minus > 0) if symmetric else int(plus > 0) + int(minus > 0)
            adds += plus + minus
            multiplies += products
        adds -= int(bool((ternary.codes[:, output] != 0).any()))
    assert count_operations(ternary, 7) == OperationCount(7 * adds, 7 * multiplies)
    live = int((ternary.codes != 0).any(2).any(0).sum())
    assert count_operations(ternary, 7, bias=True).adds == 7 * (adds + live)


def test_tree_adder_by_simulation():
    for count, bits in itertools.product((0, 1, 2, 3, 7, 64, 100_000), (8, 16, 31)):
        words, total = [bits] * count, 0.0
        while len(words) > 1:
            width = min(words[0], 32)
            pairs = len(words) // 2
            total += pairs * width / 32
            words = [min(width + 1, 32)] * (pairs + len(words) % 2)
        assert tree_adder(count, bits) == pytest.approx(total)


def test_operations_of_a_network():
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.Linear(16, 5, bias=False)
    turned = nn.ConvTranspose2d(4, 4, 1, bias=False)
    swap(linear, LayerState(get_quantizer("twn"), 0, "ternary"))
    net = nn.Sequential(conv, turned, nn.Flatten(), linear)
    found = module_operations(net, torch.randn(2, 3, 4, 4))
    assert found["0"] == OperationCount(4 * 4 * 27, 4 * 4 * 27)
    assert found["1"] == OperationCount(4 * (16 - 4), 4 * 16)
    assert found["3"] == count_operations(linear.ternary(), 1)
    metric = Operations()
    metric.update(conv.weight.detach(), 4, bias=True)
    metric.update(linear.ternary(), 1)
    expected = found["0"] + found["3"]
    assert {k: int(v) for k, v in metric.compute().items()} == {
        "adds": expected.adds,
        "multiplies": expected.multiplies,
    }


@pytest.mark.parametrize("batch_first", [True, False])
def test_operations_of_attention(batch_first):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
    x, memory = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    inputs = (x, memory, memory) if batch_first else [one.transpose(0, 1) for one in (x, memory, memory)]
    found = module_operations(attention, *inputs)
    assert found[""] == OperationCount((3 + 5 + 5) * 16, (3 + 5 + 5) * 16)
    assert found["out_proj"] == OperationCount(3 * 16, 3 * 16)
    for part in (attention, attention.out_proj):
        swap(part, LayerState(get_quantizer("absmean", per_channel=True), 0, "ternary"))
    found = module_operations(attention, *inputs)
    codes = attention.ternary().codes[0]
    counts = [(codes[row : row + 4] != 0).sum(1) for row in (0, 4, 8)]
    # A sum of n weights takes n - 1 additions and one for the bias, and one product with the level.
    adds = sum(n * int(part.sum()) for n, part in zip((3, 5, 5), counts, strict=True))
    products = sum(n * int((part > 0).sum()) for n, part in zip((3, 5, 5), counts, strict=True))
    assert found[""] == OperationCount(adds, products)


@pytest.mark.parametrize("axis", [0, 1])
def test_structure_by_hand(axis):
    ternary = random_ternary((5, 6, 2), 0.8, 1, axis=axis)
    ternary.codes.movedim(1 + axis, 1)[:, 1] = 0  # an output channel and two input channels without a weight
    ternary.codes.movedim(2 - axis, 1)[:, [0, 4]] = 0
    rows = ternary.dequantize().movedim(axis, 0)
    outputs, inputs = rows.shape[0], rows.shape[1]
    assert channel_sparsity(ternary).item() >= 1 / outputs
    assert channel_sparsity(ternary, "input").item() >= 2 / inputs
    groups = [rows[o : o + 2, i : i + 3] for o in range(0, outputs, 2) for i in range(0, inputs, 3)]
    dead = np.mean([not bool(group.any()) for group in groups])
    assert group_sparsity(ternary, (2, 3)).item() == pytest.approx(dead)
    positions = [
        rows[o : o + 2, i : i + 3, k] for o in range(0, outputs, 2) for i in range(0, inputs, 3) for k in (0, 1)
    ]
    expected = np.mean([not bool(group.any()) for group in positions])
    assert group_sparsity(ternary, (2, 3), kernel=False).item() == pytest.approx(expected)
    for side, members in (("output", rows), ("input", rows.movedim(1, 0))):
        assert channel_sparsity(ternary, side).item() == pytest.approx(np.mean([not bool(m.any()) for m in members]))
    values = rows[rows != 0]
    assert sign_balance(ternary).item() == pytest.approx(float((values > 0).float().mean()))


def test_metrics_add_layers_up():
    layers = [random_ternary((4, 6), 0.7, seed) for seed in (1, 2)] + [random_ternary((8, 3, 3, 3), 0.9, 3)]
    sizes = {
        GroupSparsity((2, 2)): (
            lambda t: group_sparsity(t, (2, 2)),
            lambda t: -(-t.shape[0] // 2) * -(-t.shape[1] // 2),
        ),
        ChannelSparsity("input"): (lambda t: channel_sparsity(t, "input"), lambda t: t.shape[1]),
        SignBalance(): (sign_balance, lambda t: int((t.codes != 0).sum())),
        Sparsity(): (lambda t: torch.tensor(t.sparsity()), lambda t: t.codes[0].numel()),
    }
    for metric, (function, weight) in sizes.items():
        for layer in layers:
            metric.update(layer)
        expected = sum(float(function(t)) * weight(t) for t in layers) / sum(weight(t) for t in layers)
        assert metric.compute().item() == pytest.approx(expected)
        whole = Compression()
    for layer in layers:
        whole.update(layer)
    dense = sum(4 * t.codes[0].numel() for t in layers)
    assert whole.compute()["stored"].item() == pytest.approx(dense / sum(stored_bytes(t) for t in layers))
    assert whole.compute()["packed"].item() == pytest.approx(dense / sum(t.nbytes() for t in layers))


def test_errors():
    ternary = twn(torch.randn(3, 4))
    with pytest.raises(ValueError, match="form must be one of"):
        code_bytes(ternary, "zip")
    with pytest.raises(ValueError, match="side must be"):
        channel_sparsity(ternary, "left")
    with pytest.raises(ValueError, match="reference must be one of"):
        micronet_score(1.0, 1.0, "mnist")
    with pytest.raises(ValueError, match="bits"):
        MicroNetScore(bits=0)
