"""Presets by name."""

import pytest

import tern_lightning
from tern_lightning import TernaryCallback


def test_unknown_names_have_near_misses():
    with pytest.raises(ValueError, match=r"got 'ec2t-cifar'; near misses: \['ec2t-cifar10'"):
        tern_lightning.preset("ec2t-cifar")
    with pytest.raises(ValueError, match="there are"):
        TernaryCallback.from_preset("zzzzzz")
    with pytest.raises(ValueError, match="freeze must be"):
        TernaryCallback.from_preset("twn", freeze="never")
    with pytest.raises(ValueError, match="options of method 'twn' must be among"):
        TernaryCallback.from_preset("twn", options={"facto": 1.0})


def test_names_print_as_a_table_with_every_published_accuracy():
    names = tern_lightning.presets()
    assert names == sorted(names)
    text = " ".join(str(names).split())
    for name in names:
        one = tern_lightning.preset(name)
        assert name in text
        assert all(result.reached in text for result in one.results)
    assert "91.65 % (float 91.70 %)" in text
    assert "3.90 points less than float" in text
