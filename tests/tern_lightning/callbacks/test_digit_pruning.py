"""Pruning digits of weights of several terms, the last term first."""

import numpy as np
import pytest
import torch
from torch import nn

from tern_lightning import SLR, AccuracyGuidedPruning, PruningSchedule, TernaryCallback, export
from tern_lightning.functional import sws, twn
from tern_lightning.functional.multilevel import limit_terms, multilevel
from tern_lightning.functional.patterns import digit_sizes, keep_digits
from tern_lightning.functional.residual import residual_terms
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.ternary_layers import effective_weight, ternary_layers
from tern_lightning.nn.weight_mask import WeightMask, mask_of, prune, weight_mask
from tern_lightning.quantizers import get_quantizer
from tern_lightning.schedules import Schedule
from tests.tern_lightning.training_nets import Net, Save, samples
from tests.tern_lightning.training_runs import assert_same, everything

LAYERS = ("body.0", "body.3", "hidden")


def weight(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_order_is_that_of_a_sorted_list():
    """Against sorting all digits one by one: pruned ones, then terms from the last, then magnitudes."""
    random = np.random.default_rng(0)
    for trial in range(30):
        sizes = [torch.from_numpy(random.random((terms, 3, 4)).astype(np.float32)) for terms in (3, 1, 2)]
        limits = [torch.from_numpy(random.integers(0, len(s) + 1, s.shape[1:]).astype(np.int8)) for s in sizes]
        amount = trial / 29
        found = keep_digits(sizes, amount, limits)
        total = sum(size.numel() for size in sizes)
        digits = sorted(
            (limit[i, j].item() > t, -t, size[t, i, j].item(), w, t, i, j)
            for w, (size, limit) in enumerate(zip(sizes, limits, strict=True))
            for t in range(len(size))
            for i in range(3)
            for j in range(4)
        )
        expected = [limit.clone() for limit in limits]
        for *_, w, t, i, j in digits[: round(amount * total)]:
            expected[w][i, j] = min(expected[w][i, j].item(), t)
        for own, right in zip(found, expected, strict=True):
            assert torch.equal(own, right)
    with pytest.raises(ValueError, match="amount must be"):
        keep_digits([weight(2, 3, 4).abs()], 1.5)


def test_sizes_are_those_of_residuals():
    w = weight(6, 20)
    found = residual_terms(w, 3, twn)
    rest = w.numpy()
    for t, size in enumerate(digit_sizes(w, found)):
        np.testing.assert_allclose(size.numpy(), abs(rest), atol=1e-6)
        rest = rest - found.positive[t].item() * found.codes[t].numpy()


def test_one_term_that_is_left_is_plain_ternarization():
    """The first term of residual TWN is TWN, and its least-squares level the conditional mean."""
    w = weight(8, 30)
    one = limit_terms(w, residual_terms(w, 2, twn), torch.ones_like(w, dtype=torch.int8))
    assert torch.equal(one.codes[0], twn(w).codes[0])
    assert not one.codes[1].any()
    torch.testing.assert_close(one.dequantize(), twn(w).dequantize())


@pytest.mark.parametrize("per_channel", [False, True])
def test_levels_are_least_squares(per_channel):
    w = weight(4, 50)
    limit = torch.randint(0, 3, w.shape, generator=torch.Generator().manual_seed(1)).to(torch.int8)
    found = limit_terms(w, multilevel(w, per_channel=per_channel), limit)
    assert not found.codes[1][limit < 2].any()
    assert not found.codes[0][limit < 1].any()
    rows = [slice(c, c + 1) for c in range(4)] if per_channel else [slice(None)]
    for i, row in enumerate(rows):
        basis = found.codes[:, row].flatten(1).T.double().numpy()
        right = np.linalg.lstsq(basis, w[row].flatten().double().numpy(), rcond=None)[0]
        np.testing.assert_allclose(found.positive[:, i].numpy(), right, rtol=1e-5)


def test_nested_terms_stay_nested():
    w = weight(10, 40)
    limit = torch.randint(0, 5, w.shape, generator=torch.Generator().manual_seed(1)).to(torch.int8)
    found = limit_terms(w, sws(w, 0.05, terms=4), limit)
    for first, second in zip(found.codes[:-1], found.codes[1:], strict=True):
        assert not (second[first == 0]).any()
    assert (found.positive > 0).all()


def test_layer_and_gradient():
    state = LayerState(get_quantizer("multilevel"), 0, "ternary", mask=WeightMask())
    latent = weight(5, 12).requires_grad_()
    limit = torch.randint(0, 3, latent.shape, generator=torch.Generator().manual_seed(1)).to(torch.int8)
    state.mask.set("me", limit)
    state.mask.set("other", torch.arange(60).reshape(5, 12) % 7 != 0)
    values = state.values(latent)
    assert torch.equal(values, state.ternary(latent.detach()).dequantize())
    assert torch.equal(state.mask.keep, (limit > 0) & (torch.arange(60).reshape(5, 12) % 7 != 0))
    values.backward(slope := weight(5, 12, seed=3))
    assert torch.equal(latent.grad, slope * state.mask.keep)
    assert not state.ternary(latent).codes[1][limit < 2].any()
    # A method of one term knows kept and pruned only.
    single = LayerState(get_quantizer("twn"), 0, "ternary", mask=state.mask)
    assert torch.equal(single.ternary(latent).codes[0], twn(latent.detach(), mask=state.mask.keep).codes[0])


def test_masks_take_int8_parts():
    layer = nn.Linear(3, 2)
    prune(layer, torch.tensor([[2, 1, 0], [2, 2, 2]], dtype=torch.int8), "a")
    prune(layer, torch.tensor([[1, 2, 2], [2, 2, 0]], dtype=torch.int8), "b")
    assert weight_mask(layer).limit.tolist() == [[1, 1, 0], [2, 2, 0]]
    assert mask_of(layer).tolist() == [[True, True, False], [True, True, False]]
    assert not layer.weight[~mask_of(layer)].any()
    prune(layer, None, "a")
    prune(layer, None, "b")
    assert weight_mask(layer).limit is None
    with pytest.raises(TypeError, match="bool or int8"):
        prune(layer, torch.ones(2, 3), "a")


def callbacks(amount, scope="global", method="multilevel", **options):
    ramp = Schedule("linear", 0.0, 0.5)
    own = {"terms": 2, **options}
    return [
        TernaryCallback(method, options=own, start=1, freeze=0.8, bn_batches=2, verbose=False),
        PruningSchedule(amount, scope, ramp, pattern="digit", every=2),
    ]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("amount", [0.3, 0.5, 0.8])
def test_schedule_prunes_the_last_term_first(amount, scope, fit):
    trainer, net = fit(*callbacks(amount, scope), max_epochs=6)
    parts = {path: weight_mask(net.get_submodule(path)).limit for path in LAYERS}
    total = sum(part.numel() for part in parts.values())
    left = sum(int(part.sum()) for part in parts.values())
    assert left == pytest.approx((1 - amount) * 2 * total, abs=3)
    first = sum(int((part > 0).sum()) for part in parts.values())
    assert first == (total if amount <= 0.5 else pytest.approx(2 * (1 - amount) * total, abs=3))
    for path, layer in ternary_layers(net).items():
        found = layer.ternary()
        assert not found.codes[1][parts[path] < 2].any()
        if scope == "layer":
            assert int(parts[path].sum()) == pytest.approx((1 - amount) * 2 * parts[path].numel(), abs=1)
    assert trainer.callback_metrics["pruning/digits"] >= amount - 0.01
    plain = Net()
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(plain.eval()(samples()[0]), net.eval()(samples()[0]))


@pytest.mark.parametrize("method", ["multilevel", "sws", "twn"])
def test_resumed_runs_are_equal(method, fit, make_net, tmp_path):
    trainer, net = fit(*callbacks(0.7, method=method), Save(tmp_path), max_epochs=6)
    expected = everything(trainer, net, tmp_path / "end.ckpt")
    for name in ("step2", "step7", "val3", "step22"):
        other = make_net()
        nn.init.ones_(other.hidden.weight)
        again, net = fit(*callbacks(0.7, method=method), net=other, ckpt_path=tmp_path / f"{name}.ckpt", max_epochs=6)
        assert_same(everything(again, net, tmp_path / "again.ckpt"), expected, name)


def test_guided_pruning_of_digits(fit):
    """A tolerance that nothing violates ends at the largest amount; one that everything violates at the natural one."""
    for tolerance, mode in ((1e9, "min"), (0.0, "max")):
        ternary = TernaryCallback("multilevel", freeze=None, verbose=False)
        own = AccuracyGuidedPruning(
            "val_loss", tolerance, mode, step=0.2, min_step=0.15, epochs=1, max_amount=0.9, pattern="digit"
        )
        _, net = fit(ternary, own, max_epochs=12)
        codes = torch.cat([layer.ternary().codes.flatten() for layer in ternary_layers(net).values()])
        share = (codes == 0).float().mean().item()
        if mode == "min":
            assert own.loop.finished
            assert share >= 0.9 - 0.01
            assert not any(layer.ternary().codes[1].any() for layer in ternary_layers(net).values())
        else:
            assert share == pytest.approx(own.loop.good, abs=0.02)


def test_export(fit, tmp_path):
    _, net = fit(*callbacks(0.7), max_epochs=4)
    found = export(net.eval(), tmp_path / "out", samples=samples(8)[0], activations="float32", onnx_only=True)
    for path in LAYERS:
        assert torch.equal(found.network.ternary[path].dequantize(), effective_weight(net.get_submodule(path)))


def test_where_it_cannot_be():
    with pytest.raises(ValueError, match="got 'digit'"):
        SLR("sparsity", 0.5, pattern="digit")
    with pytest.raises(ValueError, match="pattern must be"):
        PruningSchedule(0.5, pattern="digits")
