"""What tests of methods with a threshold have in common: weights of many sizes, and the comparison with numpy."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from tern_lightning.quantizers import get_quantizer

weights = st.tuples(
    st.sampled_from([(3, 4), (4, 3, 2), (2, 3, 3, 3), (2, 2, 2, 2, 2)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.01, 1.0, 30.0]),
).map(lambda a: torch.from_numpy(np.random.default_rng(a[1]).normal(size=a[0], scale=a[2]).astype(np.float32)))


def check_values(method, reference, weight, per_channel, axis):
    """Compare codes and levels with ``reference``, which gives those of one group of weights."""
    found = get_quantizer(method, per_channel=per_channel).ternary(weight, axis)
    rows = np.moveaxis(weight.numpy().astype(np.float64), axis, 0)
    groups = rows.reshape(len(rows), -1) if per_channel else rows.reshape(1, -1)
    codes = found.codes[0].movedim(axis, 0).reshape(groups.shape).numpy()
    assert found.is_symmetric
    assert found.channel_axis == axis
    for group, own, level in zip(groups, codes, found.positive[0].tolist(), strict=True):
        expected, scale = reference(group)
        # A weight within rounding of the threshold may fall on either side.
        assert (own != expected).mean() <= (0.3 if len(group) < 10 else 0.1)
        assert (own == expected).any()
        if (own == expected).all():
            assert level == pytest.approx(scale, rel=1e-5)


FIXED = torch.tensor([[0.5, -1.5, 0.04, 2.0], [-0.6, 0.0, 1.0, -3.0]])
"""A weight on which the methods differ."""


def check_straight_through(method, clip):
    """The gradient passes where the weight is inside of the clip, and the values are those of ``ternary``."""
    weight = torch.linspace(-2.3, 2.3, 24).reshape(4, 6).requires_grad_()
    upstream = torch.randn(4, 6)
    quantizer = get_quantizer(method)
    assert quantizer.ste_clip == clip
    values = quantizer(weight)
    assert torch.equal(values, quantizer.ternary(weight.detach()).dequantize())
    values.backward(upstream)
    passed = upstream if clip is None else upstream * (weight.detach().abs() < clip)
    assert torch.equal(weight.grad, passed)
