"""The table of presets holds together."""

import dataclasses

import pytest
import torch

import tern_lightning


@pytest.mark.parametrize("name", tern_lightning.presets())
def test_recipes_are_consistent(name):
    one = tern_lightning.preset(name)
    recipe = one.recipe
    assert one.name == name
    assert recipe.optimizer is None or issubclass(getattr(torch.optim, recipe.optimizer), torch.optim.Optimizer)
    assert len(recipe.milestones or ()) == len(recipe.factors or ())
    assert list(recipe.milestones or ()) == sorted(set(recipe.milestones or ()))
    assert all(milestone < recipe.epochs for milestone in recipe.milestones or ())
    if recipe.epochs is not None and one.freeze is not None:
        assert one.freeze < recipe.epochs
    text = str(one)
    assert one.paper in text
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        assert f"{field.name}: {'not published' if value is None else value}" in text
    assert dataclasses.is_dataclass(one)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.method = "twn"
