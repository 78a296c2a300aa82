"""Multi-level weights and activations, and the speed-ups that their zeros allow."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tern_lightning import TernaryCallback
from tern_lightning.callbacks.multilevel import MultiLevelActivation
from tern_lightning.functional.frozen import frozen_levels, pseudoinverse
from tern_lightning.functional.multilevel import activation_digits, multilevel, multilevel_activation
from tern_lightning.functional.steps import nearest
from tern_lightning.metrics.speedup import SpeedUp, count_products, measure_speedup
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.learned_input import MultiLevelInput
from tern_lightning.nn.swap import swap
from tern_lightning.nn.ternary_layers import ternary_layers
from tern_lightning.quantizers import get_quantizer
from tests.properties import examples
from tests.tern_lightning.training_nets import Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything


def error(weight, found):
    return (weight - found.dequantize()).square().mean().item()


@examples(25)
@given(st.integers(0, 99), st.booleans(), st.integers(0, 1))
def test_more_terms_and_more_rounds_never_fit_worse(seed, per_channel, axis):
    weight = torch.randn(6, 8, 3, generator=torch.Generator().manual_seed(seed))
    options = {"per_channel": per_channel, "channel_axis": axis}
    by_terms = [error(weight, multilevel(weight, terms, **options)) for terms in (1, 2, 3, 4)]
    assert all(late < early for early, late in itertools.pairwise(by_terms))
    by_rounds = [error(weight, multilevel(weight, 2, iterations=count, **options)) for count in range(5)]
    assert all(late <= early + 1e-7 for early, late in itertools.pairwise(by_rounds))


def test_gaussian_errors_fall_as_residual_ternarization_promises():
    weight = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    found = [error(weight, multilevel(weight, terms, iterations=0)) for terms in (1, 2)]
    assert found[0] == pytest.approx(0.190, abs=0.005)
    assert found[1] < 0.06
    assert error(weight, multilevel(weight, 2, iterations=10)) < found[1]


@pytest.mark.parametrize("symmetric", [True, False])
def test_levels_are_the_least_squares_solution(symmetric):
    random = np.random.default_rng(1)
    codes = random.integers(-1, 2, size=(2, 4, 10)).astype(np.int8)
    weight = random.normal(size=(4, 10)).astype(np.float32)
    found = frozen_levels(torch.tensor(weight), torch.tensor(codes), symmetric, True)
    for channel in range(4):
        basis = codes[:, channel].astype(float).T
        if not symmetric:
            basis = np.concatenate([basis > 0, -1.0 * (basis < 0)], 1)
        expected = np.linalg.lstsq(basis, weight[channel], rcond=None)[0]
        own = torch.cat([found.positive[:, channel], found.negative[:, channel]][: 1 if symmetric else 2])
        np.testing.assert_allclose(own.numpy(), expected, atol=1e-5)


def test_one_term_is_the_conditional_mean_and_repeated_terms_have_a_finite_fit():
    weight = torch.tensor([[1.0, -3.0, 0.2]])
    codes = torch.tensor([[[1, -1, 0]]], dtype=torch.int8)
    assert frozen_levels(weight, codes).positive.item() == pytest.approx(2.0)
    twice = frozen_levels(weight, codes.expand(2, 1, 3))
    torch.testing.assert_close(twice.dequantize(), torch.tensor([[2.0, -2.0, 0.0]]))


def test_the_gradient_of_frozen_levels_is_a_projection():
    torch.manual_seed(0)
    weight = torch.randn(5, 7, requires_grad=True)
    codes = multilevel(weight.detach(), 2).codes
    gradient = torch.randn(5, 7)
    frozen_levels(weight, codes).dequantize().backward(gradient)
    basis = codes.flatten(1).double().numpy().T
    projector = basis @ np.linalg.pinv(basis)
    np.testing.assert_allclose(weight.grad.flatten().numpy(), projector @ gradient.flatten().numpy(), atol=1e-5)


@examples(20)
@given(st.integers(0, 99), st.integers(1, 3))
def test_every_weight_has_the_nearest_sum_and_masked_ones_zero(seed, terms):
    random = torch.Generator().manual_seed(seed)
    weight, mask = torch.randn(4, 9, generator=random), torch.rand(4, 9, generator=random) > 0.3
    found = multilevel(weight, terms, mask=mask)
    assert not found.codes[:, ~mask].any()
    assert (found.positive >= 0).all()
    assert torch.equal(multilevel(torch.where(mask, weight, 7.0), terms, mask=mask).codes, found.codes)


def test_callback_trains_freezes_and_is_loadable(fit, tmp_path):
    own = TernaryCallback("multilevel", options={"terms": 2}, verbose=False, freeze=0.6)
    trainer, net = fit(own, MultiLevelActivation(2), Save(tmp_path))
    assert trainer.callback_metrics["ternary/sparsity"] > 0
    plain = Net.load_from_checkpoint(tmp_path / "epoch4.ckpt")
    for path, layer in ternary_layers(net).items():
        found = layer.ternary()
        assert found.terms == 2
        assert torch.equal(found.dequantize(), plain.get_submodule(path).weight.detach())
        assert len(plain.get_submodule(path).weight.abs().unique()) <= 5
    early = torch.load(tmp_path / "step13.ckpt", weights_only=True)["callbacks"][own.state_key]["codes"]["hidden"]
    assert torch.equal(net.hidden.ternary().codes, early)


def brute_digits(x, levels, signed):
    out = []
    for level in levels:
        digit = 1 if x > level / 2 else -1 if signed and x < -level / 2 else 0
        out.append(digit)
        x = x - level * digit
    return out


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6), st.booleans())
def test_activation_digits(values, signed):
    levels = [1.0, 0.5, 0.25]
    found = activation_digits(torch.tensor(values), torch.tensor(levels), signed)
    assert found.T.tolist() == [brute_digits(x, levels, signed) for x in values]


def test_equal_levels_are_uniform_rounding():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 2
    found = multilevel_activation(x, torch.full((3,), 0.5))
    torch.testing.assert_close(found, (x / 0.5 - 1e-6).round().clamp(0, 3) * 0.5)


def test_activation_gradients():
    x = torch.tensor([-0.5, 0.2, 0.6, 1.2, 2.0], requires_grad=True)
    levels = torch.tensor([1.0, 0.5], requires_grad=True)
    multilevel_activation(x, levels).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert levels.grad.tolist() == activation_digits(x.detach(), levels.detach()).sum(1).tolist() == [3.0, 1.0]
    x.grad = None
    multilevel_activation(x, levels.detach(), signed=True).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def activations(**options):
    return MultiLevelActivation(**{"terms": 2, "learning_rate": 0.01, "signed": True, **options})


def test_trained_levels_and_resume(fit, make_net, tmp_path):
    trainer, net = fit(activations(), Save(tmp_path))
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    hook = next(h for h in net.hidden._forward_pre_hooks.values() if isinstance(h, MultiLevelInput))
    first = torch.load(tmp_path / "step1.ckpt", weights_only=True)["callbacks"][activations().state_key]["hidden"]
    assert not torch.equal(first["value"], hook.value.detach())
    assert first["value"][0] == pytest.approx(2 * first["value"][1].item())
    assert net.state_dict().keys() == Net().state_dict().keys()
    for name in ("step1", "step6", "val1", "step18"):
        trainer, net = fit(activations(), net=make_net(), ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(everything(trainer, net, tmp_path / "again.ckpt"), expected, name)


def test_products_by_brute_force():
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1, stride=2)
    layer = swap(conv, LayerState(get_quantizer("multilevel", terms=2, iterations=0), 0, "ternary"))
    x = torch.relu(torch.randn(1, 2, 5, 5))
    active = activation_digits(x, torch.tensor([1.0, 0.5]))
    found = count_products(layer, multilevel_activation(x, torch.tensor([1.0, 0.5])), (active != 0).sum(0), 2)
    codes, y = layer.ternary().codes, multilevel_activation(x, torch.tensor([1.0, 0.5]))
    value = layer.ternary().dequantize()
    macs = words = effective = 0
    for o, i, r, c, kr, kc in itertools.product(range(3), range(2), range(3), range(3), range(3), range(3)):
        row, column = 2 * r + kr - 1, 2 * c + kc - 1
        if not (0 <= row < 5 and 0 <= column < 5):
            continue
        macs += 1
        words += int(value[o, i, kr, kc] != 0 and y[0, i, row, column] != 0)
        effective += int((codes[:, o, i, kr, kc] != 0).sum()) * int((active[:, 0, i, row, column] != 0).sum())
    assert found == SpeedUp(macs, words, 4 * macs, effective)
    assert found.word == macs / words
    assert found.bit == 4 * macs / effective
    assert found.published == 4 * macs / words


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 4), nn.ConvTranspose2d(3, 2, 2, stride=2), nn.Conv1d(4, 4, 3, groups=2)]
)
def test_macs_of_dense_layers(layer):
    shape = {nn.Linear: (5, 6), nn.ConvTranspose2d: (1, 3, 4, 4), nn.Conv1d: (2, 4, 9)}[type(layer)]
    found = count_products(layer, torch.rand(shape) + 1)
    expected = {nn.Linear: 5 * 24, nn.ConvTranspose2d: 16 * 24, nn.Conv1d: 2 * 7 * 24}[type(layer)]
    assert found == SpeedUp(expected, expected, expected, expected)
    assert found.word == found.bit == found.published == 1


def test_measured_on_real_activations(fit):
    _, net = fit(TernaryCallback("multilevel", verbose=False), activations(signed=False))
    net.eval()
    found = measure_speedup(net, [samples(8)[0], samples(8)[0]])
    assert set(found) == set(ternary_layers(net))
    once = measure_speedup(net, [samples(8)[0]])
    whole = sum(found.values(), SpeedUp(0, 0, 0, 0))
    assert whole.macs == 2 * sum(one.macs for one in once.values())
    for path, one in found.items():
        assert one.bit >= one.word >= 1, path
        assert one.digits == 4 * one.macs
    hook = next(h for h in net.hidden._forward_pre_hooks.values() if isinstance(h, MultiLevelInput))
    assert hook.last is None
    assert not net.hidden._forward_hooks
    # The same layer by hand: every product of a digit of the weight and one of the activation.
    seen = []
    handle = net.hidden.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    net(samples(8)[0])
    handle.remove()
    value, codes = hook.value.detach(), net.hidden.ternary().codes
    digits = torch.tensor(list(itertools.product((0, 1), repeat=len(value))), dtype=torch.float32)
    nearest = (seen[0].flatten()[:, None] - digits @ value).abs().min(1)
    assert float(nearest.values.max()) < 1e-5
    active = digits[nearest.indices].sum(1).reshape(-1, codes.shape[-1])
    assert once["hidden"].effective == int((active @ (codes != 0).sum(0).float().T).sum())


@pytest.mark.parametrize("options", [{"terms": 0}, {"terms": 5}, {"factor": -1.0}, {"iterations": -1}])
def test_errors(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        get_quantizer("multilevel", **options)
    with pytest.raises(ValueError, match="terms must be at least 1, got 0"):
        MultiLevelActivation(0)
    with pytest.raises(ValueError, match="learning_rate"):
        MultiLevelActivation(learning_rate=-1.0)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_closed_pseudoinverse_is_the_general_one(columns, n, seed):
    basis = torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, (5, columns, n))).double()
    gram = basis @ basis.mT
    torch.testing.assert_close(pseudoinverse(gram), torch.linalg.pinv(gram, hermitian=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("per_channel", [False, True])
def test_equal_levels_leave_zero_weights_and_pruned_ones_without_code(per_channel):
    # Two terms of one level have several ways to say zero.
    rows = torch.tensor([[0.0, 2.0, -2.0, 0.0, 1.0, -1.0]]).expand(3, 6)
    rows, channels = (rows, 3) if per_channel else (rows.reshape(1, -1), 1)
    codes = nearest(torch.ones(2, channels)).codes(rows)
    total = codes.sum(0).reshape(3, 6)
    torch.testing.assert_close(total.float(), rows.reshape(3, 6))
    assert (codes.reshape(2, 3, 6)[:, :, [0, 3]] == 0).all()


@pytest.mark.parametrize("per_channel", [False, True])
def test_levels_do_not_depend_on_where_the_weight_lies(per_channel):
    weight = torch.randn(7, 1000)
    codes = (torch.randint(0, 3, weight.shape) - 1).to(torch.int8)
    expected = frozen_levels(weight, codes, per_channel=per_channel).positive
    for offset in range(1, 20):
        moved = torch.empty(weight.numel() + offset)[offset:].view_as(weight).copy_(weight)
        assert torch.equal(frozen_levels(moved, codes, per_channel=per_channel).positive, expected)
