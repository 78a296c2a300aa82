"""Methods by name: what is known, and what options are refused."""

import pytest

from tern_lightning.quantizers import Quantizer, get_quantizer, register


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match=r"one of \['absmean'.*'twn'.*got 'tnw'"):
        get_quantizer("tnw")
    with pytest.raises(ValueError, match=r"among \['factor', 'per_channel', 'ste_clip', 'terms'\], got \['beta'\]"):
        get_quantizer("twn", beta=1)
    for name, options in (
        ("twn", {"factor": -1}),
        ("absmean", {"eps": 0}),
        ("sws", {"beta": 2}),
        ("sws", {"ste_clip": 0}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*got"):
            get_quantizer(name, **options)
    with pytest.raises(ValueError, match="already registered by TWN"):
        register("twn")(type("Other", (Quantizer,), {}))


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("seq", {"eps": 0}),
        ("sherry", {"warmup": 0}),
        ("hestia", {"temperature": 0}),
        ("hestia", {"end": 0.1}),
    ],
)
def test_options(method, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*got {next(iter(options.values()))}"):
        get_quantizer(method, **options)
