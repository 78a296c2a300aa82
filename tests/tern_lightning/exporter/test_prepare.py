"""Which float weights count as ternary, and what is refused before anything is written."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tern_lightning.exporter.errors import ExportError
from tern_lightning.exporter.prepare import check_finite, check_not_empty, find_ternary, from_values, plain_copy
from tern_lightning.ternary_tensor import TernaryTensor


@pytest.mark.parametrize(
    ("rows", "columns", "levels", "ternary"),
    [
        (2, 3, 2, True),  # three weights a channel
        (2, 2, 2, False),
        (8, 2, 2, False),
        (4, 2, 1, True),  # eight weights with one level
        (7, 1, 1, False),
        (8, 1, 1, True),
        (2, 3, 1, True),
    ],
)
def test_equal_values_are_evidence_where_there_are_enough(rows: int, columns: int, levels: int, ternary: bool) -> None:
    signs = torch.tensor([1.0, -1.0, 0.0, 1.0]).repeat(rows * columns)[: rows * columns].reshape(rows, columns)
    signs[:, 0] = 1.0
    weight = signs * (torch.arange(rows)[:, None] % levels + 1)
    for axis in (0, 1):
        found = from_values(weight if axis == 0 else weight.T.contiguous(), axis)
        assert (found is not None) == ternary
        if found is not None:
            assert found.channel_axis == axis
            torch.testing.assert_close(found.dequantize(), weight if axis == 0 else weight.T)


def test_many_values_are_no_ternary_weight() -> None:
    assert from_values(torch.arange(24.0).reshape(4, 6), 0) is None


def test_given_weights_come_before_values() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    nn.init.constant_(net[2].weight, 0.5)
    level = torch.tensor([[2.0]])
    given = TernaryTensor(torch.ones(1, 4, 3, dtype=torch.int8), level, level)
    assert set(find_ternary(net)) == {"2"}
    found = find_ternary(net, {"0": given})
    assert set(found) == {"0", "2"}
    assert found["0"].positive.tolist() == [[2.0]]
    twin = plain_copy(net, {"0": given})
    assert twin is not net
    assert not twin.training
    assert twin[0].weight.tolist() == [[2.0] * 3] * 4
    assert net[0].weight.tolist() != [[2.0] * 3] * 4
    with pytest.raises(ExportError, match=r"ternary names '1', which is not"):
        plain_copy(net, {"1": given})
    with pytest.raises(ExportError, match=r"ternary\['2'\] has shape \(4, 3\), the layer's weight \(5, 4\)"):
        plain_copy(net, {"2": given})


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5])
def test_tensors_that_are_not_finite_are_named(count: int) -> None:
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(5)))
    for layer in net[:count]:
        layer.weight.data[0, 1] = torch.inf if layer is net[0] else torch.nan
    net.register_buffer("steps", torch.tensor([2**40]))
    if not count:
        check_finite(net)
        return
    with pytest.raises(ExportError) as caught:
        check_finite(net)
    assert [f"{i}.weight" in str(caught.value) for i in range(5)] == [i < min(count, 3) for i in range(5)]
    assert ("more" in str(caught.value)) == (count > 3)
    assert count < 4 or f"and {count - 3} more" in str(caught.value)


def test_buffers_count_too() -> None:
    net = nn.BatchNorm1d(3)
    net.running_mean[1] = torch.nan
    with pytest.raises(ExportError, match="running_mean"):
        check_finite(net)


def test_layers_of_zeros_are_named() -> None:
    one = torch.ones(1, 1)
    some, none = (TernaryTensor(torch.full((1, 2, 3), code, dtype=torch.int8), one, one) for code in (1, 0))
    check_not_empty({"a": some})
    with pytest.raises(ExportError, match="all weights of b, d are zero"):
        check_not_empty({"a": some, "b": none, "c": some, "d": none})
