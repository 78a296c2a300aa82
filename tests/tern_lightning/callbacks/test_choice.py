"""Which weights pruning takes first, against sorting."""

import pytest
import torch
from torch import nn

from tern_lightning.callbacks._choice import Choice
from tern_lightning.callbacks._masking import Target


def targets():
    """Two layers, the weights of the second ten times as large."""
    first, second = nn.Linear(6, 4), nn.Linear(8, 3)
    second.weight.data = 10 * torch.randn(3, 8)
    return [Target("first", first), Target("second", second)]


def test_layers_are_compared_with_each_other_or_not():
    both = targets()
    apart = Choice("layer", "element").keep(both, 0.5)
    assert [int(apart[t.path].sum()) for t in both] == [12, 12]
    together = Choice("global", "element").keep(both, 0.5)
    sizes = torch.cat([t.weight.detach().abs().flatten() for t in both])
    limit = sizes.sort(descending=True).values[23]
    for target in both:
        assert torch.equal(together[target.path], target.weight.detach().abs() >= limit)
    assert int(together["second"].sum()) > 12


def test_given_values_take_the_place_of_the_weights():
    both = targets()
    values = [torch.arange(t.weight.numel(), dtype=torch.float32).reshape(t.weight.shape) for t in both]
    found = Choice("layer", "element").keep(both, 0.25, values)
    for target, value in zip(both, values, strict=True):
        assert torch.equal(found[target.path], value >= 6)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 4), (0.5, 3), (1.0, 2)])
def test_the_way_from_m_to_n(share, kept):
    choice = Choice("global", "2:4")
    assert choice.n_of_m == (2, 4)
    found = choice.keep(targets()[1:], share)["second"]
    assert (found.reshape(3, 2, 4).sum(2) == kept).all()


def test_blocks_go_as_a_whole():
    (target,) = targets()[:1]
    found = Choice("layer", "block", (2, 3)).keep([target], 0.5)["first"]
    blocks = found.reshape(2, 2, 2, 3).movedim(2, 1).flatten(2)
    assert torch.equal(blocks.any(2), blocks.all(2))
    norms = target.weight.detach().reshape(2, 2, 2, 3).movedim(2, 1).flatten(2).square().sum(2)
    assert norms[blocks.all(2)].min() > norms[~blocks.all(2)].max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "all"}, "scope must be 'global' or 'layer', got 'all'"),
        ({"pattern": "rows"}, "pattern must be"),
        ({"pattern": "4:2"}, "0 < n < m, got '4:2'"),
        ({"pattern": "block", "group": (0, 1)}, "group must be two sizes"),
        ({"group": (2, 2)}, "group is for pattern 'block'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Choice(**{"scope": "layer", "pattern": "element", **options})
