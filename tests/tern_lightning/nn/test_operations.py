"""Operations of whole networks."""

import pytest
import torch
from torch import nn

from tern_lightning.functional.operations import OperationCount, count_operations
from tern_lightning.metrics import Operations
from tern_lightning.nn.layer_state import LayerState
from tern_lightning.nn.operations import module_operations
from tern_lightning.nn.swap import swap
from tern_lightning.quantizers import get_quantizer


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
