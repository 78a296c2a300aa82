"""Sparsity of channels and groups, by hand."""

import numpy as np
import pytest

from tern_lightning.functional.structure import channel_sparsity, group_sparsity, sign_balance
from tests.tern_lightning.random_ternary import random_ternary


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
