"""Losses of distillation against numpy."""

import numpy as np
import pytest
import torch

from tern_lightning.functional import attention_map, attention_transfer, hint, output_distance, soft_targets


def pair(*shape):
    random = np.random.default_rng(len(shape))
    return random.normal(size=shape).astype(np.float32), random.normal(size=shape).astype(np.float32)


def softmax(x, axis):
    raised = np.exp(x)
    return raised / raised.sum(axis, keepdims=True)


@pytest.mark.parametrize(("shape", "axis"), [((6, 5), 1), ((2, 7, 5), -1), ((2, 5, 3, 4), 1)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets(shape, axis, temperature):
    s, t = pair(*shape)
    q, p = softmax(s.astype(float) / temperature, axis), softmax(t.astype(float) / temperature, axis)
    expected = temperature**2 * (p * np.log(p / q)).sum(axis).mean()
    found = soft_targets(torch.tensor(s), torch.tensor(t), temperature, axis)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_soft_targets_of_equal_logits_are_zero_and_so_is_the_gradient():
    s = torch.randn(4, 3, requires_grad=True)
    loss = soft_targets(s, s.detach().clone(), 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert s.grad is not None
    assert s.grad.abs().max() < 1e-6


def test_the_gradient_does_not_shrink_with_the_temperature():
    """Section 2 of the paper: for high temperatures it is the difference of logits, over the number of classes."""
    a, b = pair(1, 5)
    s, t = torch.tensor(a, requires_grad=True), torch.tensor(b)
    soft_targets(s, t, 1000.0).backward()
    difference = (a - a.mean()) - (b - b.mean())
    np.testing.assert_allclose(s.grad.numpy(), difference / 5, rtol=1e-2, atol=2e-3)


def test_half_precision_is_computed_in_float32():
    s, t = (torch.tensor(x).bfloat16() for x in pair(6, 5))
    assert soft_targets(s, t, 2.0).dtype == torch.float32
    torch.testing.assert_close(soft_targets(s, t, 2.0), soft_targets(s.float(), t.float(), 2.0))


def test_hint_and_output_distance():
    s, t = pair(3, 4, 2, 2)
    mean = ((s.astype(float) - t) ** 2).mean()
    assert output_distance(torch.tensor(s), torch.tensor(t)).item() == pytest.approx(mean, rel=1e-5)
    assert hint(torch.tensor(s), torch.tensor(t)).item() == pytest.approx(mean / 2, rel=1e-5)


def test_attention():
    s, t = pair(3, 4, 2, 5)
    maps = []
    for features in (s, t[:, :2]):
        raw = (features.astype(float) ** 2).sum(1).reshape(3, 10)
        maps.append(raw / np.sqrt((raw**2).sum(1, keepdims=True)))
    np.testing.assert_allclose(attention_map(torch.tensor(s)).numpy(), maps[0], rtol=1e-5)
    np.testing.assert_allclose(attention_map(torch.tensor(s.reshape(3, 4, 10))).numpy(), maps[0], rtol=1e-5)
    expected = 0.5 * ((maps[0] - maps[1]) ** 2).sum(1).mean()
    assert attention_transfer(torch.tensor(s), torch.tensor(t[:, :2])).item() == pytest.approx(expected, rel=1e-5)
    own = torch.tensor(s, requires_grad=True)
    attention_transfer(own, torch.tensor(s)).backward()
    assert own.grad.isfinite().all()  # the distance without its square has no gradient at zero


def test_what_cannot_be_compared():
    for loss in (soft_targets, hint, output_distance):
        with pytest.raises(ValueError, match=r"same shape, got \(2, 3\) and \(2, 4\)"):
            loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"class_axis must be an axis of logits of the shape \(3,\), got 1"):
        soft_targets(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0"):
        soft_targets(torch.zeros(2, 3), torch.zeros(2, 3), 0.0)
    with pytest.raises(ValueError, match=r"with positions, got the shape \(2, 3\)"):
        attention_map(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"same shape, got \(2, 4\) and \(2, 9\)"):
        attention_transfer(torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 3, 3))
