"""The table of presets holds together."""

import dataclasses

import pytest
import torch

import tern_lightning
from tern_lightning.recipes.preset import Result


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
    assert text.count("published: ") == len(one.results)
    for result in one.results:
        assert (result.accuracy is None) == (result.float_accuracy is None) == (result.lost is not None)
        assert str(result) in text
    assert dataclasses.is_dataclass(one)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.method = "twn"


def test_published_accuracies_are_those_that_the_abstracts_summarize():
    """He and others (WACV 2019): ResNet-32, 44 and 56 gain 0.12, 0.24 and 0.18 points on CIFAR-10."""
    results = tern_lightning.preset("sws-cifar10").results
    gains = {one.network: round(one.accuracy - one.float_accuracy, 2) for one in results}
    assert gains == {"ResNet-20": -0.05, "ResNet-32": 0.12, "ResNet-44": 0.24, "ResNet-56": 0.18}


def test_a_result_in_words():
    assert str(Result("N", "D", 90.0, 91.25, where="table 1")) == "N on D: 90.00 % (float 91.25 %), table 1"
    assert str(Result("N", "D", lost=-0.36)) == "N on D: 0.36 points more than float"
    assert str(Result("N", "D", lost=2.0, where="abstract")) == "N on D: 2.00 points less than float, abstract"


def test_full_quantization_and_the_papers_own_pruning():
    bcgd = {type(one).__name__: one for one in tern_lightning.preset("bcgd-cifar10").callbacks(verbose=False)}
    assert set(bcgd) == {"TernaryCallback", "BCGD", "CoarseActivation"}
    assert bcgd["CoarseActivation"].bits == 4
    [slr] = tern_lightning.preset("slr-pruning").callbacks()
    assert (slr.settings.rho, slr.settings.m, slr.settings.r) == (0.1, 300.0, 0.1)


@pytest.mark.parametrize("name", ["binary", "binaryrelax"])
def test_binary_weights_are_refused_with_a_reason(name):
    with pytest.raises(ValueError, match=f"method '{name}' is not one of .*binary weights have no zeros"):
        tern_lightning.TernaryCallback(name)
